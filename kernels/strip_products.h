#pragma once
#include "transpose_cpu.h"
#include "matrix_products.h"
// Matrix products of strips, for matrices whose sizes are known when the program runs.
//
// A strip holds one signal of some samples, two registers of them, feature by feature: feature i of sample s is at
// [i * strip + s]. A signal's derivatives are strips beside its own, so that a weight in a register serves all of them, and
// no register holds features that only fill it up: layers of 20 are as fast, for their size, as layers of 64.

namespace bpx {

/// Samples of a strip.
template <class S> constexpr int strip = 2 * panel<S>;
/// Sums that are kept in registers: rows of a strip (each two registers), and rows by columns of a weight's gradient.
#if BPX_VECTOR_BYTES == 64
constexpr int strip_rows = 12, outer_rows = 8, outer_columns = 3;
#else
constexpr int strip_rows = 6, outer_rows = 4, outer_columns = 2;
#endif

/// n features in as few blocks of at most `most` as can be, of about equal sizes.
struct Blocks {
  i64 n, count;
  Blocks(i64 n, i64 most) : n(n), count((n + most - 1) / most) {}
  i64 first(i64 b) const { return b * n / count; }
  int size(i64 b) const { return int(first(b + 1) - first(b)); }
};

/// A matrix (rows, columns) as strip_product() reads it: block by block of rows, and in a block column by column.
template <class S> static void pack_blocks(const S* w, i64 rows, i64 columns, i64 row, i64 column, S* to) {
  const Blocks blocks(rows, strip_rows);
  for (i64 b = 0; b < blocks.count; ++b)
    for (i64 k = 0; k < columns; ++k)
      for (i64 r = blocks.first(b); r < blocks.first(b + 1); ++r) *to++ = w[r * row + k * column];
}

/// to[r] = bias[r] + sum over k of w[r][k] * z[k], for MR rows of a strip; `bias` may be null.
template <int MR, class S> BPX_BLOCK void strip_block(i64 depth, const S* w, const S* z, const S* bias, S* to) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>;
  T sums[MR][2];
  BPX_UNROLL
  for (int r = 0; r < MR; ++r) sums[r][0] = sums[r][1] = bias ? c<T>(bias[r]) : T{};
  for (i64 k = 0; k < depth; ++k) {
    const T a = load<T>(z + k * strip<S>), b = load<T>(z + k * strip<S> + V);
    BPX_UNROLL
    for (int r = 0; r < MR; ++r) {
      const T y = c<T>(w[k * MR + r]);
      sums[r][0] = fma(y, a, sums[r][0]);
      sums[r][1] = fma(y, b, sums[r][1]);
    }
  }
  BPX_UNROLL
  for (int r = 0; r < MR; ++r) {
    store<T>(to + r * strip<S>, sums[r][0]);
    store<T>(to + r * strip<S> + V, sums[r][1]);
  }
}
/// The same for any number of rows and some strips, so many numbers apart, of which the first has the bias; with w from
/// pack_blocks(). `then(r, count)` is called with so many rows of all strips that are done, which are in the cache.
template <class S, class Then>
static void strip_products(i64 strips, i64 rows, i64 depth, const S* w, const S* z, i64 z_apart, const S* bias, S* to,
                           i64 to_apart, Then then) {
  const Blocks blocks(rows, strip_rows);
  for (i64 b = 0; b < blocks.count; ++b) {
    const i64 r = blocks.first(b);
    with_count<strip_rows>(blocks.size(b), [&](auto size) __attribute__((always_inline)) {
      for (i64 k = 0; k < strips; ++k)
        strip_block<decltype(size)::value>(depth, w + r * depth, z + k * z_apart, k || !bias ? nullptr : bias + r,
                                           to + k * to_apart + r * strip<S>);
    });
    then(r, i64(blocks.size(b)));
  }
}

/// Keeps the compiler from loading a register anew for every instruction that uses it, which takes as long as these.
template <class S> BPX_FN void once_from_memory(Pack<S, 1>& a) {
#if defined(__x86_64__)
  asm("" : "+v"(a.v));
#endif
}
/// dw[r][k] (+)= sum over the strips and their samples of g[r] * z[k], for MR rows and MC columns.
template <int MR, int MC, class S>
BPX_BLOCK void outer_block(i64 strips, const S* g, i64 g_apart, const S* z, i64 z_apart, S* dw, i64 dw_row, bool add) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>;
  T sums[MR * MC];
  BPX_UNROLL
  for (T& sum : sums) sum = T{};
  for (i64 p = 0; p < strips; ++p, g += g_apart, z += z_apart) {
    BPX_UNROLL
    for (int half = 0; half < 2 * V; half += V) {
      T x[MC];
      BPX_UNROLL
      for (int k = 0; k < MC; ++k) x[k] = load<T>(z + k * strip<S> + half);
      BPX_UNROLL
      for (int r = 0; r < MR; ++r) {
        T y = load<T>(g + r * strip<S> + half);
        once_from_memory(y);
        BPX_UNROLL
        for (int k = 0; k < MC; ++k) sums[r * MC + k] = fma(y, x[k], sums[r * MC + k]);
      }
    }
  }
  S totals[(MR * MC + V - 1) / V * V];
  add_up<MR * MC>(sums, totals);
  for (int r = 0; r < MR; ++r)
    for (int k = 0; k < MC; ++k) dw[r * dw_row + k] = add ? dw[r * dw_row + k] + totals[r * MC + k] : totals[r * MC + k];
}
/// The same for a whole weight; strips of g and of z are so many numbers apart.
template <class S>
static void outer_product(i64 strips, i64 rows, i64 columns, const S* g, i64 g_apart, const S* z, i64 z_apart, S* dw, bool add) {
  const Blocks down(rows, outer_rows), across(columns, outer_columns);
  for (i64 b = 0; b < down.count; ++b)
    for (i64 a = 0; a < across.count; ++a) {
      const i64 r = down.first(b), k = across.first(a);
      with_count<outer_rows>(down.size(b), [&](auto size) __attribute__((always_inline)) {
        with_count<outer_columns>(across.size(a), [&](auto width) __attribute__((always_inline)) {
          outer_block<decltype(size)::value, decltype(width)::value>(strips, g + r * strip<S>, g_apart, z + k * strip<S>, z_apart,
                                                                     dw + r * columns + k, columns, add);
        });
      });
    }
}
/// sums[r] (+)= the samples of row r of g added up, over strips that are so many numbers apart.
template <class S> static void row_sums(i64 strips, i64 rows, const S* g, i64 apart, S* sums, bool add) {
  using T = Pack<S, 1>;
  for (i64 r = 0; r < rows; ++r) {
    T total[1] = {};
    for (i64 p = 0; p < strips; ++p) {
      const S* const from = g + p * apart + r * strip<S>;
      total[0] = total[0] + (load<T>(from) + load<T>(from + panel<S>));
    }
    S sum[panel<S>];
    add_up<1>(total, sum);
    sums[r] = add ? sums[r] + sum[0] : sum[0];
  }
}

}  // namespace bpx
