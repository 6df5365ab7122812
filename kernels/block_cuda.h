#pragma once
#include "block_products.h"
#include "losses.h"
#include "net.h"
// The pass over a batch on the GPU for layers too wide for one thread's registers: a block of threads takes a chunk of
// samples, tile by tile, through the whole net, and the tile's signals stay in shared memory from x to the gradients.
//
// Signals stand feature by feature, with a gap behind each row so that the rows which the threads of a warp read at once
// lie in different banks. Weights are read through the caches from a copy in which they stand twice, transposed and not,
// both with zeros up to whole vectors (Packed). What is computed from these zeros is not stored.
//
// Net (net.h) has these constants too, which the Python side chooses:
//   rows          samples in a tile
//   threads       in a block
//   resident      blocks that should fit one multiprocessor, by their registers
//   sums          that a thread may hold at once
//   slice         input features held at a time; a wider x is read again for its weights' gradients
//   shared        numbers in dynamic shared memory
//   packed        numbers in the copy of the parameters
//
// A tile's few barriers: after x is loaded, after each product on the way up, after the loss, and after each layer on the
// way down, where the gradients of its weights and those of its inputs are computed side by side.

namespace bpx {

template <class T> struct IsVoid { static constexpr bool value = false; };
template <> struct IsVoid<void> { static constexpr bool value = true; };

/// What the caller hands over. Strides are in elements.
template <class S> struct BlockArgs {
  i64 n, chunk;          // samples, and those of a chunk
  const S* x;            // (n, in)
  i64 x_row, x_column;
  const void* y;         // (n, out) numbers or (n,) int64 class indices
  i64 y_row, y_column;
  const S* weight;       // (n,) or null
  i64 weight_row;
  S scale;               // the gradient is multiplied by it; `losses` is not
  S* x_grad;             // (n, in) contiguous, if Net::input_grad
  S* sums;               // (chunks, params): each chunk's gradients
  double* losses;        // (chunks,): each chunk's sum of weight * loss
  S* output;             // (n, out) contiguous: where nothing is backward
  const S* params;       // packed
  const S* scalars;      // parameters of the activations, then of the loss
};

// ---- parameters -------------------------------------------------------------------------------------------------

/// W^T (in, padded out), W (out, padded in) where gradients go down through it, b (padded out).
template <class L, bool DOWN> struct Packed {
  static constexpr int plain = L::in * padded(L::out), bias = plain + (DOWN ? L::out * padded(L::in) : 0);
  static constexpr int params = bias + (L::bias ? padded(L::out) : 0);
};
template <class Net, class L, bool LOWEST> using PackedIn = Packed<L, Net::backward && (!LOWEST || Net::input_grad)>;

template <class Net, bool LOWEST> BPX_FN constexpr int packed_numbers(Layers<>) { return 0; }
template <class Net, bool LOWEST, class L, class... Rest> BPX_FN constexpr int packed_numbers(Layers<L, Rest...>) {
  return PackedIn<Net, L, LOWEST>::params + packed_numbers<Net, false>(Layers<Rest...>());
}

/// `from` holds W and b of every layer, contiguous.
template <class Net, bool LOWEST> BPX_FN void pack(Layers<>, const typename Net::S* const*, typename Net::S*) {}
template <class Net, bool LOWEST, class L, class... Rest>
BPX_FN void pack(Layers<L, Rest...>, const typename Net::S* const* from, typename Net::S* to) {
  using S = typename Net::S;
  using P = PackedIn<Net, L, LOWEST>;
  constexpr int outs = padded(L::out), ins = padded(L::in);
  for (int at = blockIdx.x * blockDim.x + threadIdx.x; at < P::params; at += gridDim.x * blockDim.x) {
    if (at >= P::bias) {
      to[at] = at - P::bias < L::out ? from[1][at - P::bias] : S(0);
    } else {
      const bool plain = at >= P::plain;
      const int o = plain ? (at - P::plain) / ins : at % outs, i = plain ? (at - P::plain) % ins : at / outs;
      to[at] = o < L::out && i < L::in ? from[0][o * L::in + i] : S(0);
    }
  }
  pack<Net, false>(Layers<Rest...>(), from + 2, to + P::params);
}

// ---- one tile -----------------------------------------------------------------------------------------------------

template <class S> struct BlockTile {
  const BlockArgs<S>* args;
  i64 first;   // sample
  int valid;   // samples; what stands for the others is 0 everywhere, whatever the weights are
  bool add;    // to the gradients, which the first tile of a chunk writes
  S* loss;     // this thread's part
};

/// to[f][s] = from[s][f] for the features first .. first + width - 1
template <class Net, class S>
BPX_FN void load_tile(const BlockTile<S>& tile, const void* matrix, i64 row, i64 column, int first, int width, S* to) {
  const S* const from = (const S*)matrix + tile.first * row + first * column;
#pragma unroll 4
  for (int at = threadIdx.x; at < width * Net::rows; at += Net::threads) {
    const int s = at / width, f = at % width;
    to[f * stride<Net> + s] = s < tile.valid ? from[s * row + f * column] : S(0);
  }
}

/// z = f(t) for a slice of the depth; only the last slice applies f. `slope` takes f', if Net::backward.
template <class Net, class L, class P, class S>
BPX_FN void block_forward(const BlockTile<S>& tile, const S* params, const S* scalars, int from, int depth, const S* z_in,
                          S* z, S* slope) {
  const bool whole_depth = from + depth == L::in;
  product<Net, L::out>(
      depth, params + from * padded(L::out), padded(L::out), z_in,
      [&](int o, int s) {
        if (from > 0) return o < L::out ? z[o * stride<Net> + s] : S(0);
        return L::bias ? params[P::bias + o] : S(0);
      },
      [&](int o, int s, const S* sums) {
        Vector<S> value, grad;
        BPX_UNROLL
        for (int v = 0; v < vector<S>; ++v) {
          value.v[v] = sums[v];
          if constexpr (!L::identity) {
            if (whole_depth) {
              if constexpr (Net::backward) L::Act::both(sums[v], scalars, value.v[v], grad.v[v]);
              else value.v[v] = L::Act::value(sums[v], scalars);
            }
          }
          if (s + v >= tile.valid) value.v[v] = S(0);
        }
        *(Vector<S>*)(z + o * stride<Net> + s) = value;
        if constexpr (Net::backward && !L::identity) {
          if (whole_depth) *(Vector<S>*)(slope + o * stride<Net> + s) = grad;
        }
      });
}

/// The first layer takes x in slices.
template <class Net, class L, class P, class S>
BPX_FN void block_input(const BlockTile<S>& tile, const S* params, const S* scalars, S* x, S* z, S* slope) {
  for (int from = 0; from < L::in; from += Net::slice) {
    const int depth = L::in - from < Net::slice ? L::in - from : Net::slice;
    if (from > 0) __syncthreads();
    load_tile<Net>(tile, tile.args->x, tile.args->x_row, tile.args->x_column, from, depth, x);
    __syncthreads();
    block_forward<Net, L, P>(tile, params, scalars, from, depth, x, z, slope);
  }
}

/// z becomes grad_t of the last layer.
template <class Net, class Loss> struct BlockLoss;
template <class Net, class F> struct BlockLoss<Net, ElementwiseLoss<F>> {
  template <class L, class S> BPX_FN static void run(const BlockTile<S>& tile, const S* scalars, S* z, const S* slope) {
    const BlockArgs<S>& args = *tile.args;
    S sum = S(0);
    for (int at = threadIdx.x; at < L::out * Net::rows; at += Net::threads) {
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
    }
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

/// Numbers of shared memory that a layer and those above it take: z and f', which becomes grad_t.
template <class Net> BPX_FN constexpr int block_numbers(Layers<>) { return 0; }
template <class Net, class L, class... Rest> BPX_FN constexpr int block_numbers(Layers<L, Rest...>) {
  const bool second = Net::backward && (sizeof...(Rest) > 0 || !L::identity);
  return (second ? 2 : 1) * L::out * stride<Net> + block_numbers<Net>(Layers<Rest...>());
}

/// Layers from L on: z_in is the output of the layer BELOW, whose f' in g_in becomes its grad_t.
template <class Net, class BELOW, class S>
BPX_FN void block_backprop(Layers<>, const BlockTile<S>& tile, const S*, const S* scalars, S*, S* z, S* slope, S*) {
  BlockLoss<Net, typename Net::Loss>::template run<BELOW>(tile, scalars, z, slope);
  __syncthreads();
}
template <class Net, class BELOW, class S, class L, class... Rest>
BPX_FN void block_backprop(Layers<L, Rest...>, const BlockTile<S>& tile, const S* params, const S* scalars, S* sums, S* z_in,
                           S* g_in, S* memory) {
  constexpr bool lowest = IsVoid<BELOW>::value, top = sizeof...(Rest) == 0;
  using P = PackedIn<Net, L, lowest>;
  S *const z = memory, *const g = top && L::identity ? z : z + L::out * stride<Net>;
  if constexpr (lowest) block_input<Net, L, P>(tile, params, scalars, z_in, z, g);
  else block_forward<Net, L, P>(tile, params, scalars, 0, L::in, z_in, z, g);
  __syncthreads();
  block_backprop<Net, L>(Layers<Rest...>(), tile, params + P::params, scalars + L::Act::params, sums + L::params, z, g,
                         g + L::out * stride<Net>);

  const S* const grad_t = top ? z : g;
  if constexpr (L::bias) bias_gradient<Net, L::out>(grad_t, sums + L::weights, tile.add);
  if constexpr (!lowest) {
    weight_gradient<Net, L::out, L::in>(grad_t, z_in, L::in, sums, L::in, tile.add);
  } else {
    for (int from = 0; from < L::in; from += Net::slice) {
      const int width = L::in - from < Net::slice ? L::in - from : Net::slice;
      if constexpr (L::in > Net::slice) {  // else it is still there
        load_tile<Net>(tile, tile.args->x, tile.args->x_row, tile.args->x_column, from, width, z_in);
        __syncthreads();
      }
      weight_gradient<Net, L::out, Net::slice>(grad_t, z_in, width, sums + from, L::in, tile.add);
      if constexpr (L::in > Net::slice) __syncthreads();
    }
  }
  if constexpr (!lowest || Net::input_grad) {
    product<Net, L::in>(
        L::out, params + P::plain, padded(L::in), grad_t, [](int, int) { return S(0); },
        [&](int i, int s, const S* grad_z) {
          BPX_UNROLL
          for (int v = 0; v < vector<S>; ++v) {
            const bool real = s + v < tile.valid;
            if constexpr (lowest) {
              if (real) tile.args->x_grad[(tile.first + s + v) * L::in + i] = grad_z[v];
            } else {
              S& below = g_in[i * stride<Net> + s + v];
              below = !real ? S(0) : BELOW::identity ? grad_z[v] : grad_z[v] * below;
            }
          }
        });
  }
  __syncthreads();
}

/// The outputs: where they stand.
template <class Net, bool LOWEST, class S, class L, class... Rest>
BPX_FN const S* block_infer(Layers<L, Rest...>, const BlockTile<S>& tile, const S* params, const S* scalars, S* z_in, S* z) {
  using P = PackedIn<Net, L, LOWEST>;
  if constexpr (LOWEST) block_input<Net, L, P>(tile, params, scalars, z_in, z, (S*)nullptr);
  else block_forward<Net, L, P>(tile, params, scalars, 0, L::in, z_in, z, (S*)nullptr);
  __syncthreads();
  if constexpr (sizeof...(Rest) == 0) {
    return z;
  } else {
    return block_infer<Net, false>(Layers<Rest...>(), tile, params + P::params, scalars + L::Act::params, z,
                                   z + L::out * stride<Net>);
  }
}

// ---- chunks -------------------------------------------------------------------------------------------------------

template <class Net> BPX_FN void run_block(const BlockArgs<typename Net::S>& args, typename Net::S* memory) {
  using S = typename Net::S;
  using Layers = typename Net::Layers;
  constexpr int shared = Net::threads + Net::slice * stride<Net> + block_numbers<Net>(Layers());
  static_assert(Net::shared == shared && Net::packed == packed_numbers<Net, true>(Layers()), "see backprop_xp/programs/block.py");
  S *const parts = memory, *const x = parts + Net::threads, *const signals = x + Net::slice * stride<Net>;
  const i64 begin = blockIdx.x * args.chunk, end = begin + args.chunk < args.n ? begin + args.chunk : args.n;
  S loss = S(0);
  for (i64 at = begin; at < end; at += Net::rows) {
    const BlockTile<S> tile{&args, at, end - at < Net::rows ? int(end - at) : Net::rows, at > begin, &loss};
    if constexpr (Net::backward) {
      S* const sums = args.sums + blockIdx.x * i64(Layers::params);
      block_backprop<Net, void>(Layers(), tile, args.params, args.scalars, sums, x, (S*)nullptr, signals);
    } else {
      constexpr int out = Last<Layers>::Type::out;
      const S* const z = block_infer<Net, true>(Layers(), tile, args.params, args.scalars, x, signals);
      for (int k = threadIdx.x; k < tile.valid * out; k += Net::threads)
        args.output[at * out + k] = z[k % out * stride<Net> + k / out];
      __syncthreads();
    }
  }
  if constexpr (Net::backward) {
    parts[threadIdx.x] = loss;
    for (int step = Net::threads / 2; step > 0; step /= 2) {
      __syncthreads();
      if (threadIdx.x < step) parts[threadIdx.x] = parts[threadIdx.x] + parts[threadIdx.x + step];
    }
    if (threadIdx.x == 0) args.losses[blockIdx.x] = parts[0];
  }
}

}  // namespace bpx
