#pragma once
#include "batch_cuda.h"
#include "block_products.h"
#include "losses.h"
#include "net.h"
// What passes by blocks of threads (block_cuda.h, tensor_cuda.h) have in common: their arguments, the loss of a tile of
// samples, whose outputs stand in shared memory feature by feature, and how a block takes its chunk, tile by tile.

namespace bpx {

template <class T> struct IsVoid { static constexpr bool value = false; };
template <> struct IsVoid<void> { static constexpr bool value = true; };

template <class S> struct BlockArgs : Batch<S> {
  const S* params;   // packed
  const S* scalars;  // parameters of the activations, then of the loss
};

template <class S> struct BlockTile {
  const BlockArgs<S>* args;
  i64 first;   // sample
  int valid;   // samples; what stands for the others is 0 everywhere, whatever the weights are
  bool add;    // to the gradients, which the first tile of a chunk writes
  S* loss;     // this thread's part
  S* parts;    // shared memory, a number a thread
};

/// z becomes grad_t of the last layer.
template <class Net, class Loss> struct BlockLoss;
template <class Net, class F> struct BlockLoss<Net, ElementwiseLoss<F>> {
  template <class L, class S> BPX_FN static void run(const BlockTile<S>& tile, const S* scalars, S* z, const S* slope) {
    const BlockArgs<S>& args = *tile.args;
    S sum = S(0);
    each_of<Net>(L::out * Net::rows, [&](int at) {
      const int s = at / L::out, o = at % L::out, place = o * stride<Net> + s;
      S value, grad = S(0);
      if (s < tile.valid) {
        const i64 sample = tile.first + s;
        if constexpr (F::target) {
          F::both(z[place], ((const S*)args.y)[sample * args.y_row + o * args.y_column], scalars + o * F::stride, value, grad);
        } else {
          F::both(z[place], scalars + o * F::stride, value, grad);
        }
        if constexpr (Net::factors) {
          const S weight = args.weight ? args.weight[sample * args.weight_row] : S(1);
          value = value * weight;
          grad = grad * (weight * args.scale);
        }
        if constexpr (!L::identity) grad = grad * slope[place];
        sum = sum + value;
      }
      z[place] = grad;
    });
    *tile.loss = *tile.loss + sum * S(F::factor);
  }
};
/// What op makes of the values of THREADS neighbours in a warp, for each of them.
template <int THREADS, class S, class Op> BPX_FN S together(S value, Op op) {
  BPX_UNROLL
  for (int step = THREADS / 2; step > 0; step /= 2) value = op(value, __shfl_xor_sync(0xffffffffu, value, step));
  return value;
}
template <class Net, bool CLASSES> struct BlockLoss<Net, SoftmaxCrossEntropy<CLASSES>> {
  template <class L, class S> BPX_FN static void run(const BlockTile<S>& tile, const S* scalars, S* z, const S* slope) {
    constexpr int threads = Net::threads / Net::rows, step = stride<Net>;  // neighbours that share a sample
    static_assert(Net::threads % Net::rows == 0 && threads <= 32, "a warp has whole samples");
    const BlockArgs<S>& args = *tile.args;
    const int s = threadIdx.x / threads, first = threadIdx.x % threads;
    const bool real = s < tile.valid;
    const i64 sample = tile.first + s;
    const auto sum = [](S a, S b) { return a + b; };
    S weight = S(1), y = S(0), top = z[s], total = S(0), mass = S(CLASSES), loss = S(0);
    for (int o = first; o < L::out; o += threads) top = maximum(z[o * step + s], top);
    top = together<threads>(top, [](S a, S b) { return maximum(a, b); });
    for (int o = first; o < L::out; o += threads) total = total + exp(z[o * step + s] - top);
    total = together<threads>(total, sum);
    if (real && Net::factors && args.weight) weight = args.weight[sample * args.weight_row];
    if (CLASSES) {
      if (real) y = S(((const i64*)args.y)[sample * args.y_row]);
    } else {
      for (int o = first; real && o < L::out; o += threads) mass = mass + probability(args, sample, o);
      mass = together<threads>(mass, sum);
    }
    const S log_total = log(total), inverse = S(1) / total;
    for (int o = first; o < L::out; o += threads) {
      S& grad = z[o * step + s];
      const S shifted = grad - top;
      if (!CLASSES && real) y = probability(args, sample, o);
      Net::Loss::output(shifted, y, S(o), log_total, inverse, mass, loss, grad);
      if (Net::factors) grad = grad * (weight * args.scale);
      if (!L::identity) grad = grad * slope[o * step + s];
      if (!real) grad = S(0);
    }
    if (real) *tile.loss = *tile.loss + loss * weight;
  }
  template <class S> BPX_FN static S probability(const BlockArgs<S>& args, i64 sample, int o) {
    return ((const S*)args.y)[sample * args.y_row + o * args.y_column];
  }
};

/// The sum of all threads' losses of a chunk.
template <class Net, class S> BPX_FN void add_losses(const BlockArgs<S>& args, S* parts, S loss) {
  parts[threadIdx.x] = loss;
  for (int step = Net::threads / 2; step > 0; step /= 2) {
    __syncthreads();
    if (threadIdx.x < step) parts[threadIdx.x] = parts[threadIdx.x] + parts[threadIdx.x + step];
  }
  if (threadIdx.x == 0) args.losses[blockIdx.x] = parts[0];
}
/// A chunk. A pass has a Net, says how many `params` and outputs (`out`) it has, and computes the gradients or the outputs
/// of a tile:
///
///   backprop(tile, sums, memory)
///   infer(tile, memory)            where they stand
template <class Pass, class S> BPX_FN void run_block(const BlockArgs<S>& args, S* memory) {
  using Net = typename Pass::Net;
  static_assert(Net::shared == Net::threads + Pass::shared && Net::packed == Pass::packed, "see backprop_xp/programs/block.py");
  S *const parts = memory, *const signals = memory + Net::threads;
  const i64 begin = blockIdx.x * args.chunk, end = begin + args.chunk < args.n ? begin + args.chunk : args.n;
  S loss = S(0);
  for (i64 at = begin; at < end; at += Net::rows) {
    const BlockTile<S> tile{&args, at, end - at < Net::rows ? int(end - at) : Net::rows, at > begin, &loss, parts};
    if constexpr (Net::backward) {
      Pass::backprop(tile, args.sums + blockIdx.x * i64(Pass::params), signals);
    } else {
      constexpr int out = Pass::out;
      const S* const z = Pass::infer(tile, signals);
      for (int k = threadIdx.x; k < tile.valid * out; k += Net::threads)
        args.output[at * out + k] = z[k % out * stride<Net> + k / out];
      __syncthreads();
    }
  }
  if constexpr (Net::backward) add_losses<Net>(args, parts, loss);
}

}  // namespace bpx
