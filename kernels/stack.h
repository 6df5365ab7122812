#pragma once
#include "stack_functions.h"
#include "strip_products.h"
#include "tree_cpu.h"
// The pass for losses that contain derivatives of a net's outputs in x, for nets of any widths: compiled once for all of
// them.
//
// A tile of samples goes up and down the net as a stack of signals, strip_products.h: the signal itself and its derivatives
// along x are strips beside each other, and every product takes all of them. Activations (the chain rule, by which signals
// of a stack mix) and the equation are functions the caller gives. A chunk of samples has gradients of its own, which are
// added in a tree that depends on the number of chunks alone: the same bits for any number of threads.

namespace bpx {

using StackForward = void(i64 features, const void* t, void* z, i64 apart, const void* p);
using StackBackward = void(i64 features, void* t, const void* grad_z, i64 apart, const void* p);
using StackSlopes = void(i64 features, void* z, void* first, void* second, const void* p);
using EquationOfBlock = void(const EquationBlock*);

struct StackLayer {
  i64 inputs, outputs;
  i64 skip, before;          // the layer below whose z (of x for -1) is added to t before the activation, or else to z; or -2
  const void* weight;        // (out, in)
  const void* bias;          // (out), or null
  StackForward* forward;     // null for the identity
  StackBackward* backward;
  StackSlopes* slopes;       // what twice.h takes instead of both
  const void* p;             // the activation's parameters
  i64 grad, packed, t, z, slope;  // filled in by prepare(): where its gradients, packed weights and signals begin
};

/// One call. Strides are in elements.
struct Stack {
  i64 n, depth, signals;
  i64 output;                // the output whose first derivatives come from a backward pass, as twice.h does; or -1
  StackLayer* layers;
  const i64* axes;           // (signals): the feature of x along which it is the first derivative, or -1
  const void* x;             // (n, in)
  i64 x_row, x_column;
  const void* y;             // (n, targets)
  i64 y_row, y_column, targets;
  const void* weight;        // (n), or null
  i64 weight_row;
  double scale;              // gradients are multiplied by it; `losses` are not
  EquationOfBlock* equation;
  const void* equation_p;
  void* packed;              // room for twice the numbers of all weights
  void* x_grad;              // (n, in) contiguous, or null
  void* sums;                // (chunks, parameters): each chunk's gradients, layer by layer W and b
  double* losses;            // (chunks): each chunk's sum of weight * loss
  i64 first, last;           // chunks first .. last - 1 are to do; sums and losses begin at chunk `first`
  i64 next;                  // the next chunk to hand out; starts at `first`
  void* memory;              // `numbers` for each thread, 64-byte aligned
  i64 threads;               // that have taken theirs; starts at 0
  i64 parameters, numbers;   // filled in by prepare(): numbers of all gradients, and of a thread's memory
  i64 blocks;                // filled in by prepare(): strips of samples in a tile
};

/// Samples of a chunk; and bytes of a tile's signals, at most: a second-level cache. Measured on Zen 4: half as many are
/// 1 to 4 % slower, and twice as many are no faster.
constexpr i64 stack_chunk = 256, stack_bytes = 1 << 20;
/// Features of a strip with room behind it, so that the same feature of strip after strip isn't always in the same few
/// places of a first-level cache.
BPX_FN i64 with_room(i64 features) { return (features + 3) / 8 * 8 + 4; }

template <class S> struct StackTile {
  static constexpr int W = strip<S>;
  const Stack& m;
  S *const memory, *const scratch;
  i64 first, count, blocks;  // samples, and strips of them

  StackTile(const Stack& m, S* memory, i64 first, i64 count)
      : m(m), memory(memory), scratch(memory + m.numbers - scratch_numbers(m)), first(first), count(count), blocks((count + W - 1) / W) {}

  static i64 scratch_numbers(const Stack& m) { return (m.targets + m.layers[0].inputs + 3) * W; }
  static i64 apart(i64 features) { return with_room(features) * W; }
  /// The strips of a layer's z and of its t, which may be the same for the identity; the stack of x begins at 0.
  i64 z_apart(i64 l) const { return apart(l < 0 ? m.layers[0].inputs : m.layers[l].outputs); }
  S* z(i64 l, i64 block = 0) const { return memory + (l < 0 ? 0 : m.layers[l].z) + block * m.signals * z_apart(l); }
  S* t(i64 l, i64 block = 0) const { return memory + m.layers[l].t + block * m.signals * z_apart(l); }
  /// Packed weights, as products up and down the net read them.
  const S* up(i64 l) const { return (const S*)m.packed + m.layers[l].packed; }
  const S* down(i64 l) const { return up(l) + m.layers[l].inputs * m.layers[l].outputs; }
  /// Adds some features of so many strips to others.
  void add_rows(i64 strips, i64 features, i64 first, i64 rows, S* to, const S* from) const {
    using T = Pack<S, 1>;
    for (i64 k = 0; k < strips; ++k, to += apart(features), from += apart(features))
      for (i64 i = first * W; i < (first + rows) * W; i += panel<S>) store<T>(to + i, load<T>(to + i) + load<T>(from + i));
  }
  /// Calls op(layer) for the layers above to which z of layer l is added.
  template <class Op> void each_skip(i64 l, Op op) const {
    for (i64 above = l + 1; above < m.depth; ++above)
      if (m.layers[above].skip == l) op(above);
  }
  /// Whether z of an earlier layer is added to t of this one, or to z.
  bool adds(i64 l, bool before) const { return m.layers[l].skip >= -1 && bool(m.layers[l].before) == before; }
  /// The sample in place s of a block; places that are left over hold the last one once more.
  i64 sample(i64 block, i64 s) const {
    const i64 at = block * W + s;
    return first + (at < count ? at : count - 1);
  }

  void take_x(i64 block) {
    const i64 in = m.layers[0].inputs, apart = z_apart(-1);
    S* const to = z(-1, block);
    for (i64 s = 0; s < W; ++s) {
      const S* const from = (const S*)m.x + sample(block, s) * m.x_row;
      for (i64 i = 0; i < in; ++i) to[i * W + s] = from[i * m.x_column];
    }
    for (i64 k = 1; k < m.signals; ++k)
      for (i64 i = 0; i < in; ++i)
        for (i64 s = 0; s < W; ++s) to[k * apart + i * W + s] = S(m.axes[k] == i);
  }

  void forward(i64 l, i64 block) {
    const StackLayer& layer = m.layers[l];
    const i64 here = z_apart(l);
    strip_products(m.signals, layer.outputs, layer.inputs, up(l), z(l - 1, block), z_apart(l - 1), (const S*)layer.bias,
                   t(l, block), here, [&](i64 r, i64 rows) {
                     S *const to_t = t(l, block), *const to_z = z(l, block);
                     if (adds(l, true)) add_rows(m.signals, layer.outputs, r, rows, to_t, z(layer.skip, block));
                     if (layer.forward) layer.forward(rows, to_t + r * W, to_z + r * W, here, layer.p);
                     if (adds(l, false)) add_rows(m.signals, layer.outputs, r, rows, to_z, z(layer.skip, block));
                   });
  }

  /// Puts the gradients in place of the outputs; returns the sum of the losses.
  double equation(i64 block) {
    const i64 last = m.depth - 1, targets = m.targets, in = m.layers[0].inputs;
    S *const y = scratch, *const x_grad = y + targets * W, *const weight = x_grad + in * W, *const factor = weight + W;
    S *const losses = factor + W;
    for (i64 s = 0; s < W; ++s) {
      const i64 at = sample(block, s);
      for (i64 k = 0; k < targets; ++k) y[k * W + s] = ((const S*)m.y)[at * m.y_row + k * m.y_column];
      weight[s] = m.weight ? ((const S*)m.weight)[at * m.weight_row] : S(1);
      factor[s] = weight[s] * S(m.scale);
    }
    for (i64 i = 0; i < in * W; ++i) x_grad[i] = S(0);
    const i64 left = count - block * W, have = left < W ? left : W;
    const bool twice = m.output >= 0;
    const EquationBlock points{have, z(-1, block), y, weight, factor, z(last, block), z_apart(last), twice ? 1 : m.signals,
                               m.layers[last].outputs, twice ? z(-1, block) + z_apart(-1) : nullptr, in, x_grad, losses,
                               m.equation_p};
    m.equation(&points);
    double total = 0;
    for (i64 s = 0; s < have; ++s) {
      total += double(losses[s]);
      for (i64 i = 0; m.x_grad && i < in; ++i) ((S*)m.x_grad)[sample(block, s) * in + i] = x_grad[i * W + s];
    }
    return total;
  }

  /// The gradients in t of some features of a layer, in its place, from those in z.
  void through(i64 l, i64 block, i64 r, i64 rows) {
    const StackLayer& layer = m.layers[l];
    if (layer.backward) layer.backward(rows, t(l, block) + r * W, z(l, block) + r * W, z_apart(l), layer.p);
  }
  /// From the gradients in t of a layer those of its parameters, and those in t below, where z is lost.
  void backward(i64 l, S* grads, bool add) {
    const StackLayer& layer = m.layers[l];
    const i64 below = z_apart(l - 1), here = z_apart(l);
    outer_product(blocks * m.signals, layer.outputs, layer.inputs, t(l), here, z(l - 1), below, grads + layer.grad, add);
    if (layer.bias)
      row_sums(blocks, layer.outputs, t(l), m.signals * here, grads + layer.grad + layer.inputs * layer.outputs, add);
    if (l == 0 && !m.x_grad) return;
    const i64 strips = l ? m.signals : 1;  // of x only what isn't constant
    for (i64 b = 0; b < blocks; ++b)
      strip_products(strips, layer.inputs, layer.outputs, down(l), t(l, b), here, (const S*)nullptr, z(l - 1, b), below,
                     [&](i64 r, i64 rows) {
                       each_skip(l - 1, [&](i64 above) {
                         add_rows(strips, layer.inputs, r, rows, z(l - 1, b), m.layers[above].before ? t(above, b) : z(above, b));
                       });
                       if (l) through(l - 1, b, r, rows);
                     });
  }
  void add_x_grad() {
    const i64 in = m.layers[0].inputs;
    for (i64 at = 0; at < count; ++at)
      for (i64 i = 0; i < in; ++i) ((S*)m.x_grad)[(first + at) * in + i] += z(-1, at / W)[i * W + at % W];
  }

  double run(S* grads, bool add) {
    double total = 0;
    for (i64 b = 0; b < blocks; ++b) {
      take_x(b);
      for (i64 l = 0; l < m.depth; ++l) forward(l, b);
      total += equation(b);
      through(m.depth - 1, b, 0, m.layers[m.depth - 1].outputs);
    }
    for (i64 l = m.depth - 1; l >= 0; --l) backward(l, grads, add);
    if (m.x_grad) add_x_grad();
    return total;
  }
};

/// Where everything stands, and weights as products read them.
template <class S> void prepare(Stack& m) {
  i64 of_a_block = 0, packed = 0;
  auto room = [&](i64 features) { return m.signals * StackTile<S>::apart(features); };
  of_a_block = room(m.layers[0].inputs);
  const bool twice = m.output >= 0;
  auto of_slopes = [&](i64 features) { return twice ? StackTile<S>::apart(features) : 0; };
  auto own_t = [&](const StackLayer& layer) { return twice || layer.forward; };
  for (i64 l = 0; l < m.depth; ++l)
    of_a_block += room(m.layers[l].outputs) * (own_t(m.layers[l]) ? 2 : 1) + of_slopes(m.layers[l].outputs);
  const i64 fit = stack_bytes / (of_a_block * i64(sizeof(S))), most = stack_chunk / strip<S>;
  m.blocks = fit < 1 ? 1 : fit > most ? most : fit;
  m.parameters = 0;
  m.numbers = m.blocks * room(m.layers[0].inputs);
  for (i64 l = 0; l < m.depth; ++l) {
    StackLayer& layer = m.layers[l];
    const i64 weights = layer.inputs * layer.outputs, own = m.blocks * room(layer.outputs);
    layer.z = m.numbers, layer.t = own_t(layer) ? layer.z + own : layer.z, layer.slope = layer.t + own;
    m.numbers = layer.slope + m.blocks * of_slopes(layer.outputs);
    layer.grad = m.parameters, m.parameters += weights + (layer.bias ? layer.outputs : 0);
    layer.packed = packed, packed += 2 * weights;
    S* const to = (S*)m.packed + layer.packed;
    pack_blocks((const S*)layer.weight, layer.outputs, layer.inputs, layer.inputs, 1, to);
    pack_blocks((const S*)layer.weight, layer.inputs, layer.outputs, 1, layer.inputs, to + weights);
  }
  m.numbers = (m.numbers + StackTile<S>::scratch_numbers(m) + 15) / 16 * 16;
}

/// Works on chunks until none is left; as many threads may do so at once as have memory.
template <class Tile, class S> void run_tiles(Stack* m) {
  S* const work = (S*)m->memory + __atomic_fetch_add(&m->threads, 1, __ATOMIC_RELAXED) * m->numbers;
  for (i64 chunk; (chunk = __atomic_fetch_add(&m->next, 1, __ATOMIC_RELAXED)) < m->last;) {
    const i64 begin = chunk * stack_chunk, end = begin + stack_chunk < m->n ? begin + stack_chunk : m->n;
    double total = 0;
    for (i64 at = begin; at < end;) {
      const i64 most = m->blocks * strip<S>, count = end - at < most ? end - at : most;
      total += Tile(*m, work, at, count).run((S*)m->sums + (chunk - m->first) * m->parameters, at > begin);
      at += count;
    }
    m->losses[chunk - m->first] = total;
  }
}

}  // namespace bpx
