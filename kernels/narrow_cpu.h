#pragma once
#include "matrix_functions.h"
#include "pool_cpu.h"
#include "tiles_cpu.h"
#include "tree_cpu.h"
// The narrow pass: many samples of a small net, whose layers' products are compiled for their sizes (dense.h).
//
// Tiles of samples go through the whole net, forward, loss and backward, in the first-level cache. The batch is cut into
// chunks of tiles, which threads take one after another. A chunk's sums depend on its samples alone, and chunks are added
// in a tree that depends on their number alone (tree_cpu.h): the same bits for any number of threads. All this is compiled
// once, for nets of all sizes and functions: a net's products are compiled while somebody waits.

namespace bpx {

using Linear = void(const void* w, const void* b, const void* z_in, void* t);
using BackwardProduct = void(const void* w, const void* grad_t, const void* df, void* below);
using OuterProduct = void(const void* grad_t, const void* z, void* grads);
using ShareOut = void(void (*work)(void*), void* what, i64 threads);

struct NarrowLayer {
  i64 inputs, outputs;
  const void* weight;  // (out, in)
  const void* bias;    // (out), or null
  Linear* linear;      // of dense_cpu.h, for these sizes
  BackwardProduct* backward;
  OuterProduct* outer;
  i64 grad, bias_grad; // where the gradients of the weight and of the bias begin in Narrow::grads
  Function f;          // both null for the identity
};

/// One call. Strides are in elements; the loss is the sum of all samples' losses times their weights, without `scale`.
struct Narrow {
  i64 n, depth;                 // samples, layers
  const NarrowLayer* layers;
  const void* x;                // (n, in), any strides
  i64 x_row, x_column;
  const void* y;                // (n, out) numbers or (n,) int64 class indices, any strides
  i64 y_row, y_column;
  i64 target;                   // what y is, a Target
  const i64* rows;              // of x and y, one a sample; null: the samples' numbers
  const void* weight;           // (n,) or null, any stride
  i64 weight_row;
  double scale;                 // the gradients are multiplied by it
  TileLoss* loss;               // null: outputs alone
  const void* loss_p;
  void* grads;                  // of all parameters
  void* output;                 // (n, out) contiguous: outputs alone
  void* x_grad;                 // (n, in) contiguous, or null
  void* memory;                 // bpx_narrow_memory() numbers, 64-byte aligned
  i64 chunk, wave;              // samples of a chunk; chunks that are computed before their sums are added
  i64 threads;                  // at most
  ShareOut* share_out;          // of pool_cpu.h: all passes share the threads
  double time;                  // seconds after which it returns to the caller, who calls again
  i64 next;                     // the first chunk that is not done
  double total;                 // of the losses
};

template <class S> struct NarrowCall {
  using T = Pack<S, 1>;
  static constexpr int W = Shape<S>::samples, lanes = Lane<T>::width;
  Narrow& m;
  i64 parameters, signals;  // numbers of a gradient; of what a thread keeps of a tile
  Tree* tree;
  S *level_sums, *sums;           // of the tree; (wave, parameters)
  double *level_losses, *losses;  // of the tree; (wave)
  S* work;                  // of the threads
  i64 first, last, next, workers = 0;  // the wave's chunks, the next one to be handed out, and threads so far

  explicit NarrowCall(Narrow& m) : m(m), parameters(0), signals(0) {
    for (i64 l = 0; l < m.depth; ++l) {
      const NarrowLayer& layer = m.layers[l];
      parameters += layer.outputs * (layer.inputs + (layer.bias ? 1 : 0));
      signals += 2 * W * layer.outputs;
    }
    signals += W * (2 * m.layers[0].inputs + m.layers[m.depth - 1].outputs + 3);
    S* at = (S*)m.memory;
    tree = take<Tree>(at, 1);
    level_sums = take<S>(at, levels() * parameters);
    level_losses = take<double>(at, levels());
    sums = take<S>(at, m.wave * parameters);
    losses = take<double>(at, m.wave);
    work = at;
  }

  // ---- memory ---------------------------------------------------------------------------------------------------------

  template <class N> N* take(S*& at, i64 count) const {
    N* const here = (N*)at;
    at += room(count * i64(sizeof(N)));
    return here;
  }
  /// Numbers of S in whole registers that have room for these bytes.
  static i64 room(i64 bytes) { return (bytes + 63) / 64 * (64 / i64(sizeof(S))); }
  i64 chunks() const { return (m.n + m.chunk - 1) / m.chunk; }
  i64 levels() const {
    i64 count = 1;
    while (chunks() >> count) ++count;
    return count;
  }
  i64 threads() const { return m.threads < m.wave ? m.threads : m.wave; }
  i64 of_a_thread() const { return signals + (m.loss ? (parameters + lanes - 1) / lanes * lanes * lanes : 0); }
  i64 memory() const { return work - (S*)m.memory + threads() * of_a_thread(); }

  // ---- a chunk --------------------------------------------------------------------------------------------------------

  void one_chunk(i64 chunk, S* memory) const {
    S *const grads = memory + signals, *const weight = memory, *const factor = weight + W, *const loss = factor + W;
    S *const y = loss + W, *const x = y + W * m.layers[m.depth - 1].outputs, *const gathered = grads - W * m.layers[0].inputs;
    T total{}, low{};  // of the loss, and what rounding took from it
    for (i64 k = 0; m.loss && k < of_a_thread() - signals; k += lanes) store<T>(grads + k, T{});

    const i64 begin = chunk * m.chunk, end = begin + m.chunk < m.n ? begin + m.chunk : m.n;
    for (i64 at = begin; at < end; at += W) {
      const int valid = end - at < W ? int(end - at) : W;
      const i64 in = m.layers[0].inputs, out = m.layers[m.depth - 1].outputs, left = m.n - at - W;
      const int next = left < 0 ? 0 : left < W ? int(left) : W;
      if (m.rows) load_tile(gather(at, valid, next, gathered), in, 1, int(in), valid, 0, x);
      else load_tile((const S*)m.x + at * m.x_row, m.x_row, m.x_column, int(in), valid, next, x);
      S* const z = up(x);
      if (!m.loss) {
        store_tile(z, int(out), valid, (S*)m.output + at * out);
        continue;
      }
      load_targets(at, valid, weight, factor, y);
      m.loss(out, z, y, m.loss_p, scaled() ? factor : nullptr, loss);
      if (valid < W) clear_from<W>(loss, 1, valid);
      T sum{};
      for (int s = 0; s < W; s += lanes) {
        const T l = load<T>(loss + s);
        sum = m.weight ? fma(l, load<T>(weight + s), sum) : sum + l;
      }
      const T both = total + sum, part = both - total;  // Knuth's TwoSum
      low = low + ((total - (both - part)) + (sum - part));
      total = both;
      down(x, z, valid, grads);
      if (m.x_grad) store_tile(x, int(in), valid, (S*)m.x_grad + at * in);
    }
    if (!m.loss) return;
    add_lanes(grads, int(parameters), sums + (chunk - first) * parameters);
    double result = 0, rest = 0;
    for (int l = 0; l < lanes; ++l) result += total.v[l], rest += low.v[l];
    losses[chunk - first] = result - result == 0 ? result + rest : result;  // rest is NaN where result is inf
  }
  bool scaled() const { return m.weight || m.scale != 1.0; }

  /// The rows of x for `valid` samples from `at` on, one after another; and asks for those of the `next` ones after a tile.
  const S* gather(i64 at, int valid, int next, S* to) const {
    const i64 in = m.layers[0].inputs;
    for (int s = 0; s < next; ++s) __builtin_prefetch((const S*)m.x + m.rows[at + W + s] * m.x_row);
    for (int s = 0; s < valid; ++s) {
      const S* const from = (const S*)m.x + m.rows[at + s] * m.x_row;
      if (m.x_column == 1) {
        __builtin_memcpy(to + s * in, from, in * sizeof(S));
      } else {
        for (i64 f = 0; f < in; ++f) to[s * in + f] = from[f * m.x_column];
      }
    }
    return to;
  }
  i64 row(i64 sample) const { return m.rows ? m.rows[sample] : sample; }

  void load_targets(i64 at, int valid, S* weight, S* factor, S* y) const {
    const int out = int(m.layers[m.depth - 1].outputs);
    if (m.target == i64(Target::values) && !m.rows) {
      load_tile((const S*)m.y + at * m.y_row, m.y_row, m.y_column, out, valid, 0, y);
    } else if (m.target == i64(Target::values)) {
      for (int s = 0; s < W; ++s)
        for (int o = 0; o < out; ++o) y[o * W + s] = s < valid ? ((const S*)m.y)[row(at + s) * m.y_row + o * m.y_column] : S(0);
    } else if (m.target == i64(Target::classes)) {
      for (int s = 0; s < W; ++s) y[s] = s < valid ? S(((const i64*)m.y)[row(at + s) * m.y_row]) : S(0);
    }
    for (int s = 0; scaled() && s < W; ++s) {
      weight[s] = m.weight && s < valid ? ((const S*)m.weight)[(at + s) * m.weight_row] : S(1);
      factor[s] = weight[s] * S(m.scale);
    }
  }

  /// Each layer's outputs and derivatives, one after another behind x; returns where the last layer's stand.
  S* up(S* x) const {
    S *below = x, *z = x + W * m.layers[0].inputs;
    for (i64 l = 0; l < m.depth; ++l) {
      const NarrowLayer& layer = m.layers[l];
      const i64 numbers = W * layer.outputs;
      layer.linear(layer.weight, layer.bias, below, z);
      if (layer.f.value) m.loss ? layer.f.both(numbers, z, z, z + numbers, layer.f.p) : layer.f.value(numbers, z, z, layer.f.p);
      below = z;
      z += 2 * numbers;
    }
    return below;
  }
  /// Adds to the gradients; grad is the gradient in the last layer's outputs. Each layer's gradient in t takes the place of
  /// its outputs, and that in x the place of x.
  void down(S* x, S* grad, int valid, S* grads) const {
    const NarrowLayer& last = m.layers[m.depth - 1];
    if (last.f.value)
      for (i64 k = 0, numbers = W * last.outputs; k < numbers; k += lanes)
        store<T>(grad + k, load<T>(grad + k) * load<T>(grad + numbers + k));
    S* sum = grads + parameters * lanes;
    for (i64 l = m.depth - 1; l >= 0; --l) {
      const NarrowLayer& layer = m.layers[l];
      S* const below = l ? grad - 2 * W * layer.inputs : x;
      if (valid < W) clear_from<W>(grad, int(layer.outputs), valid), clear_from<W>(below, int(layer.inputs), valid);
      sum -= layer.outputs * (layer.inputs + (layer.bias ? 1 : 0)) * lanes;
      layer.outer(grad, below, sum);
      const bool curved = l && m.layers[l - 1].f.value;
      if (l || m.x_grad) layer.backward(layer.weight, grad, curved ? below + W * layer.inputs : nullptr, below);
      grad = below;
    }
  }

  // ---- waves of chunks ------------------------------------------------------------------------------------------------

  void take_part() {
    S* const memory = work + __atomic_fetch_add(&workers, 1, __ATOMIC_RELAXED) * of_a_thread();
    for (i64 chunk; (chunk = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < last;) one_chunk(chunk, memory);
  }
  /// Whether it is done.
  bool run() {
    const double since = seconds();
    if (m.next == 0) *tree = {parameters, 0, level_sums, level_losses};
    for (const i64 all = chunks(); m.next < all;) {
      first = next = m.next;
      last = all - first < m.wave ? all : first + m.wave;
      workers = 0;
      m.share_out([](void* call) { ((NarrowCall*)call)->take_part(); }, this, threads() < last - first ? threads() : last - first);
      if (m.loss) tree_add<S>(tree, sums, losses, last - first);
      m.next = last;
      if (last < all && seconds() - since > m.time) return false;
    }
    if (!m.loss) return true;
    m.total = tree_total<S>(tree, sums);
    hand_over(sums);
    return true;
  }
  /// The gradients of the layers, one after another in `from`, each to where it is wanted.
  void hand_over(const S* from) const {
    for (i64 l = 0; l < m.depth; ++l) {
      const NarrowLayer& layer = m.layers[l];
      const i64 numbers = layer.outputs * layer.inputs;
      __builtin_memcpy((S*)m.grads + layer.grad, from, numbers * sizeof(S));
      from += numbers;
      if (!layer.bias) continue;
      __builtin_memcpy((S*)m.grads + layer.bias_grad, from, layer.outputs * sizeof(S));
      from += layer.outputs;
    }
  }
};

}  // namespace bpx

/// What Python calls, for S = float or double: run() gives 1 when the call is done, 0 if it must be called again.
#define BPX_NARROW(S)                                                                               \
  BPX_ENTRY bpx::i64 bpx_narrow_memory(bpx::Narrow* m) { return bpx::NarrowCall<S>(*m).memory(); }  \
  BPX_ENTRY bpx::i64 bpx_narrow_run(bpx::Narrow* m) { return bpx::NarrowCall<S>(*m).run(); }        \
  BPX_SIZE_OF(NarrowLayer) BPX_SIZE_OF(Narrow)
