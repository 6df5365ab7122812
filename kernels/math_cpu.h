#pragma once
// The functions of math.h on the CPU, for single numbers and for packs.

namespace bpx {

// ---- the parts of a floating-point number ---------------------------------------------------------------------

template <class S> struct Format;
template <> struct Format<float> {
  using Bits = unsigned;
  static constexpr int digits = 23;                             // of the fraction
  static constexpr Bits bias = 127, root_half = 0x3f3504f3;     // sqrt(1/2)
  static constexpr float magic = 12582912.0f;                   // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float log2e = 1.442695f;
  static constexpr float ln2_high = 0.693145751953125f, ln2_low = 1.4286068e-06f;  // high * k is exact
  static constexpr float least = -104.0f, most = 89.0f;         // exp is 0 below, infinite above
  static constexpr float smallest_normal = 1.17549435e-38f, two_digits = 16777216.0f;  // 2^24
};
template <> struct Format<double> {
  using Bits = unsigned long long;
  static constexpr int digits = 52;
  static constexpr Bits bias = 1023, root_half = 0x3fe6a09e667f3bcd;
  static constexpr double magic = 6755399441055744.0;           // 1.5 * 2^52
  static constexpr double log2e = 1.4426950408889634;
  static constexpr double ln2_high = 0.6931471805601177, ln2_low = -1.7239444525614835e-13;
  static constexpr double least = -746.0, most = 710.0;
  static constexpr double smallest_normal = 2.2250738585072014e-308, two_digits = 9007199254740992.0;  // 2^53
};

/// The same bits as another type.
template <class To, class From> BPX_FN To reinterpret(From from) {
  static_assert(sizeof(To) == sizeof(From), "reinterpret keeps the size");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

/// 2^k for an integer k within the range of normal numbers. V is a number or a register, B the unsigned integer(s).
template <class S, class B, class V> BPX_FN V power_of_2(V k) {
  return reinterpret<V>((reinterpret<B>(k + Format<S>::magic) << Format<S>::digits) + (Format<S>::bias << Format<S>::digits));
}
/// a 2^k for an integer |k| < 1100 (float: 250): in two steps, so that a subnormal result is rounded once.
template <class S, class B, class V> BPX_FN V scale_in_steps(V a, V k) {
  const V half = (k * S(0.5) + Format<S>::magic) - Format<S>::magic;
  return a * power_of_2<S, B>(half) * power_of_2<S, B>(k - half);
}
/// x = 2^k m with m in [sqrt(1/2), sqrt(2)), for a normal x > 0; returns m.
template <class S, class B, class V> BPX_FN V split_normal(V x, V& k) {
  using F = Format<S>;
  constexpr typename F::Bits offset = F::bias << F::digits;
  const B shifted = reinterpret<B>(x) + (offset - F::root_half);  // its exponent field is k + bias
  k = reinterpret<V>((shifted >> F::digits) + reinterpret<typename F::Bits>(F::magic)) - (F::magic + S(F::bias));
  return reinterpret<V>((shifted & ((typename F::Bits(1) << F::digits) - 1)) + F::root_half);
}

template <class S> BPX_FN S scale_number(S a, S k) { return scale_in_steps<S, typename Format<S>::Bits>(a, k); }
BPX_FN float scale(float a, float k) { return scale_number(a, k); }
BPX_FN double scale(double a, double k) { return scale_number(a, k); }
template <class S> BPX_FN S split(S x, S& k) { return split_normal<S, typename Format<S>::Bits>(x, k); }
template <class S> BPX_FN Pack<S, 1> split(Pack<S, 1> x, Pack<S, 1>& k) {
  return {split_normal<S, typename Register<S>::Bits>(x.v, k.v)};
}
template <class S, int U> BPX_FN Pack<S, U> split(Pack<S, U> x, Pack<S, U>& k) { return {split(x.lo, k.lo), split(x.hi, k.hi)}; }

// scale(a, k) = a 2^k, rounded once. With AVX-512 it takes any k, infinite ones and NaN too, and what exp must be
// guarded against is only an r that is no small number; otherwise exp's argument is limited beforehand.
#if BPX_VECTOR_BYTES == 64 && defined(__AVX512DQ__)
BPX_FN VF scale(VF a, VF k) { return __builtin_ia32_scalefps512_mask(a, k, a, -1, 4); }
BPX_FN VD scale(VD a, VD k) { return __builtin_ia32_scalefpd512_mask(a, k, a, -1, 4); }
BPX_FN VF smaller(VF a, VF b) { return __builtin_ia32_rangeps512_mask(a, b, 2, a, -1, 4); }  // the smaller in size
BPX_FN VD smaller(VD a, VD b) { return __builtin_ia32_rangepd512_mask(a, b, 2, a, -1, 4); }  // or b if a is NaN
BPX_EACH(Pack, smaller, BPX_TWO, smaller(a.v, b.v), {smaller(a.lo, b.lo), smaller(a.hi, b.hi)})
template <class S, int U> BPX_FN Pack<S, U> limit_argument(Pack<S, U> x) { return x; }
template <class S, int U> BPX_FN Pack<S, U> limit_size(Pack<S, U> a) { return a; }
template <class S, int U> BPX_FN Pack<S, U> limit_rest(Pack<S, U> r) { return smaller(r, c<Pack<S, U>>(0.375f)); }
#else
BPX_FN VF scale(VF a, VF k) { return scale_in_steps<float, Register<float>::Bits>(a, k); }
BPX_FN VD scale(VD a, VD k) { return scale_in_steps<double, Register<double>::Bits>(a, k); }
#endif
BPX_EACH(Pack, scale, BPX_TWO, scale(a.v, b.v), {scale(a.lo, b.lo), scale(a.hi, b.hi)})
template <class T> BPX_FN T limit_argument(T x) {
  using F = Format<Scalar<T>>;
  return where(x > c<T>(F::most), c<T>(F::most), where(x < c<T>(F::least), c<T>(F::least), x));
}
template <class T> BPX_FN T limit_rest(T r) { return r; }
// the same for a = |x| / 2, of which exp(-2 a) will be taken
template <class T> BPX_FN T limit_size(T a) {
  const T most = c<T>(Format<Scalar<T>>::least / -2);
  return where(a > most, most, a);
}

// 1 / d for d > 0, neither tiny nor huge, to 2^-14 or better: for one Newton step
template <class T> BPX_FN T rough_reciprocal(T d) { return c<T>(1.0f) / d; }
#if BPX_VECTOR_BYTES == 64 && defined(__AVX512F__)
BPX_FN VF rough(VF d) { return __builtin_ia32_rcp14ps512_mask(d, d, -1); }
BPX_FN Pack<float, 1> rough_reciprocal(Pack<float, 1> d) { return {rough(d.v)}; }
template <int U> BPX_FN Pack<float, U> rough_reciprocal(Pack<float, U> d) {
  return {rough_reciprocal(d.lo), rough_reciprocal(d.hi)};
}
#endif

// ---- exp and its relatives --------------------------------------------------------------------------------------

/// e^x = 2^k (1 + p), k an integer and |p| < 0.42.
template <class T> struct Power { T k, p; };

template <class T> BPX_FN Power<T> power(T x, T x_low) {  // of x + x_low, where x_low is next to nothing
  using S = Scalar<T>;
  using F = Format<S>;
  x = limit_argument(x);
  const T k = fma(x, c<T>(F::log2e), c<T>(F::magic)) - c<T>(F::magic);
  const T r = limit_rest(fma(k, c<T>(-F::ln2_high), x) + fma(k, c<T>(-F::ln2_low), x_low));
  const T square = r * r;
  return {k, fma(square, exp_rest(r, square, S()), r)};
}
template <class T> BPX_FN Power<T> power(T x) {
  using S = Scalar<T>;
  using F = Format<S>;
  x = limit_argument(x);
  const T k = fma(x, c<T>(F::log2e), c<T>(F::magic)) - c<T>(F::magic);
  const T r = limit_rest(fma(k, c<T>(-F::ln2_low), fma(k, c<T>(-F::ln2_high), x)));
  const T square = r * r;
  return {k, fma(square, exp_rest(r, square, S()), r)};
}

template <class T> BPX_FN T exp(T x) {
  const Power<T> e = power(x);
  return scale(c<T>(1.0f) + e.p, e.k);
}
template <class T> BPX_FN T expm1(T x) {
  const Power<T> e = power(x);
  const T s = scale(c<T>(1.0f), e.k);
  // from k = 64 on the 1 is nothing, and 2^k may be too large for a number where e^x is not
  const T result = where(e.k < c<T>(64.0f), fma(s, e.p, s - c<T>(1.0f)), scale(c<T>(1.0f) + e.p, e.k));
  return copysign(result, x);  // for -0
}
/// The exponential and 2 / (1 + e) are the very ones of the derivative's formula, so that the compiler shares them.
template <class T> BPX_FN T tanh(T t) {
  const Power<T> e = power(c<T>(-2.0f) * abs(t));
  const T s = scale(c<T>(-0.5f), e.k), one = c<T>(1.0f);
  const T q = c<T>(2.0f) / (one + scale(one + e.p, e.k));
  const T m = fma(s, e.p, s + c<T>(0.5f));          // (1 - e^(-2 |t|)) / 2, without cancellation
  const T error = q * fma(q, m, one - q);           // of q as the reciprocal of 1 - m
  return with_sign(fma(m, q, m * error), t);
}

// ---- logarithms -------------------------------------------------------------------------------------------------

// log((1 + s) / (1 - s)) = 2 s + s z R(z), z = s^2, |s| <= 0.1716: z R / 2 is good to 2^-30 and 2^-59.4
template <class T> BPX_FN T log_rest(T z, float) {
  const float R[] = {6.6666776e-01f, 3.997751e-01f, 2.9874176e-01f};
  return polynomial(z, R);
}
template <class T> BPX_FN T log_rest(T z, double) {
  const double R[] = {0.6666666666666726, 0.399999999994577,   0.28571428734272536, 0.2222219930547942,
                      0.1818353008279164, 0.15314851325963594, 0.14788542423074122};
  return polynomial(z, R);
}
/// k ln 2 + log(1 + f) + low, summed as in fdlibm's e_log.c.
template <class T> BPX_FN T log_sum(T k, T f, T low) {
  using F = Format<Scalar<T>>;
  const T s = f / (c<T>(2.0f) + f), z = s * s, half = c<T>(0.5f) * f * f;
  const T rest = z * log_rest(z, Scalar<T>());
  const T small = fma(s, half + rest, fma(k, c<T>(F::ln2_low), low));
  return fma(k, c<T>(F::ln2_high), f - (half - small));
}
template <class T> BPX_FN T log_specials(T x, T result) {
  const T infinity = c<T>(__builtin_inff());
  result = where(x < infinity, result, x);
  return where(x > c<T>(0.0f), result, where(x == c<T>(0.0f), -infinity, c<T>(__builtin_nanf(""))));
}
template <class T> BPX_FN T log(T x) {
  using F = Format<Scalar<T>>;
  const auto subnormal = x < c<T>(F::smallest_normal);
  T k;
  const T m = split(where(subnormal, x * c<T>(F::two_digits), x), k);
  k = where(subnormal, k - c<T>(F::digits + 1), k);
  return log_specials(x, log_sum(k, m - c<T>(1.0f), c<T>(0.0f)));
}
template <class T> BPX_FN T log1p(T x) {
  const T one = c<T>(1.0f), u = one + x;
  T k;
  const T m = split(u, k);
  const T lost = where(x < one, x - (u - one), one - (u - x)) / u;  // the rounding error of u, relatively
  const auto near = k == c<T>(0.0f);
  const T result = log_sum(k, where(near, x, m - one), where(near, c<T>(0.0f), lost));
  return copysign(log_specials(u, result), x);
}

// ---- the normal distribution ------------------------------------------------------------------------------------

/// factor * exp(-a^2 * power), where the rounding error of a^2 is not lost: exp would magnify it.
template <class T> BPX_FN T times_gauss(T factor, T a, T minus_power) {
  const T square = a * a, error = fma(a, a, -square);
  const Power<T> e = power(minus_power * square, minus_power * error);
  return scale(fma(factor, e.p, factor), e.k);
}
template <class T> BPX_FN T erf(T x) {
  const T a = where(abs(x) > c<T>(7.0f), c<T>(7.0f), abs(x));
  const T tail = times_gauss(tail_factor(a * c<T>(1.4142135623730951)), a, c<T>(-1.0f));
  const T far = copysign(fma(c<T>(-2.0f), tail, c<T>(1.0f)), x);
  return where(a <= c<T>(1.0f), fma(x, erf_rest(x * x, Scalar<T>()), x), far);
}

}  // namespace bpx
