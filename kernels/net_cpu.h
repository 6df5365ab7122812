#pragma once
#include "losses.h"
#include "net.h"
// The fused pass over a whole batch on the CPU: chunks of samples, handed out to any number of threads.
//
// A chunk's sums depend on its samples alone, and chunks are added in a tree that depends on their number alone
// (tree_cpu.h), so the result is the same bits for any number of threads. What doesn't depend on the net's widths is
// compiled once and handed over as functions: a net is compiled while somebody waits.

namespace bpx {

using LoadTile = void(const void* from, i64 row, i64 column, int features, int valid, int next, void* to);
using StoreTile = void(const void* from, int features, int valid, void* to);
using AddLanes = void(const void* grads, int params, void* sums);

/// What the caller hands over. Strides are in elements; the parameters' gradients are laid out like `params`.
struct Args {
  i64 n;                        // samples
  const void* x;                // (n, in), any strides
  i64 x_row, x_column;
  const void* y;                // (n, out) numbers or (n,) int64 class indices, any strides
  i64 y_row, y_column;
  const void* weight;           // (n,) or null, any stride
  i64 weight_row;
  const void* params;           // W and b of every layer, one after another, W row by row
  const void* scalars;          // parameters of the activations, then of the loss
  double scale;                 // the gradient is multiplied by it; `losses` is not
  void* output;                 // (n, out) contiguous: forward
  void* x_grad;                 // (n, in) contiguous, if Net::input_grad
  void* sums;                   // (chunks, params): each chunk's gradients
  double* losses;               // (chunks,): each chunk's sum of weight * loss
  i64 first, last;              // chunks first .. last - 1 are to do; sums and losses begin at chunk `first`
  i64 next;                     // the next chunk to hand out; starts at `first`
  LoadTile* load_tile;          // of tiles_cpu.h
  StoreTile* store_tile;
  AddLanes* add_lanes;
  i64* stop;                    // raise it, and threads return after the chunk they are at; 2: one found no memory
};

/// What one thread works in.
template <class Net> struct Workspace {
  using S = typename Net::S;
  using Layers = typename Net::Layers;
  static constexpr int W = Shape<S>::samples, lanes = Lane<Pack<S, 1>>::width, params = Layers::params;
  static constexpr int in = First<Layers>::Type::in, out = Last<Layers>::Type::out;
  static constexpr int targets = Net::Loss::target == Target::none ? 0 : Net::Loss::target == Target::classes ? 1 : out;
  // parameters in whole registers, for add_lanes
  alignas(64) S grads[(params + lanes - 1) / lanes * lanes * lanes], x[in * W], y[(targets ? targets : 1) * W];
  alignas(64) S weight[W], factor[W], loss[W];
};

/// One chunk: its gradients and its loss.
template <class Net> void run_chunk(const Args& args, i64 chunk, Workspace<Net>& work) {
  using S = typename Net::S;
  using T = Pack<S, 1>;
  using Layers = typename Net::Layers;
  using Work = Workspace<Net>;
  constexpr int W = Work::W, lanes = Work::lanes, P = Work::params, in = Work::in, out = Work::out;
  S *const x = work.x, *const y = work.y, *const weight = work.weight, *const factor = work.factor, *const loss = work.loss;
  for (S& sum : work.grads) sum = S(0);
  T total{}, low{};  // of the loss, and what rounding took from it
  Tile<S, W> tile{(const S*)args.params, (const S*)args.scalars, y, weight, factor, W, work.grads, loss};

  const i64 begin = chunk * Net::chunk, end = begin + Net::chunk < args.n ? begin + Net::chunk : args.n;
  for (i64 at = begin; at < end; at += W) {
    const int valid = tile.valid = end - at < W ? int(end - at) : W;
    const i64 left = args.n - at - W;
    args.load_tile((const S*)args.x + at * args.x_row, args.x_row, args.x_column, in, valid,
                   left < 0 ? 0 : left < W ? int(left) : W, x);
    if constexpr (Net::Loss::target == Target::values) {
      args.load_tile((const S*)args.y + at * args.y_row, args.y_row, args.y_column, out, valid, 0, y);
    } else if constexpr (Net::Loss::target == Target::classes) {
      for (int s = 0; s < W; ++s) y[s] = s < valid ? S(((const i64*)args.y)[(at + s) * args.y_row]) : S(0);
    }
    if constexpr (Net::factors) {
      const S* const w = (const S*)args.weight;
      for (int s = 0; s < W; ++s) {
        weight[s] = w && s < valid ? w[(at + s) * args.weight_row] : S(1);
        factor[s] = weight[s] * S(args.scale);
      }
    }
    backprop<Net, W, void, 0, 0>(Layers(), tile, x, (const S*)nullptr);
    clear_rest<1, W>(loss, valid);
    T sum{};
    for (int s = 0; s < W; s += lanes) {
      const T l = load<T>(loss + s);
      sum = sum + (Net::factors ? l * load<T>(weight + s) : l);
    }
    const T both = total + sum, part = both - total;  // Knuth's TwoSum
    low = low + ((total - (both - part)) + (sum - part));
    total = both;
    if constexpr (Net::input_grad) args.store_tile(x, in, valid, (S*)args.x_grad + at * in);
  }

  args.add_lanes(work.grads, P, (S*)args.sums + (chunk - args.first) * P);
  double result = 0, rest = 0;
  for (int l = 0; l < lanes; ++l) result += total.v[l], rest += low.v[l];
  args.losses[chunk - args.first] = result - result == 0 ? result + rest : result;  // rest is NaN where result is inf
}

/// The outputs of one chunk.
template <class Net> void run_forward(const Args& args, i64 chunk) {
  using S = typename Net::S;
  using Layers = typename Net::Layers;
  constexpr int W = Shape<S>::samples, in = First<Layers>::Type::in, out = Last<Layers>::Type::out;
  alignas(64) S x[in * W], z[out * W];
  const i64 begin = chunk * Net::chunk, end = begin + Net::chunk < args.n ? begin + Net::chunk : args.n;
  for (i64 at = begin; at < end; at += W) {
    const int valid = end - at < W ? int(end - at) : W;
    args.load_tile((const S*)args.x + at * args.x_row, args.x_row, args.x_column, in, valid, 0, x);
    infer<W, 0, 0>(Layers(), (const S*)args.params, (const S*)args.scalars, x, z);
    args.store_tile(z, out, valid, (S*)args.output + at * out);
  }
}

/// Works on chunks until none is left; any number of threads may do so at once.
template <class Op> BPX_FN void for_chunks(Args* args, Op op) {
  while (!__atomic_load_n(args->stop, __ATOMIC_RELAXED)) {
    const i64 chunk = __atomic_fetch_add(&args->next, 1, __ATOMIC_RELAXED);
    if (chunk >= args->last) return;
    op(chunk);
  }
}

template <class Net> void run_backprop(Args* args) {
  void* const memory = __builtin_malloc(sizeof(Workspace<Net>) + 64);
  if (!memory) {
    __atomic_store_n(args->stop, 2, __ATOMIC_RELAXED);
    return;
  }
  auto& work = *(Workspace<Net>*)(((unsigned long long)memory + 63) / 64 * 64);
  for_chunks(args, [&](i64 chunk) { run_chunk<Net>(*args, chunk, work); });
  __builtin_free(memory);
}

}  // namespace bpx

/// The entry points for `Net`.
#define BPX_BACKPROP(NET) \
  BPX_ENTRY void bpx_backprop(bpx::Args* args) { bpx::run_backprop<NET>(args); } \
  BPX_SIZE_OF(Args) BPX_VECTOR_BYTES_ENTRY
#define BPX_FORWARD(NET)                                                                                 \
  BPX_ENTRY void bpx_forward(bpx::Args* args) {                                                          \
    bpx::for_chunks(args, [=](bpx::i64 chunk) { bpx::run_forward<NET>(*args, chunk); });                 \
  }                                                                                                      \
  BPX_SIZE_OF(Args) BPX_VECTOR_BYTES_ENTRY
