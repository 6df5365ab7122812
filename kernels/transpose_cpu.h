#pragma once
#include "dense.h"
// Squares of numbers, as many rows as a register has places, transposed in registers where the processor can pick numbers
// from two registers at will.

namespace bpx {

#if BPX_VECTOR_BYTES == 64 && defined(__AVX512F__)
constexpr bool have_permute = true;
/// The first `count` numbers of a register, zeros after them; nothing else is read or written.
BPX_FN VF load_first(const float* from, int count) {
  return __builtin_ia32_loadups512_mask(from, VF{}, (unsigned short)((1u << count) - 1));
}
BPX_FN VD load_first(const double* from, int count) {
  return __builtin_ia32_loadupd512_mask(from, VD{}, (unsigned char)((1u << count) - 1));
}
BPX_FN void store_first(float* to, VF a, int count) {
  __builtin_ia32_storeups512_mask(to, a, (unsigned short)((1u << count) - 1));
}
BPX_FN void store_first(double* to, VD a, int count) {
  __builtin_ia32_storeupd512_mask(to, a, (unsigned char)((1u << count) - 1));
}

/// A square of registers, transposed: off-diagonal blocks of 1, 2, 4, ... numbers change places.
template <class S> BPX_FN void transpose(typename Register<S>::V (&rows)[64 / sizeof(S)]) {
  constexpr int lanes = 64 / sizeof(S);
  BPX_UNROLL
  for (int block = 1; block < lanes; block *= 2) {
    typename Picks<S>::I upper, lower;
    BPX_UNROLL
    for (int k = 0; k < lanes; ++k) {
      upper[k] = k & block ? lanes + k - block : k;
      lower[k] = k & block ? lanes + k : k + block;
    }
    BPX_UNROLL
    for (int r = 0; r < lanes; ++r) {
      if (r & block) continue;
      const auto a = rows[r], b = rows[r + block];
      rows[r] = permute(a, b, upper);
      rows[r + block] = permute(a, b, lower);
    }
  }
}
#else
constexpr bool have_permute = false;
#endif

/// to[c * to_row + r] = from[r * from_row + c] for a square, of which `rows` by `columns` are there and the rest is 0.
template <class S> BPX_FN void transpose_square(const S* from, i64 from_row, int rows, int columns, S* to, i64 to_row) {
  constexpr int lanes = Lane<Pack<S, 1>>::width;
#if BPX_VECTOR_BYTES == 64 && defined(__AVX512F__)
  typename Register<S>::V square[lanes];
  BPX_UNROLL
  for (int r = 0; r < lanes; ++r) square[r] = load_first(from + (r < rows ? r : 0) * from_row, r < rows ? columns : 0);
  transpose<S>(square);
  BPX_UNROLL
  for (int c = 0; c < lanes; ++c)
    if (c < columns) store<Pack<S, 1>>(to + c * to_row, {square[c]});
#else
  for (int c = 0; c < columns; ++c)
    for (int r = 0; r < lanes; ++r) to[c * to_row + r] = r < rows ? from[r * from_row + c] : S(0);
#endif
}

}  // namespace bpx
