#pragma once
#include "net.h"
// The matrix products of panels.h, blocked for registers and caches.

namespace bpx {

template <class S> constexpr int panel = BPX_VECTOR_BYTES / int(sizeof(S));
template <class S> constexpr int panels(int features) { return (features + panel<S> - 1) / panel<S>; }

/// How many sums a product keeps in registers: samples (or outputs) by panels. Calculated: with the operands they fill the
/// 32 (16 where registers are narrower) vector registers.
#if BPX_VECTOR_BYTES == 64
constexpr int product_rows = 6, product_panels = 4, weight_rows = 8, weight_panels = 3;
#elif BPX_VECTOR_BYTES == 32
constexpr int product_rows = 3, product_panels = 4, weight_rows = 4, weight_panels = 2;
#else
constexpr int product_rows = 3, product_panels = 4, weight_rows = 2, weight_panels = 2;  // a panel holds 2 doubles
#endif
#define BPX_UNROLL_SOME _Pragma("GCC unroll 4")
constexpr int product_depth = 128;  // features, after which the other operand would leave the first-level cache; calculated

/// to[n][s] (+)= sum over k of a[k][s] * b[n][k], for MR samples at a time: the rows of a and `to` are samples.
template <int NB, class S>
static __attribute__((noinline)) void product(int depth, const S* a, i64 a_panel, const S* b, i64 b_panel, S* to,
                                              i64 to_panel, int samples, const S* start, bool add) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>, MR = product_rows;
  for (int s = 0; s < samples; s += MR) {
    T sums[MR][NB];
    for (int r = 0; r < MR; ++r)
      for (int n = 0; n < NB; ++n)
        sums[r][n] = add ? load<T>(to + n * to_panel + (s + r) * V) : start ? load<T>(start + n * V) : T{};
    for (int k0 = 0; k0 < depth; k0 += V) {
      const S* const rows = a + k0 / V * a_panel + s * V;
      const S* const columns = b + i64(k0) * V;
      const int most = depth - k0 < V ? depth - k0 : V;
      BPX_UNROLL_SOME
      for (int k = 0; k < most; ++k) {
        T x[NB];
        BPX_UNROLL
        for (int n = 0; n < NB; ++n) x[n] = load<T>(columns + n * b_panel + k * V);
        BPX_UNROLL
        for (int r = 0; r < MR; ++r) {
          const T y = c<T>(rows[r * V + k]);
          BPX_UNROLL
          for (int n = 0; n < NB; ++n) sums[r][n] = fma(y, x[n], sums[r][n]);
        }
      }
    }
    for (int r = 0; r < MR; ++r)
      for (int n = 0; n < NB; ++n) store<T>(to + n * to_panel + (s + r) * V, sums[r][n]);
  }
}

/// Calls op(first, count) for consecutive blocks of at most MOST of n, count as a template argument.
template <int MOST, class Op> BPX_FN void panel_blocks(int n, Op op) {
  int first = 0;
  for (; n - first >= 2 * MOST || n - first == MOST; first += MOST) op(first, Index<MOST>());
  const int rest = n - first, half = rest > MOST ? (rest + 1) / 2 : rest;  // two even blocks, not a full one and a sliver
  const int counts[] = {half, rest - half};
  for (int count : counts) {
    if constexpr (MOST >= 4) { if (count == 4) op(first, Index<4>()); }
    if constexpr (MOST >= 3) { if (count == 3) op(first, Index<3>()); }
    if (count == 2) op(first, Index<2>());
    if (count == 1) op(first, Index<1>());
    first += count;
  }
}

/// All panels of to (+)= a b (+ start), in slices of depth.
template <class S>
static void products(int depth, const S* a, i64 a_panel, const S* b, i64 b_panel, S* to, i64 to_panel, int count, int samples,
                     const S* start, bool add = false) {
  constexpr int V = panel<S>;
  panel_blocks<product_panels>(count, [&](int n, auto size) __attribute__((always_inline)) {
    constexpr int NB = decltype(size)::value;
    for (int k = 0; k < depth; k += product_depth) {
      const int slice = depth - k < product_depth ? depth - k : product_depth;
      product<NB>(slice, a + k / V * a_panel, a_panel, b + n * b_panel + i64(k) * V, b_panel, to + n * to_panel, to_panel,
                  samples, start ? start + n * V : nullptr, add || k > 0);
    }
  });
}

/// dw[i][o] (+)= sum over the samples of g[o][s] * z[i][s], for NB panels of z and all rows of dw.
template <int NB, class S>
static __attribute__((noinline)) void weight_product(int samples, const S* g, i64 g_panel, const S* z, i64 z_panel, S* dw,
                                                     i64 dw_panel, int rows, bool add) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>, MR = weight_rows;
  for (int o = 0; o < rows; o += MR) {
    T sums[MR][NB];
    for (int r = 0; r < MR; ++r)
      for (int n = 0; n < NB; ++n) sums[r][n] = add ? load<T>(dw + n * dw_panel + (o + r) * V) : T{};
    const S* const outputs = g + o / V * g_panel + o % V;
    BPX_UNROLL_SOME
    for (int s = 0; s < samples; ++s) {
      T x[NB];
      BPX_UNROLL
      for (int n = 0; n < NB; ++n) x[n] = load<T>(z + n * z_panel + i64(s) * V);
      BPX_UNROLL
      for (int r = 0; r < MR; ++r) {
        const T y = c<T>(outputs[i64(s) * V + r]);
        BPX_UNROLL
        for (int n = 0; n < NB; ++n) sums[r][n] = fma(y, x[n], sums[r][n]);
      }
    }
    for (int r = 0; r < MR; ++r)
      for (int n = 0; n < NB; ++n) store<T>(dw + n * dw_panel + (o + r) * V, sums[r][n]);
  }
}

}  // namespace bpx
