#pragma once
#include "transpose_cpu.h"
#if BPX_VECTOR_BYTES == 64 && defined(__AVX512BF16__)
#include <immintrin.h>  // compilers call the instructions by names of their own
#endif
// What the products of matrix_products.h multiply: numbers as they are (Exact), or numbers rounded to bfloat16, of which one
// instruction multiplies two with two others and adds both products to a sum (Bfloat16). Nothing else names its instructions.
//
// A bfloat16 is the upper half of a float: 8 bits of the number, and float's range. It is rounded to the nearest, ties to
// even. Two of them stand in the place of one float, the first in its low bits. A product over features wants pairs of
// neighbouring features; one over samples, a weight's gradient, wants pairs of neighbouring samples. A panel of signals holds
// both once it is converted, in the place of its numbers: of samples s (even) and s + 1,
//
//   the place of sample s       V pairs of samples: of feature i those numbers of s and s + 1
//   the place of sample s + 1   V / 2 pairs of features of sample s, then those of s + 1
//
// The instructions take numbers below 1.2e-38 for zeros, and give zeros for such sums. Where the compiler doesn't have them
// loops compute the same, but for those, and are slow.

namespace bpx {

/// Numbers in a vector register; features stand in panels of so many.
template <class S> constexpr int panel = BPX_VECTOR_BYTES / int(sizeof(S));
template <class S> constexpr int panels(i64 features) { return int((features + panel<S> - 1) / panel<S>); }

/// The first `count` numbers of a register from memory, zeros after them; and to memory. Nothing else is touched.
template <class S> BPX_FN Pack<S, 1> load_part(const S* from, int count) {
  if (count >= panel<S>) return load<Pack<S, 1>>(from);
#if BPX_VECTOR_BYTES == 64 && defined(__AVX512F__)
  return {load_first(from, count)};
#else
  S buffer[panel<S>] = {};
  for (int k = 0; k < count; ++k) buffer[k] = from[k];
  return load<Pack<S, 1>>(buffer);
#endif
}
template <class S> BPX_FN void store_part(S* to, Pack<S, 1> a, int count) {
  if (count >= panel<S>) return store<Pack<S, 1>>(to, a);
#if BPX_VECTOR_BYTES == 64 && defined(__AVX512F__)
  store_first(to, a.v, count);
#else
  S buffer[panel<S>];
  store<Pack<S, 1>>(buffer, a);
  for (int k = 0; k < count; ++k) to[k] = buffer[k];
#endif
}

/// Numbers as they are.
template <class Number> struct Exact {
  using S = Number;
  using T = Pack<S, 1>;
  static constexpr int V = panel<S>;
  /// Numbers in one place of a register.
  static constexpr int together = 1;

  /// sum + x y, and sum + x: of every place, all its numbers.
  BPX_FN static T multiply_add(T x, T y, T sum) { return fma(x, y, sum); }
  BPX_FN static T add(T x, T sum) { return sum + x; }
  /// What stands in one place, in all places.
  BPX_FN static T everywhere(const S& place) { return c<T>(place); }
  /// Where the features of row r of a panel begin, whose rows are `row` apart: V, but with few samples.
  BPX_FN static i64 features(int r, i64 row) { return r * row; }

  /// A panel of signals, as they were computed, to what products multiply.
  BPX_FN static void convert(S*, i64, int) {}
  /// Columns of W as rows: `rows` <= V by `columns` <= V * together of a W whose rows are `row` apart.
  BPX_FN static void pack_columns(const S* w, i64 row, int rows, int columns, S* to) {
    transpose_square(w, row, rows, columns, to, V);
  }
  /// `rows` <= together rows of W, of V columns or fewer.
  BPX_FN static T pack_rows(const S* w, i64, int, int columns) { return load_part<S>(w, columns); }
};

/// Pairs of bfloat16.
struct Bfloat16 {
  using S = float;
  using T = Pack<S, 1>;
  static constexpr int V = panel<S>;
  static constexpr int together = 2;

#if BPX_VECTOR_BYTES == 64 && defined(__AVX512BF16__)
  BPX_FN static T multiply_add(T x, T y, T sum) {
    return {(Register<S>::V)_mm512_dpbf16_ps((__m512)sum.v, (__m512bh)x.v, (__m512bh)y.v)};
  }
  /// The pairs of neighbours of a, then those of b.
  BPX_FN static T neighbours(T a, T b) {
    return {(Register<S>::V)_mm512_cvtne2ps_pbh((__m512)b.v, (__m512)a.v)};
  }
  /// Each number of a with that of b.
  BPX_FN static T abreast(T a, T b) {
    short from[2 * V];
    BPX_UNROLL
    for (int k = 0; k < 2 * V; ++k) from[k] = k / 2 + k % 2 * V;
    return {(Register<S>::V)_mm512_permutexvar_epi16(_mm512_loadu_si512(from), (__m512i)neighbours(a, b).v)};
  }
#else
  using Bits = Register<S>::Bits;
  BPX_FN static T low(T pairs) { return {(Register<S>::V)(bits(pairs) << 16)}; }
  BPX_FN static T high(T pairs) { return {(Register<S>::V)(bits(pairs) & 0xffff0000u)}; }
  BPX_FN static T multiply_add(T x, T y, T sum) { return fma(low(x), low(y), fma(high(x), high(y), sum)); }
  /// In the upper half of each place.
  BPX_FN static Bits rounded(T a) {
    const Bits number = bits(a), up = number + 0x7fff + (number >> 16 & 1);
    return a.v == a.v ? up : number | 0x400000;
  }
  BPX_FN static T abreast(T a, T b) { return {(Register<S>::V)(rounded(a) >> 16 | (rounded(b) & 0xffff0000u))}; }
  BPX_FN static T neighbours(T a, T b) {
    S numbers[2 * V], first[V], second[V];
    store(numbers, a), store(numbers + V, b);
    for (int k = 0; k < V; ++k) first[k] = numbers[2 * k], second[k] = numbers[2 * k + 1];
    return abreast(load<T>(first), load<T>(second));
  }
#endif
  BPX_FN static T add(T x, T sum) { return multiply_add(x, {(Register<S>::V)(Register<S>::Bits{} + 0x3f803f80u)}, sum); }
  BPX_FN static T everywhere(const S& place) {  // as bits: as a number a pair might be a NaN that signals
    unsigned pair;
    __builtin_memcpy(&pair, &place, sizeof pair);
    return {(Register<S>::V)(Register<S>::Bits{} + pair)};
  }
  BPX_FN static i64 features(int r, i64) { return (r & ~1) * V + V + (r & 1) * (V / 2); }

  /// `rows` of a panel, of which `features` are real: what fills it becomes zeros, as does the row after an odd last one.
  static void convert(S* signals, i64 rows, int features) {
    for (i64 s = 0; s < rows; s += 2) {
      S* const at = signals + s * V;
      const T a = load_part<S>(at, features), b = s + 1 < rows ? load_part<S>(at + V, features) : T{};
      store(at, abreast(a, b));
      store(at + V, neighbours(a, b));
    }
  }
  static void pack_columns(const S* w, i64 row, int rows, int columns, S* to) {
    alignas(64) S pairs[V * V];
    for (int r = 0; r < rows; ++r, w += row)
      store(pairs + r * V, neighbours(load_part<S>(w, columns), columns > V ? load_part<S>(w + V, columns - V) : T{}));
    transpose_square(pairs, V, rows, (columns + 1) / 2, to, V);
  }
  BPX_FN static T pack_rows(const S* w, i64 row, int rows, int columns) {
    return abreast(load_part<S>(w, columns), rows > 1 ? load_part<S>(w + row, columns) : T{});
  }
};

}  // namespace bpx
