#pragma once
// What a lane is: the value type that every kernel is a template over, here called T.
//
// On the GPU a lane is one float or double: one sample (or element) in one thread. On the CPU a lane is either
// that, or a Pack<S, U> of U vector registers of S = float or double. Both offer: + - * / and unary -, with
// comparisons giving masks, where(mask, a, b), fma, abs, sqrt, copysign, and constants c<T>(0.5); so one text
// serves both. Masks are bool, or a pack of integer vectors.
//
// Code for float holds no double arithmetic, and no header is needed where this is compiled by NVRTC.

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define BPX_CUDA 1
#define BPX_FN __device__ __forceinline__
#define BPX_ENTRY extern "C" __global__
#else
#define BPX_CUDA 0
#define BPX_FN inline __attribute__((always_inline))
#define BPX_ENTRY extern "C" __attribute__((visibility("default")))
/// For the caller, which mirrors the struct (backprop_xp/programs/structs.py), to compare its size.
#define BPX_SIZE_OF(STRUCT) BPX_ENTRY bpx::i64 bpx_sizeof_##STRUCT() { return sizeof(bpx::STRUCT); }
/// Libraries that work together have registers of one width.
#define BPX_VECTOR_BYTES_ENTRY BPX_ENTRY bpx::i64 bpx_vector_bytes() { return BPX_VECTOR_BYTES; }
#ifndef BPX_VECTOR_BYTES
#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define BPX_VECTOR_BYTES 64
#elif defined(__AVX__)
#define BPX_VECTOR_BYTES 32
#else
#define BPX_VECTOR_BYTES 16
#endif
#endif
#endif

/// Before a loop with a constant number of turns; the second, before one that only the GPU unrolls, for its arrays are
/// registers.
#if BPX_CUDA || defined(__clang__)
#define BPX_UNROLL _Pragma("unroll")
#else
#define BPX_UNROLL _Pragma("GCC unroll 64")
#endif
#if BPX_CUDA
#define BPX_UNROLL_OUTER BPX_UNROLL
#elif defined(__clang__)
#define BPX_UNROLL_OUTER _Pragma("nounroll")
#else
#define BPX_UNROLL_OUTER _Pragma("GCC unroll 1")
#endif

namespace bpx {

using i64 = long long;

/// The number type of a lane, and how many of them it holds.
template <class T> struct Lane { using Scalar = T; static constexpr int width = 1; };
template <class T> using Scalar = typename Lane<T>::Scalar;

// ---- one number -------------------------------------------------------------------------------------------

BPX_FN float where(bool mask, float a, float b) { return mask ? a : b; }
BPX_FN double where(bool mask, double a, double b) { return mask ? a : b; }

#if BPX_CUDA
BPX_FN float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
BPX_FN double fma(double a, double b, double c) { return ::fma(a, b, c); }
BPX_FN float abs(float a) { return ::fabsf(a); }
BPX_FN double abs(double a) { return ::fabs(a); }
BPX_FN float sqrt(float a) { return ::sqrtf(a); }
BPX_FN double sqrt(double a) { return ::sqrt(a); }
template <class T> BPX_FN T c(double number) { return T(number); }
template <class T> BPX_FN T c(float number) { return T(number); }
template <class T> BPX_FN T load(const T* from) { return *from; }
template <class T> BPX_FN void store(T* to, T a) { *to = a; }
/// What was loaded before is loaded again where it is used after this, rather than kept in registers.
BPX_FN void forget_loads() { asm volatile("" ::: "memory"); }

#else
BPX_FN float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
BPX_FN double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
BPX_FN float abs(float a) { return __builtin_fabsf(a); }
BPX_FN double abs(double a) { return __builtin_fabs(a); }
BPX_FN float sqrt(float a) { return __builtin_sqrtf(a); }
BPX_FN double sqrt(double a) { return __builtin_sqrt(a); }
BPX_FN float copysign(float size, float sign) { return __builtin_copysignf(size, sign); }
BPX_FN double copysign(double size, double sign) { return __builtin_copysign(size, sign); }

// ---- the vector register ------------------------------------------------------------------------------------

/// Vector registers (the vector extension of GCC and Clang): V of numbers, Bits of unsigned integers of their size,
/// I of what a comparison gives.
template <class S> struct Register;
template <> struct Register<float> {
  typedef float V __attribute__((vector_size(BPX_VECTOR_BYTES)));
  typedef unsigned Bits __attribute__((vector_size(BPX_VECTOR_BYTES)));
  typedef decltype(V() < V()) I;
};
template <> struct Register<double> {
  typedef double V __attribute__((vector_size(BPX_VECTOR_BYTES)));
  typedef unsigned long long Bits __attribute__((vector_size(BPX_VECTOR_BYTES)));
  typedef decltype(V() < V()) I;
};
using VF = Register<float>::V;
using VD = Register<double>::V;

// What the vector extension lacks. Compiled without the instruction, the loops are slow but give the same.
#if BPX_VECTOR_BYTES == 64 && defined(__AVX512F__)
BPX_FN VF fma(VF a, VF b, VF c) { return __builtin_ia32_vfmaddps512_mask(a, b, c, -1, 4); }
BPX_FN VD fma(VD a, VD b, VD c) { return __builtin_ia32_vfmaddpd512_mask(a, b, c, -1, 4); }
#elif BPX_VECTOR_BYTES == 32 && defined(__FMA__)
BPX_FN VF fma(VF a, VF b, VF c) { return __builtin_ia32_vfmaddps256(a, b, c); }
BPX_FN VD fma(VD a, VD b, VD c) { return __builtin_ia32_vfmaddpd256(a, b, c); }
#elif BPX_VECTOR_BYTES == 16 && defined(__FMA__)
BPX_FN VF fma(VF a, VF b, VF c) { return __builtin_ia32_vfmaddps(a, b, c); }
BPX_FN VD fma(VD a, VD b, VD c) { return __builtin_ia32_vfmaddpd(a, b, c); }
#else
template <class V> BPX_FN V fma_each(V a, V b, V c) {
  for (unsigned k = 0; k < sizeof(V) / sizeof(a[0]); ++k) a[k] = fma(a[k], b[k], c[k]);
  return a;
}
BPX_FN VF fma(VF a, VF b, VF c) { return fma_each(a, b, c); }
BPX_FN VD fma(VD a, VD b, VD c) { return fma_each(a, b, c); }
#endif

#if BPX_VECTOR_BYTES == 64 && defined(__AVX512F__)
// Which numbers to pick from registers.
typedef int IF __attribute__((vector_size(64)));
typedef long long ID __attribute__((vector_size(64)));

/// Number k of the result is number index[k] of a and b together.
#ifdef __clang__
BPX_FN VF permute(VF a, VF b, IF index) { return __builtin_ia32_vpermi2varps512(a, index, b); }
BPX_FN VD permute(VD a, VD b, ID index) { return __builtin_ia32_vpermi2varpd512(a, index, b); }
#else
BPX_FN VF permute(VF a, VF b, IF index) { return __builtin_ia32_vpermt2varps512_mask(index, a, b, -1); }
BPX_FN VD permute(VD a, VD b, ID index) { return __builtin_ia32_vpermt2varpd512_mask(index, a, b, -1); }
#endif
template <class S> struct Picks;
template <> struct Picks<float> { using I = IF; };
template <> struct Picks<double> { using I = ID; };
#endif

template <class V> BPX_FN V sqrt_each(V a) {
  for (unsigned k = 0; k < sizeof(V) / sizeof(a[0]); ++k) a[k] = sqrt(a[k]);
  return a;
}
BPX_FN VF sqrt(VF a) { return sqrt_each(a); }
BPX_FN VD sqrt(VD a) { return sqrt_each(a); }

// ---- packs ----------------------------------------------------------------------------------------------------

/// U registers, U a power of two.
template <class S, int U> struct Pack { Pack<S, U / 2> lo, hi; };
template <class S> struct Pack<S, 1> { typename Register<S>::V v; };
/// One truth value for each number of a pack: all bits set or none.
template <class S, int U> struct Mask { Mask<S, U / 2> lo, hi; };
template <class S> struct Mask<S, 1> { typename Register<S>::I v; };

template <class S, int U> struct Lane<Pack<S, U>> {
  using Scalar = S;
  static constexpr int width = U * (BPX_VECTOR_BYTES / int(sizeof(S)));
};

#define BPX_EACH(RESULT, NAME, PARAMS, WHOLE, ...)                                                    \
  template <class S> BPX_FN RESULT<S, 1> NAME PARAMS(1) { return {WHOLE}; }                           \
  template <class S, int U> BPX_FN RESULT<S, U> NAME PARAMS(U) { return __VA_ARGS__; }
#define BPX_ONE(U) (Pack<S, U> a)
#define BPX_TWO(U) (Pack<S, U> a, Pack<S, U> b)
#define BPX_THREE(U) (Pack<S, U> a, Pack<S, U> b, Pack<S, U> c)
#define BPX_MASKS(U) (Mask<S, U> a, Mask<S, U> b)
#define BPX_CHOICE(U) (Mask<S, U> m, Pack<S, U> a, Pack<S, U> b)

BPX_EACH(Pack, operator+, BPX_TWO, a.v + b.v, {a.lo + b.lo, a.hi + b.hi})
BPX_EACH(Pack, operator-, BPX_TWO, a.v - b.v, {a.lo - b.lo, a.hi - b.hi})
BPX_EACH(Pack, operator*, BPX_TWO, a.v * b.v, {a.lo * b.lo, a.hi * b.hi})
BPX_EACH(Pack, operator/, BPX_TWO, a.v / b.v, {a.lo / b.lo, a.hi / b.hi})
BPX_EACH(Pack, operator-, BPX_ONE, -a.v, {-a.lo, -a.hi})
BPX_EACH(Mask, operator<, BPX_TWO, a.v < b.v, {a.lo < b.lo, a.hi < b.hi})
BPX_EACH(Mask, operator<=, BPX_TWO, a.v <= b.v, {a.lo <= b.lo, a.hi <= b.hi})
BPX_EACH(Mask, operator>, BPX_TWO, a.v > b.v, {a.lo > b.lo, a.hi > b.hi})
BPX_EACH(Mask, operator>=, BPX_TWO, a.v >= b.v, {a.lo >= b.lo, a.hi >= b.hi})
BPX_EACH(Mask, operator==, BPX_TWO, a.v == b.v, {a.lo == b.lo, a.hi == b.hi})
BPX_EACH(Mask, operator!=, BPX_TWO, a.v != b.v, {a.lo != b.lo, a.hi != b.hi})
BPX_EACH(Mask, operator&&, BPX_MASKS, a.v & b.v, {a.lo && b.lo, a.hi && b.hi})
BPX_EACH(Mask, operator||, BPX_MASKS, a.v | b.v, {a.lo || b.lo, a.hi || b.hi})
BPX_EACH(Pack, where, BPX_CHOICE, m.v ? a.v : b.v, {where(m.lo, a.lo, b.lo), where(m.hi, a.hi, b.hi)})
BPX_EACH(Pack, fma, BPX_THREE, fma(a.v, b.v, c.v), {fma(a.lo, b.lo, c.lo), fma(a.hi, b.hi, c.hi)})
BPX_EACH(Pack, sqrt, BPX_ONE, sqrt(a.v), {sqrt(a.lo), sqrt(a.hi)})

template <class S, int U> BPX_FN Pack<S, U>& operator+=(Pack<S, U>& a, Pack<S, U> b) { return a = a + b; }

// -0 has only the sign's bit set
template <class S> BPX_FN typename Register<S>::Bits bits(Pack<S, 1> a) { return (typename Register<S>::Bits)a.v; }
template <class S> BPX_FN Pack<S, 1> abs(Pack<S, 1> a) {
  const Pack<S, 1> sign{-typename Register<S>::V{}};
  return {(typename Register<S>::V)(bits(a) & ~bits(sign))};
}
template <class S> BPX_FN Pack<S, 1> copysign(Pack<S, 1> a, Pack<S, 1> b) {
  const Pack<S, 1> sign{-typename Register<S>::V{}};
  return {(typename Register<S>::V)((bits(a) & ~bits(sign)) | (bits(b) & bits(sign)))};
}
template <class S, int U> BPX_FN Pack<S, U> abs(Pack<S, U> a) { return {abs(a.lo), abs(a.hi)}; }
template <class S, int U> BPX_FN Pack<S, U> copysign(Pack<S, U> a, Pack<S, U> b) {
  return {copysign(a.lo, b.lo), copysign(a.hi, b.hi)};
}

/// The sign of b for a number that is not negative.
template <class S> BPX_FN Pack<S, 1> with_sign(Pack<S, 1> a, Pack<S, 1> b) {
  const Pack<S, 1> sign{-typename Register<S>::V{}};
  return {(typename Register<S>::V)(bits(a) | (bits(b) & bits(sign)))};
}
template <class S, int U> BPX_FN Pack<S, U> with_sign(Pack<S, U> a, Pack<S, U> b) {
  return {with_sign(a.lo, b.lo), with_sign(a.hi, b.hi)};
}
BPX_FN float with_sign(float a, float b) { return copysign(a, b); }
BPX_FN double with_sign(double a, double b) { return copysign(a, b); }

// ---- constants, loads and stores --------------------------------------------------------------------------------

template <class T> struct Make {  // of one number
  BPX_FN static T all(T number) { return number; }
  BPX_FN static T load(const T* from) { return *from; }
  BPX_FN static void store(T* to, T a) { *to = a; }
};
template <class S> struct Make<Pack<S, 1>> {
  using V = typename Register<S>::V;
  struct Unaligned { V v; } __attribute__((packed, may_alias));
  BPX_FN static Pack<S, 1> all(S number) { return {number - V{}}; }  // x - 0 is x, the sign of -0 included
  BPX_FN static Pack<S, 1> load(const S* from) { return {((const Unaligned*)from)->v}; }
  BPX_FN static void store(S* to, Pack<S, 1> a) { ((Unaligned*)to)->v = a.v; }
};
template <class S, int U> struct Make<Pack<S, U>> {
  using Half = Make<Pack<S, U / 2>>;
  static constexpr int half = Lane<Pack<S, U / 2>>::width;
  BPX_FN static Pack<S, U> all(S number) { return {Half::all(number), Half::all(number)}; }
  BPX_FN static Pack<S, U> load(const S* from) { return {Half::load(from), Half::load(from + half)}; }
  BPX_FN static void store(S* to, Pack<S, U> a) {
    Half::store(to, a.lo);
    Half::store(to + half, a.hi);
  }
};

/// A number in every place of a lane; it is rounded to the lane's precision first.
template <class T, class N> BPX_FN T c(N number) { return Make<T>::all(Scalar<T>(number)); }
/// A lane from, and to, contiguous memory of any alignment.
template <class T> BPX_FN T load(const Scalar<T>* from) { return Make<T>::load(from); }
template <class T> BPX_FN void store(Scalar<T>* to, T a) { Make<T>::store(to, a); }
#endif

}  // namespace bpx
