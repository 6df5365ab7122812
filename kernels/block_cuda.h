#pragma once
#include "block.h"
// The pass over a batch on the GPU for layers too wide for one thread's registers: a block of threads takes a chunk of
// samples, tile by tile, through the whole net, and the tile's signals stay in shared memory from x to the gradients.
//
// Signals stand feature by feature, with a gap behind each row so that the rows which the threads of a warp read at once
// lie in different banks. Weights are read through the caches from a copy in which they stand twice, transposed and not,
// both with zeros up to whole vectors (Packed). What is computed from these zeros is not stored.
//
// Net (net.h) has these constants too, which the Python side chooses:
//   rows          samples in a tile
//   gap           numbers behind the samples of a feature
//   threads       in a block
//   resident      blocks that should fit one multiprocessor, by their registers
//   sums          that a thread may hold at once
//   slice         input features held at a time; a wider x is read again for its weights' gradients
//   shared        numbers in dynamic shared memory
//   packed        numbers in the copy of the parameters
//
// A tile's few barriers: after x is loaded, after each product on the way up, after the loss, and after each layer on the
// way down, where the gradients of its weights and those of its inputs are computed side by side; between the two as well
// where the latter take the inputs' place.

namespace bpx {

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

/// Whether f' of a hidden layer is computed from its output z when it is needed: grad_t then takes the place of z. Else f' is
/// stored, and takes grad_t.
template <class L> constexpr bool slope_from_output = has_slope<typename L::Act>;
template <> constexpr bool slope_from_output<void> = false;
template <class Net, class L, bool TOP>
constexpr bool stores_slope = Net::backward && (TOP ? !L::identity : !slope_from_output<L>);

/// z = f(t) for a slice of the depth; only the last slice applies f. With SLOPE, `slope` takes f'.
template <class Net, class L, class P, bool SLOPE, class S>
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
              if constexpr (SLOPE) L::Act::both(sums[v], scalars, value.v[v], grad.v[v]);
              else value.v[v] = L::Act::value(sums[v], scalars);
            }
          }
          if (s + v >= tile.valid) value.v[v] = S(0);
        }
        *(Vector<S>*)(z + o * stride<Net> + s) = value;
        if constexpr (SLOPE) {
          if (whole_depth) *(Vector<S>*)(slope + o * stride<Net> + s) = grad;
        }
      });
}

/// The first layer takes x in slices.
template <class Net, class L, class P, bool SLOPE, class S>
BPX_FN void block_input(const BlockTile<S>& tile, const S* params, const S* scalars, S* x, S* z, S* slope) {
  for (int from = 0; from < L::in; from += Net::slice) {
    const int depth = L::in - from < Net::slice ? L::in - from : Net::slice;
    if (from > 0) __syncthreads();
    load_tile<Net>(tile, tile.args->x, tile.args->x_row, tile.args->x_column, from, depth, x);
    __syncthreads();
    block_forward<Net, L, P, SLOPE>(tile, params, scalars, from, depth, x, z, slope);
  }
}

/// Numbers of shared memory that a layer and those above it take: z, and f' if it is stored.
template <class Net> BPX_FN constexpr int block_numbers(Layers<>) { return 0; }
template <class Net, class L, class... Rest> BPX_FN constexpr int block_numbers(Layers<L, Rest...>) {
  return (stores_slope<Net, L, sizeof...(Rest) == 0> ? 2 : 1) * L::out * stride<Net> + block_numbers<Net>(Layers<Rest...>());
}

/// Layers from L on: z_in is the output of the layer BELOW, whose grad_t goes to g_in, where f' or z_in is.
template <class Net, class BELOW, class S>
BPX_FN void block_backprop(Layers<>, const BlockTile<S>& tile, const S*, const S* scalars, S*, S* z, S* slope, S*) {
  BlockLoss<Net, typename Net::Loss>::template run<BELOW>(tile, scalars, z, slope);
  __syncthreads();
}
template <class Net, class BELOW, class S, class L, class... Rest>
BPX_FN void block_backprop(Layers<L, Rest...>, const BlockTile<S>& tile, const S* params, const S* scalars, S* sums, S* z_in,
                           S* g_in, S* memory) {
  constexpr bool lowest = IsVoid<BELOW>::value, top = sizeof...(Rest) == 0, slope = stores_slope<Net, L, top>;
  using P = PackedIn<Net, L, lowest>;
  S *const z = memory, *const g = slope ? z + L::out * stride<Net> : z;
  if constexpr (lowest) block_input<Net, L, P, slope>(tile, params, scalars, z_in, z, g);
  else block_forward<Net, L, P, slope>(tile, params, scalars, 0, L::in, z_in, z, g);
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
    if constexpr (slope_from_output<BELOW>) __syncthreads();
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
              S df = below;
              if constexpr (slope_from_output<BELOW>) df = BELOW::Act::slope(df);
              below = real ? grad_z[v] * df : S(0);
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
  if constexpr (LOWEST) block_input<Net, L, P, false>(tile, params, scalars, z_in, z, (S*)nullptr);
  else block_forward<Net, L, P, false>(tile, params, scalars, 0, L::in, z_in, z, (S*)nullptr);
  __syncthreads();
  if constexpr (sizeof...(Rest) == 0) {
    return z;
  } else {
    return block_infer<Net, false>(Layers<Rest...>(), tile, params + P::params, scalars + L::Act::params, z,
                                   z + L::out * stride<Net>);
  }
}

template <class NET> struct BlockPass {
  using Net = NET;
  using S = typename Net::S;
  using Layers = typename Net::Layers;
  static constexpr int x = Net::slice * stride<Net>;
  static constexpr int shared = x + block_numbers<Net>(Layers()), packed = packed_numbers<Net, true>(Layers());
  static constexpr int params = Layers::params, out = Last<Layers>::Type::out;
  BPX_FN static void pack(const S* const* from, S* to) { bpx::pack<Net, true>(Layers(), from, to); }
  BPX_FN static void backprop(const BlockTile<S>& tile, S* sums, S* memory) {
    block_backprop<Net, void>(Layers(), tile, tile.args->params, tile.args->scalars, sums, memory, (S*)nullptr, memory + x);
  }
  BPX_FN static const S* infer(const BlockTile<S>& tile, S* memory) {
    return block_infer<Net, true>(Layers(), tile, tile.args->params, tile.args->scalars, memory, memory + x);
  }
};

}  // namespace bpx
