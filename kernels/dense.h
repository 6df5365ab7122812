#pragma once
#include "lane.h"
// The products of one dense layer for a tile of W samples, whose sizes are known at compile time.
//
// A tile's signals stand feature by feature: z[i * W + s] is feature i of sample s. On the CPU W is some registers
// wide and the arrays live in L1; on the GPU W is 1, one sample a thread, and they are registers. Loops over
// samples take a lane T at a time.

namespace bpx {

/// The sizes of t = W z + b. Its parameters are W (OUT, IN) row by row, then b.
template <int IN, int OUT, bool BIAS> struct Dense {
  static constexpr int in = IN, out = OUT, weights = OUT * IN, params = OUT * IN + (BIAS ? OUT : 0);
  static constexpr bool bias = BIAS;
};

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

/// t = W z_in + b
template <class L, int W, class S> BPX_KERNEL void linear(const S* w, const S* b, const S* z_in, S* t) {
  using T = typename Shape<S>::Wide;
  for_blocks<L::out, Shape<S>::product_block>([&](int j0, auto size) __attribute__((always_inline)) {
    constexpr int B = decltype(size)::value;
    for (int s = 0; s < W; s += Lane<T>::width) {
      T sums[B];
      BPX_UNROLL
      for (int k = 0; k < B; ++k) sums[k] = L::bias ? c<T>(b[j0 + k]) : c<T>(0.0f);
      accumulate<B, L::in, W>(w + j0 * L::in, L::in, 1, z_in + s, sums);
      BPX_UNROLL
      for (int k = 0; k < B; ++k) store<T>(t + (j0 + k) * W + s, sums[k]);
    }
  });
}

/// grad_z = W^T grad_t, or where df isn't null the layer below's grad_t = grad_z * f'(t)
template <class L, int W, class S> BPX_KERNEL void backward(const S* w, const S* grad_t, const S* df, S* below) {
  using T = typename Shape<S>::Wide;
  for_blocks<L::in, Shape<S>::product_block>([&](int i0, auto size) __attribute__((always_inline)) {
    constexpr int B = decltype(size)::value;
    for (int s = 0; s < W; s += Lane<T>::width) {
      T sums[B];
      BPX_UNROLL
      for (int b = 0; b < B; ++b) sums[b] = c<T>(0.0f);
      accumulate<B, L::out, W>(w + i0, 1, L::in, grad_t + s, sums);
      if (df) {  // all of it is read before anything is written, for addresses 4 KiB apart hold each other up
        BPX_UNROLL
        for (int b = 0; b < B; ++b) sums[b] = sums[b] * load<T>(df + (i0 + b) * W + s);
        BPX_UNROLL
        for (int b = 0; b < B; ++b) store<T>(below + (i0 + b) * W + s, sums[b]);
      } else {
        BPX_UNROLL
        for (int b = 0; b < B; ++b) store<T>(below + (i0 + b) * W + s, sums[b]);
      }
    }
  });
}

/// A number that is used several times, which g++ would rather load again for every use: there are fewer ports for that.
template <class T> BPX_FN T in_register(T a) {
#if !BPX_CUDA && defined(__AVX512F__)
  asm("" : "+v"(a.v));
#elif !BPX_CUDA && defined(__AVX__)
  asm("" : "+x"(a.v));
#endif
  return a;
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
        for (int k = 0; k < C; ++k) x[k] = in_register(load<T>(z + (i0 + k) * W + s));
        BPX_UNROLL
        for (int r = 0; r < R; ++r) {
          const T g = in_register(load<T>(grad_t + (j0 + r) * W + s));
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

}  // namespace bpx
