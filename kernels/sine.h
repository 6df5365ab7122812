#pragma once
// sin and cos for every argument, on the CPU and for float on the GPU, where CUDA's compute in double: reduced by multiples
// of pi/2 in three steps of Cody and Waite (1980) with fma, and where those multiples are too large for that, one number at
// a time, by the bits of 2/pi that matter to it (Payne and Hanek, 1983).

#if BPX_CUDA
#define BPX_RARE static __device__ __noinline__
#else
#define BPX_RARE __attribute__((noinline))
#endif

namespace bpx {

/// pi/2 as a sum of three numbers, and the largest argument for which they suffice: k pi/2 is exact to some 2^-100.
template <class S> struct HalfPi;
template <> struct HalfPi<float> {
  static constexpr float inverse = 0.63661975f, first = 1.5707964f, second = -4.371139e-08f, third = -1.7151245e-15f;
  static constexpr float most = 65536.0f, magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  static constexpr int digits = 24, bias = 150, limbs = 3;       // of the bits of 2/pi that matter
};
#if !BPX_CUDA
template <> struct HalfPi<double> {
  static constexpr double inverse = 0.6366197723675814, first = 1.5707963267948966, second = 6.123233995736766e-17,
                          third = -1.4973849048591698e-33;
  static constexpr double most = 1073741824.0, magic = 6755399441055744.0;
  static constexpr int digits = 53, bias = 1075, limbs = 6;
};
#endif

/// turns pi/2 + high + low, with a whole number of turns, |high| up to pi/4 or a little more, and low its rounding error.
template <class T> struct Angle { T turns, high, low; };

template <class T> BPX_FN T nearest(T x) {
  const T magic = c<T>(HalfPi<Scalar<T>>::magic);
  return (x + magic) - magic;
}
template <class T> BPX_FN Angle<T> reduced(T x) {
  using P = HalfPi<Scalar<T>>;
  const T turns = nearest(x * c<T>(P::inverse));
  const T rest = fma(-turns, c<T>(P::first), x);  // exact
  // the product in two numbers, and its sum with the rest as well (Knuth's TwoSum): either may be the larger one
  const T product = fma(-turns, c<T>(P::second), c<T>(0.0f)), of_product = fma(-turns, c<T>(P::second), -product);
  const T high = rest + product, part = high - rest, of_sum = (rest - (high - part)) + (product - part);
  return {turns, high, fma(-turns, c<T>(P::third), of_sum + of_product)};
}

// sin(r) = r + r z S(z), z = r^2, |r| <= pi/4: relative to sin(r) good to 2^-37.5 and 2^-58. cos(r) = 1 - z/2 + z^2 C(z),
// good to 2^-34.1 and 2^-58. The coefficients are those of FreeBSD's msun.
template <class T> BPX_FN T sine_rest(T z, float) {
  const float S[] = {-1.6666667e-01f, 8.333329e-03f, -1.9839335e-04f, 2.7183114e-06f};
  return polynomial(z, S);
}
template <class T> BPX_FN T sine_rest(T z, double) {
  const double S[] = {-1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04,
                      2.75573137070700676789e-06,  -2.50507602534068634195e-08, 1.58969099521155010221e-10};
  return polynomial(z, S);
}
template <class T> BPX_FN T cosine_rest(T z, float) {
  const float C[] = {4.1666646e-02f, -1.3887316e-03f, 2.4432993e-05f};
  return polynomial(z, C);
}
template <class T> BPX_FN T cosine_rest(T z, double) {
  const double C[] = {4.16666666666666019037e-02,  -1.38888888888741095749e-03, 2.48015872894767294178e-05,
                      -2.75573143513906633035e-07, 2.08757232129817482790e-09,  -1.13596475577881948265e-11};
  return polynomial(z, C);
}

/// The sine of the angle's rest plus `turns` times pi/2: another number of turns than its own gives the cosine.
template <class T> BPX_FN T sine_of(Angle<T> r, T turns) {
  using S = Scalar<T>;
  const T one = c<T>(1.0f), half = c<T>(0.5f), z = r.high * r.high, half_z = half * z;
  const T sine = r.high + fma(r.high * z, sine_rest(z, S()), fma(-half_z, r.low, r.low));
  const T whole = one - half_z, lost = (one - whole) - half_z;
  const T cosine = whole + (lost + fma(z * z, cosine_rest(z, S()), -r.high * r.low));
  const T pairs = half * turns;
  const auto odd = pairs != nearest(pairs);
  const T halves = half * where(odd, pairs - half, pairs), value = where(odd, cosine, sine);
  return where(halves != nearest(halves), -value, value);
}

// ---- large arguments ----------------------------------------------------------------------------------------------

#if BPX_CUDA
BPX_FN unsigned long long bits_of(float x) { return __float_as_uint(x); }
#else
BPX_FN unsigned long long bits_of(float x) { return reinterpret<unsigned>(x); }
BPX_FN unsigned long long bits_of(double x) { return reinterpret<unsigned long long>(x); }
#endif

/// sin(x + quarters pi/2) for a large |x|: m = |x| 2^-e is a whole number, and of m 2^e 2/pi only what is no multiple of 4
/// matters. It comes of a few of the bits of 2/pi, from the place e on.
template <class S> BPX_RARE S far_sine(S x, int quarters) {
  using P = HalfPi<S>;
  using u64 = unsigned long long;
  if (!(x - x == S(0))) return x - x;  // infinite, or no number
  static const unsigned two_over_pi[] = {  // two words of zeros, and then the binary places behind the point
      0x00000000, 0x00000000,
      0xa2f9836e, 0x4e441529, 0xfc2757d1, 0xf534ddc0, 0xdb629599, 0x3c439041, 0xfe5163ab, 0xdebbc561,
      0xb7246e3a, 0x424dd2e0, 0x06492eea, 0x09d1921c, 0xfe1deb1c, 0xb129a73e, 0xe88235f5, 0x2ebb4484,
      0xe99c7026, 0xb45f7e41, 0x3991d639, 0x835339f4, 0x9c845f8b, 0xbdf9283b, 0x1ff897ff, 0xde05980f,
      0xef2f118b, 0x5a0a6d1f, 0x6d367ecf, 0x27cb09b7, 0x4f463f66, 0x9e5fea2d, 0x7527bac7, 0xebe5f17b,
      0x3d0739f7, 0x8a5292ea, 0x6bfb5fb1, 0x1f8d5d08, 0x56033046, 0xfc7b6bab, 0xf0cfbc20, 0x9af4361d};
  constexpr int N = P::limbs;
  const u64 parts = bits_of(abs(x)), m = (parts & ((1ULL << (P::digits - 1)) - 1)) | 1ULL << (P::digits - 1);
  const int first = int(parts >> (P::digits - 1)) - P::bias + 62;  // bit of the table
  unsigned q[N], f[N];
  for (int i = 0; i < N; ++i) {
    const int word = first / 32 + i, shift = first % 32;
    q[i] = two_over_pi[word] << shift | (shift ? two_over_pi[word + 1] >> (32 - shift) : 0);
    f[i] = 0;
  }
  for (int j = 0; j < (P::digits > 32 ? 2 : 1); ++j) {  // f = m q, without what is a multiple of 4
    u64 carry = 0;
    for (int i = N - 1; i >= j; --i) {
      carry += u64(unsigned(m >> (32 * j))) * q[i] + f[i - j];
      f[i - j] = unsigned(carry);
      carry >>= 32;
    }
  }
  const bool upper = f[0] >> 29 & 1;  // nearer to the next whole number of turns
  int turns = int(f[0] >> 30) + upper;
  S unit = S(4);
  f[0] &= 0x3fffffff;
  if (upper) {
    for (int i = 0; i < N; ++i) f[i] = ~f[i];  // 1 - f, but for its last bit
    f[0] &= 0x3fffffff;
  }
  for (int zeros = 0; zeros < 96 && !(f[0] >> 31); ++zeros, unit *= S(0.5))
    for (int i = 0; i < N; ++i) f[i] = f[i] << 1 | (i + 1 < N ? f[i + 1] >> 31 : 0);
  constexpr int rest = 64 - P::digits;
  constexpr S place = S(1) / S(1LL << P::digits);
  const u64 top = u64(f[0]) << 32 | f[1], next = u64(f[2]) << 32 | (N > 3 ? f[N > 3 ? 3 : 0] : 0);
  if ((x < S(0)) != upper) unit = -unit;
  const S high = S(top >> rest) * place * unit, low = S((top << P::digits | next >> rest) >> rest) * place * place * unit;
  const S angle = high * P::first, lost = fma(high, P::first, -angle) + fma(high, P::second, low * P::first);
  return sine_of(Angle<S>{S(turns), angle, lost}, S((x < S(0) ? -turns : turns) + quarters));
}

/// Those of n numbers that are too large for reduced().
template <class S> BPX_RARE void far_sines(int n, const S* x, S* result, int quarters) {
  for (int i = 0; i < n; ++i)
    if (!(abs(x[i]) <= HalfPi<S>::most)) result[i] = far_sine(x[i], quarters);
}

/// Whether any number of a lane is so large, or no number.
template <class S> BPX_FN bool any_far(S x) { return !(abs(x) <= HalfPi<S>::most); }
#if !BPX_CUDA
template <class S> BPX_FN bool any_far(Pack<S, 1> x) {
  const auto near = (abs(x) <= c<Pack<S, 1>>(HalfPi<S>::most)).v;
  auto all = near[0];
  BPX_UNROLL
  for (int k = 1; k < Lane<Pack<S, 1>>::width; ++k) all &= near[k];
  return !all;
}
template <class S, int U> BPX_FN bool any_far(Pack<S, U> x) { return any_far(x.lo) || any_far(x.hi); }
#endif

template <class T> BPX_FN T sine(T x, int quarters) {
  constexpr int width = Lane<T>::width;
  const Angle<T> r = reduced(x);
  const T result = sine_of(r, r.turns + c<T>(float(quarters)));
  if (__builtin_expect(!any_far(x), 1)) return result;
  Scalar<T> from[width], to[width];
  store<T>(from, x);
  store<T>(to, result);
  far_sines(width, from, to, quarters);
  return load<T>(to);
}
template <class T> BPX_FN T sin(T x) { return where(x == c<T>(0.0f), x, sine(x, 0)); }  // for -0
template <class T> BPX_FN T cos(T x) { return sine(x, 1); }
#if BPX_CUDA
BPX_FN double sin(double x) { return ::sin(x); }
BPX_FN double cos(double x) { return ::cos(x); }
#endif

}  // namespace bpx
