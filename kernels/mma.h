#pragma once
#include "lane.h"
// What a warp's tensor cores do (sm_80 on), and how their numbers are written. Nothing else names the instructions.
//
// d = a b + c, of 16 x DEPTH and DEPTH x 8 numbers, which lie in the threads' registers as PTX says ("matrix fragments for
// mma.m16n8k8", and m16n8k16): thread 4 g + t has
//
//   a[0], a[2]   of row g      columns t and t + 4; of half formats, pairs of columns from 2 t and 2 t + 8 on
//   a[1], a[3]   of row g + 8
//   b[0], b[1]   of column g   the rows as the columns of a
//   d[0], d[1]   of row g      columns 2 t and 2 t + 1, as c
//   d[2], d[3]   of row g + 8
//
// Products are exact, sums are float. How the hardware rounds within one such sum it doesn't say. Where the kernels are
// executed on a CPU, by an emulation, which defines CUDACPU, the sum is rounded once.

namespace bpx {

/// One number of 32 bits, or two of 16, the first in the low bits.
using Word = unsigned;

#ifdef CUDACPU
BPX_FN Word to_tf32(float x) { return emu::cvt_rna_tf32(x); }
#define BPX_MMA(NAME, SHAPE, EMULATED)                                                                        \
  BPX_FN void NAME(float (&d)[4], const Word (&a)[4], const Word (&b)[2], const float (&c)[4]) { EMULATED(d, a, b, c); }
BPX_FN Word to_bfloat16(float x) {
  const Word bits = __float_as_uint(x);
  return x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
BPX_FN Word to_float16(float x) {
  const _Float16 half = x;
  unsigned short bits;
  __builtin_memcpy(&bits, &half, 2);
  return bits;
}
BPX_FN Word lows(Word a, Word b) { return (a & 0xffffu) | b << 16; }
BPX_FN Word highs(Word a, Word b) { return a >> 16 | (b & 0xffff0000u); }
BPX_FN float rest_of(float x, float most) { return x - x == 0.0f ? x - most : 0.0f; }
BPX_FN Word pair_of_bfloat16(float low, float high) { return to_bfloat16(low) | to_bfloat16(high) << 16; }
BPX_FN Word pair_of_float16(float low, float high) { return to_float16(low) | to_float16(high) << 16; }
BPX_FN float from_float16(Word bits) {
  const unsigned short low = bits;
  _Float16 half;
  __builtin_memcpy(&half, &low, 2);
  return half;
}
#else
BPX_FN Word lows(Word a, Word b) { return __byte_perm(a, b, 0x5410); }
BPX_FN Word highs(Word a, Word b) { return __byte_perm(a, b, 0x7632); }
BPX_FN float rest_of(float x, float most) { return x - most; }
BPX_FN Word to_tf32(float x) {
  Word rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
  return rounded;
}
#define BPX_MMA(NAME, SHAPE, EMULATED)                                                                        \
  BPX_FN void NAME(float (&d)[4], const Word (&a)[4], const Word (&b)[2], const float (&c)[4]) {              \
    asm volatile("mma.sync.aligned." SHAPE " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};" \
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])                                             \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),    \
                   "f"(c[2]), "f"(c[3]));                                                                     \
  }
BPX_FN Word pair_of_bfloat16(float low, float high) {
  Word pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
BPX_FN Word pair_of_float16(float low, float high) {
  Word pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
BPX_FN float from_float16(Word bits) {
  float number;
  asm("{ .reg .b16 low; cvt.u16.u32 low, %1; cvt.f32.f16 %0, low; }" : "=f"(number) : "r"(bits));
  return number;
}
#endif

BPX_MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32", emu::mma_m16n8k8_tf32)
BPX_MMA(mma_bfloat16, "m16n8k16.row.col.f32.bf16.bf16.f32", emu::mma_m16n8k16_bf16)
BPX_MMA(mma_float16, "m16n8k16.row.col.f32.f16.f16.f32", emu::mma_m16n8k16_f16)

// ---- precisions -------------------------------------------------------------------------------------------------
//
// A precision has
//
//   each           numbers in a word
//   parts          words of a factor's that stand for one
//   depth          of one product
//   scaled         whether gradients need a factor of their own, lest they become 0 (or infinite)
//   word(v)        the word of `each` numbers
//   numbers(w, v)  and back
//   split(w, p)    the parts of a word
//   add(d, a, b)   d += a b

/// 11 bits of each factor. The exponent is float's.
struct Tf32 {
  static constexpr int each = 1, parts = 1, depth = 8;
  static constexpr bool scaled = false;
  BPX_FN static Word word(const float* v) { return to_tf32(v[0]); }
  BPX_FN static void numbers(Word w, float* v) { v[0] = __uint_as_float(w); }
  BPX_FN static void split(Word w, Word (&part)[1]) { part[0] = w; }
  BPX_FN static void add(float (&d)[4], const Word (&a)[1][4], const Word (&b)[1][2]) { mma_tf32(d, a[0], b[0], d); }
};

/// 22 bits of each factor: the first 11, and 11 of the rest, rounded (tensor cores don't read the last 13 of a word). The
/// rest of infinity is NaN, which a device writes as 0x7fffffff: plus 0x1000 it is 0. The product of the rests, 2^-20 of
/// the whole or less, is left out. Each product's sum is added in float, rounded to nearest.
struct Tf32x3 {
  static constexpr int each = 1, parts = 2, depth = 8;
  static constexpr bool scaled = false;
  BPX_FN static Word word(const float* v) { return __float_as_uint(v[0]); }
  BPX_FN static void numbers(Word w, float* v) { v[0] = __uint_as_float(w); }
  BPX_FN static void split(Word w, Word (&part)[2]) {
    part[0] = w & 0xffffe000u;
    part[1] = __float_as_uint(rest_of(__uint_as_float(w), __uint_as_float(part[0]))) + 0x1000;
  }
  BPX_FN static void add(float (&d)[4], const Word (&a)[2][4], const Word (&b)[2][2]) {
    const float none[4] = {};
    float sum[4];
    mma_tf32(sum, a[1], b[0], none);
    mma_tf32(sum, a[0], b[1], sum);
    mma_tf32(sum, a[0], b[0], sum);
    BPX_UNROLL
    for (int i = 0; i < 4; ++i) d[i] = d[i] + sum[i];
  }
};

/// 8 bits of each factor. The exponent is float's.
struct BFloat16 {
  static constexpr int each = 2, parts = 1, depth = 16;
  static constexpr bool scaled = false;
  BPX_FN static Word word(const float* v) { return pair_of_bfloat16(v[0], v[1]); }
  BPX_FN static void numbers(Word w, float* v) {
    v[0] = __uint_as_float(w << 16);
    v[1] = __uint_as_float(w & 0xffff0000u);
  }
  BPX_FN static void split(Word w, Word (&part)[1]) { part[0] = w; }
  BPX_FN static void add(float (&d)[4], const Word (&a)[1][4], const Word (&b)[1][2]) { mma_bfloat16(d, a[0], b[0], d); }
};

/// 11 bits of each factor, from 2^-14 to 65504; fewer bits down to 2^-24.
struct Float16 {
  static constexpr int each = 2, parts = 1, depth = 16;
  static constexpr bool scaled = true;
  BPX_FN static Word word(const float* v) { return pair_of_float16(v[0], v[1]); }
  BPX_FN static void numbers(Word w, float* v) {
    v[0] = from_float16(w & 0xffff);
    v[1] = from_float16(w >> 16);
  }
  BPX_FN static void split(Word w, Word (&part)[1]) { part[0] = w; }
  BPX_FN static void add(float (&d)[4], const Word (&a)[1][4], const Word (&b)[1][2]) { mma_float16(d, a[0], b[0], d); }
};

}  // namespace bpx
