#pragma once
#include "activations.h"
// Backpropagation through a whole net for a tile of W samples, forward, loss and backward in one pass.
//
// The net is a type, written by the Python side:
//
//   struct Net {
//     using S = float;
//     using Layers = bpx::Layers<bpx::Layer<5, 10, bpx::tanh, false>, bpx::Layer<10, 4, Activation0, false>, ...>;
//     using Loss = bpx::ElementwiseLoss<LossFormula>;        // losses.h
//     static constexpr bool backward = true;                 // false: forward alone, and Loss is not used
//     static constexpr bool factors = false;                 // the gradient is multiplied by weight or scale
//     static constexpr bool input_grad = false;
//     static constexpr bool dense = true;                    // on the GPU: features of a sample in x and y are adjacent
//     static constexpr i64 chunk = 1024;                     // samples
//   };
//
// A tile's signals stand feature by feature: z[i * W + s] is feature i of sample s. On the CPU W is some registers
// wide and the arrays live in L1; on the GPU W is 1, one sample a thread, and they are registers. Loops over
// samples take a lane T at a time.

namespace bpx {

template <class F> struct IsIdentity { static constexpr bool value = false; };
template <> struct IsIdentity<identity> { static constexpr bool value = true; };

/// t = W z + b, then z = F(t). Its parameters are W (OUT, IN) row by row, then b.
template <int IN, int OUT, class F, bool BIAS> struct Layer {
  static constexpr int in = IN, out = OUT, weights = OUT * IN, params = OUT * IN + (BIAS ? OUT : 0);
  static constexpr bool bias = BIAS, identity = IsIdentity<F>::value;
  using Act = F;
};
template <class... L> struct Layers {
  static constexpr int count = sizeof...(L), params = (0 + ... + L::params), scalars = (0 + ... + L::Act::params);
};
template <class L> struct First;
template <class L, class... Rest> struct First<Layers<L, Rest...>> { using Type = L; };
template <class L> struct Last { using Type = typename Last<Layers<L>>::Type; };
template <class L> struct Last<Layers<L>> { using Type = L; };
template <class L, class... Rest> struct Last<Layers<L, Rest...>> { using Type = typename Last<Layers<Rest...>>::Type; };

// How many samples a tile has, and in what lanes loops over them go. The GPU keeps everything in registers, so its
// loops are unrolled whole; the CPU's are cut into blocks whose sums fit the registers.
#if BPX_CUDA
#define BPX_KERNEL BPX_FN
template <class S> struct Shape {
  using Wide = S;
  using Widest = S;
  using Narrow = S;
  static constexpr int samples = 1, product_block = 1 << 20, outer_rows = 1 << 20, outer_columns = 1 << 20, unroll = 1 << 20;
};
#else
#define BPX_KERNEL static __attribute__((noinline))
// Measured on the article's net on an Intel core with two 512-bit ports: 1, 2 and 4 registers a lane, 1 to 8 for functions
// and 4 to 16 a tile are all within some 10 % of these, and none is better.
#ifndef BPX_LANE_REGISTERS  // vector registers of a pack in products
#define BPX_LANE_REGISTERS 1
#endif
#ifndef BPX_FUNCTION_REGISTERS  // vector registers of a pack in activations
#define BPX_FUNCTION_REGISTERS (sizeof(S) == 4 ? 4 : 2)
#endif
#ifndef BPX_TILE_REGISTERS  // vector registers of samples in a tile
#define BPX_TILE_REGISTERS 8
#endif
template <class S> struct Shape {
  using Wide = Pack<S, BPX_LANE_REGISTERS>;            // for products, which need registers for sums
  using Widest = Pack<S, BPX_FUNCTION_REGISTERS>;      // for activations, whose steps wait for one another
  using Narrow = Pack<S, 1>;
  static constexpr int registers = BPX_VECTOR_BYTES == 64 ? 32 : 16;
  static constexpr int samples = BPX_TILE_REGISTERS * Lane<Narrow>::width;
  static constexpr int product_block = (registers - 8) / BPX_LANE_REGISTERS;
  static constexpr int outer_rows = registers == 32 ? 6 : 3, outer_columns = registers == 32 ? 5 : 4;
  // longer sums are as fast in a loop, and take the compiler half the time: 16 was measured on Zen 4, and 2 is slower
  static constexpr int unroll = 8;
};
#endif

/// Into what blocks of at most `most` to cut n: a divisor of n if a large one exists, else about equal ones.
BPX_FN constexpr int block_size(int n, int most) {
  if (n <= most) return n;
  for (int b = most; b > most / 2; --b)
    if (n % b == 0) return b;
  const int blocks = (n + most - 1) / most;
  return (n + blocks - 1) / blocks;
}

/// An integer constant as a type, so that a lambda's argument can size arrays.
template <int I> struct Index { static constexpr int value = I; };

/// op(start, Index<size>) for consecutive blocks of 0 .. N - 1.
template <int N, int MOST, class Op> BPX_FN void for_blocks(Op op) {
  constexpr int B = block_size(N, MOST), rest = N % B;
  BPX_UNROLL_OUTER
  for (int start = 0; start < N - rest; start += B) op(start, Index<B>());
  if constexpr (rest != 0) op(N - rest, Index<rest>());
}

/// sums[b] += w[b * row + k * column] * z[k], k < K, for a lane of samples
template <int B, int K, int W, class T, class S>
BPX_FN void accumulate(const S* w, int row, int column, const S* z, T (&sums)[B]) {
  auto step = [&](int k) __attribute__((always_inline)) {
    const T zk = load<T>(z + k * W);
    BPX_UNROLL
    for (int b = 0; b < B; ++b) sums[b] = fma(c<T>(w[b * row + k * column]), zk, sums[b]);
  };
  if constexpr (K <= Shape<S>::unroll) {
    BPX_UNROLL
    for (int k = 0; k < K; ++k) step(k);
  } else {
    for (int k = 0; k < K; ++k) step(k);
  }
}

/// z = f(t), df = f'(t), t = W z_in + b
template <class L, int W, class S> BPX_KERNEL void forward(const S* params, const S* scalars, const S* z_in, S* z, S* df) {
  using T = typename Shape<S>::Wide;
  for_blocks<L::out, Shape<S>::product_block>([&](int j0, auto size) __attribute__((always_inline)) {
    constexpr int B = decltype(size)::value;
    for (int s = 0; s < W; s += Lane<T>::width) {
      T sums[B];
      BPX_UNROLL
      for (int b = 0; b < B; ++b) sums[b] = L::bias ? c<T>(params[L::weights + j0 + b]) : c<T>(0.0f);
      accumulate<B, L::in, W>(params + j0 * L::in, L::in, 1, z_in + s, sums);
      BPX_UNROLL
      for (int b = 0; b < B; ++b) store<T>(z + (j0 + b) * W + s, sums[b]);
    }
  });
  if constexpr (!L::identity) {
    using T = typename Shape<S>::Widest;
    BPX_UNROLL_OUTER
    for (int i = 0; i < L::out * W; i += Lane<T>::width) {
      T value, slope;
      L::Act::both(load<T>(z + i), scalars, value, slope);
      store<T>(z + i, value);
      store<T>(df + i, slope);
    }
  }
}

/// z = f(t) alone
template <class L, int W, class S> BPX_KERNEL void forward(const S* params, const S* scalars, const S* z_in, S* z) {
  using T = typename Shape<S>::Wide;
  for_blocks<L::out, Shape<S>::product_block>([&](int j0, auto size) __attribute__((always_inline)) {
    constexpr int B = decltype(size)::value;
    for (int s = 0; s < W; s += Lane<T>::width) {
      T sums[B];
      BPX_UNROLL
      for (int b = 0; b < B; ++b) sums[b] = L::bias ? c<T>(params[L::weights + j0 + b]) : c<T>(0.0f);
      accumulate<B, L::in, W>(params + j0 * L::in, L::in, 1, z_in + s, sums);
      BPX_UNROLL
      for (int b = 0; b < B; ++b) store<T>(z + (j0 + b) * W + s, sums[b]);
    }
  });
  if constexpr (!L::identity) {
    using T = typename Shape<S>::Widest;
    BPX_UNROLL_OUTER
    for (int i = 0; i < L::out * W; i += Lane<T>::width) store<T>(z + i, L::Act::value(load<T>(z + i), scalars));
  }
}

/// grad_z = W^T grad_t, or with DF the layer below's grad_t = grad_z * f'(t)
template <class L, bool DF, int W, class S>
BPX_KERNEL void backward(const S* params, const S* grad_t, const S* df, S* below) {
  using T = typename Shape<S>::Wide;
  for_blocks<L::in, Shape<S>::product_block>([&](int i0, auto size) __attribute__((always_inline)) {
    constexpr int B = decltype(size)::value;
    for (int s = 0; s < W; s += Lane<T>::width) {
      T sums[B];
      BPX_UNROLL
      for (int b = 0; b < B; ++b) sums[b] = c<T>(0.0f);
      accumulate<B, L::out, W>(params + i0, 1, L::in, grad_t + s, sums);
      BPX_UNROLL
      for (int b = 0; b < B; ++b) {
        const int at = (i0 + b) * W + s;
        store<T>(below + at, DF ? sums[b] * load<T>(df + at) : sums[b]);
      }
    }
  });
}

/// grads += grad_t z^T (and grad_t for the bias), summed over the tile: one sum for each place in a Narrow lane
template <class L, int W, class S> BPX_KERNEL void outer(const S* grad_t, const S* z, S* grads) {
  using T = typename Shape<S>::Narrow;
  constexpr int lanes = Lane<T>::width;
  for_blocks<L::out, Shape<S>::outer_rows>([&](int j0, auto rows) __attribute__((always_inline)) {
    for_blocks<L::in, Shape<S>::outer_columns>([&](int i0, auto columns) __attribute__((always_inline)) {
      constexpr int R = decltype(rows)::value, C = decltype(columns)::value;
      S* const first = grads + (j0 * L::in + i0) * lanes;
      T sums[R][C];
      BPX_UNROLL
      for (int r = 0; r < R; ++r) {
        BPX_UNROLL
        for (int k = 0; k < C; ++k) sums[r][k] = load<T>(first + (r * L::in + k) * lanes);
      }
      for (int s = 0; s < W; s += lanes) {
        T x[C];
        BPX_UNROLL
        for (int k = 0; k < C; ++k) x[k] = load<T>(z + (i0 + k) * W + s);
        BPX_UNROLL
        for (int r = 0; r < R; ++r) {
          const T g = load<T>(grad_t + (j0 + r) * W + s);
          BPX_UNROLL
          for (int k = 0; k < C; ++k) sums[r][k] = fma(g, x[k], sums[r][k]);
        }
      }
      BPX_UNROLL
      for (int r = 0; r < R; ++r) {
        BPX_UNROLL
        for (int k = 0; k < C; ++k) store<T>(first + (r * L::in + k) * lanes, sums[r][k]);
      }
    });
  });
  if constexpr (L::bias) {
    BPX_UNROLL_OUTER
    for (int j = 0; j < L::out; ++j) {
      S* const sum = grads + (L::weights + j) * lanes;
      T total = load<T>(sum);
      for (int s = 0; s < W; s += lanes) total = total + load<T>(grad_t + j * W + s);
      store<T>(sum, total);
    }
  }
}

/// Samples from `valid` on are none: what they hold counts as 0, be it NaN or infinite.
template <int W, class S> BPX_KERNEL void clear_from(S* z, int features, int valid) {
  BPX_UNROLL_OUTER
  for (int i = 0; i < features; ++i) {
    for (int s = valid; s < W; ++s) z[i * W + s] = S(0);
  }
}
template <int FEATURES, int W, class S> BPX_FN void clear_rest(S* z, int valid) {
  if (valid != W) clear_from<W>(z, FEATURES, valid);
}

/// What a tile's pass reads and adds to, besides x.
template <class S, int W> struct Tile {
  const S* params;   // of all layers, one after another
  const S* scalars;  // of all activations, then of the loss
  const S* y;        // the target, feature by feature like the signals, or class indices as numbers (W)
  const S* weight;   // (W) or null: what the samples' losses are multiplied by
  const S* factor;   // (W) or null: what their gradients are multiplied by, weight * scale
  int valid;         // the number of samples, <= W
  S* grads;          // sums for each parameter, `lanes` of them
  S* loss;           // (W) each sample's loss

  /// For the layer whose parameters begin at AT.
  template <class L, int AT> BPX_FN void outer(const S* grad_t, const S* z) const {
    bpx::outer<L, W>(grad_t, z, grads + AT * Lane<typename Shape<S>::Narrow>::width);
  }
};

/// One layer and, by recursion, those above it. z_in and df_in are the outputs and derivatives of the layer below;
/// z_in is overwritten by the layer below's grad_t, on the lowest level (where BELOW is void) by the gradient in x.
template <class Net, int W, class BELOW, int AT, int SCALAR, class TILE, class S>
BPX_FN void backprop(Layers<>, TILE& tile, S* z, const S* df) {
  using T = typename Shape<S>::Widest;
  BPX_UNROLL_OUTER
  for (int s = 0; s < W; s += Lane<T>::width) {
    const T factor = Net::factors ? load<T>(tile.factor + s) : c<T>(1.0f);
    const T loss = Net::Loss::template run<BELOW::out, W>(z + s, tile.y + s, tile.scalars + SCALAR, factor, Net::factors);
    store<T>(tile.loss + s, loss);
    if constexpr (!BELOW::identity) {
      BPX_UNROLL_OUTER
      for (int k = 0; k < BELOW::out; ++k) store<T>(z + k * W + s, load<T>(z + k * W + s) * load<T>(df + k * W + s));
    }
  }
}
template <class Net, int W, class BELOW, int AT, int SCALAR, class TILE, class S, class L, class... Rest>
BPX_FN void backprop(Layers<L, Rest...>, TILE& tile, S* z_in, const S* df_in) {
  constexpr bool lowest = AT == 0;
  alignas(64) S z[L::out * W], df[L::identity ? 1 : L::out * W];
  forward<L, W>(tile.params + AT, tile.scalars + SCALAR, z_in, z, df);
  backprop<Net, W, L, AT + L::params, SCALAR + L::Act::params>(Layers<Rest...>(), tile, z, df);
  S* const grad_t = z;
#if BPX_CUDA
  if constexpr (sizeof...(Rest) > 0) forget_loads();  // or the weights would stay in registers from the way up
#endif
  clear_rest<L::out, W>(grad_t, tile.valid);
  clear_rest<L::in, W>(z_in, tile.valid);
  tile.template outer<L, AT>(grad_t, z_in);
  if constexpr (!lowest) {
    backward<L, !BELOW::identity, W>(tile.params + AT, grad_t, df_in, z_in);
  } else if constexpr (Net::input_grad) {
    backward<L, false, W>(tile.params + AT, grad_t, df_in, z_in);
  }
}

/// The outputs z (features, W) from z_in.
template <int W, int AT, int SCALAR, class S, class L, class... Rest>
BPX_FN void infer(Layers<L, Rest...>, const S* params, const S* scalars, const S* z_in, S* out) {
  if constexpr (sizeof...(Rest) == 0) {
    forward<L, W>(params + AT, scalars + SCALAR, z_in, out);
  } else {
    alignas(64) S z[L::out * W];
    forward<L, W>(params + AT, scalars + SCALAR, z_in, z);
    infer<W, AT + L::params, SCALAR + L::Act::params>(Layers<Rest...>(), params, scalars, z, out);
  }
}

}  // namespace bpx
