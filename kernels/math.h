#pragma once
#include "lane.h"
// The functions that formulas are made of, for every lane type:
//   exp expm1 log log1p sin cos tanh erf normal_cdf normal_pdf minimum maximum sign   (abs, sqrt, where: lane.h)
//
// On the GPU they are CUDA's. On the CPU they are these: branch-free, within 2 ULP of the correctly rounded result
// in float and double, subnormals, zeros, infinities and NaN included. Polynomials are minimax fits (Remez
// exchange in 50 digits, weighted for relative error) made for this file; the error of each stands beside it.

namespace bpx {

// NaN in either argument gives NaN; the test of b folds away where b is a constant
template <class T> BPX_FN T minimum(T a, T b) { return where(b != b, b, where(b < a, b, a)); }
template <class T> BPX_FN T maximum(T a, T b) { return where(b != b, b, where(b > a, b, a)); }
template <class T> BPX_FN T sign(T a) { return where(a > c<T>(0.0), c<T>(1.0), where(a < c<T>(0.0), c<T>(-1.0), a)); }

/// constants[0] + constants[1] x + ... by Horner's rule.
template <class T, class S, int N> BPX_FN T polynomial(T x, const S (&constants)[N]) {
  T sum = c<T>(constants[N - 1]);
  BPX_UNROLL
  for (int i = N - 2; i >= 0; --i) sum = fma(sum, x, c<T>(constants[i]));
  return sum;
}

// e^r = 1 + r + r^2 Q(r), |r| <= ln(2) / 2: relative to e^r - 1, Q is good to 2^-26 and 2^-59.8. Summed in pairs
// (Estrin), as the steps of Horner's rule would wait for one another; TWICE gives 2 Q(2 r) for the same price.
template <bool TWICE = false, class T> BPX_FN T exp_rest(T r, T square, float) {
  constexpr float Q[] = {4.9999997e-01f, 1.6666538e-01f, 4.166774e-02f, 8.367318e-03f, 1.3837873e-03f};
  auto q = [&](int i) __attribute__((always_inline)) { return c<T>(Q[i] * float(TWICE ? 2 << i : 1)); };
  return fma(fma(q(4), square, fma(q(3), r, q(2))), square, fma(q(1), r, q(0)));
}
template <bool TWICE = false, class T> BPX_FN T exp_rest(T r, T square, double) {
  constexpr double Q[] = {0.5,
                          0.16666666666666674,
                          0.041666666666666435,
                          0.008333333333324457,
                          0.001388888888910163,
                          0.00019841269878189666,
                          2.4801586754254215e-05,
                          2.755725208786841e-06,
                          2.755785168934458e-07,
                          2.5106481616208006e-08,
                          2.071421759679946e-09};
  auto q = [&](int i) __attribute__((always_inline)) { return c<T>(Q[i] * double(TWICE ? 2 << i : 1)); };
  const T fourth = square * square;
  const T high = fma(q(10), square, fma(q(9), r, q(8)));
  const T middle = fma(fma(q(7), r, q(6)), square, fma(q(5), r, q(4)));
  const T low = fma(fma(q(3), r, q(2)), square, fma(q(1), r, q(0)));
  return fma(fma(high, fourth, middle), fourth, low);
}

// The upper tail of the normal distribution is Q(a) = exp(-a^2 / 2) (c + u P(u)) w, w = 1 / (a + K), u = (a - K) w: the
// transformation with which Shepherd and Laframboise (1981) expanded exp(x^2) erfc(x). c + u P by Remez: to 2^-29.3
// with K = 4 for a from 0.55 to 14.5 (float), to 2^-59.3 with K = 6 for a from 0.55 to 39 (double).
template <class T> BPX_FN T tail_rest(T u, float) {
  const float P[] = {-6.078966e-01f, 3.8713738e-01f,  -1.8652247e-01f, 6.0396995e-02f, -7.533674e-03f,
                     -3.4820673e-03f, 1.602461e-03f, 1.3665603e-04f,  -1.7825761e-04f};
  return polynomial(u, P);
}
template <class T> BPX_FN T tail_rest(T u, double) {
  const double P[] = {-0.7010090295908656,    0.5689688918147836,    -0.4139035857755788,   0.2679742458416567,
                      -0.15268023206492054,   0.07517191566899467,   -0.030985315500444862, 0.010029820639336709,
                      -0.0021316052758079624, 3.287002959687283e-05, 0.00018136077976730827, -6.475204340409448e-05,
                      1.0743408187762429e-06, 6.796453329763899e-06, -1.796934287345938e-06, -4.2962886768079996e-07,
                      3.065564255850783e-07,  7.593154290951741e-09, -4.0101093757925335e-08, 1.9489561724665553e-09,
                      3.776965289861825e-09};
  return polynomial(u, P);
}
/// Q(a) / exp(-a^2 / 2). Q changes several times as much as w, relatively: what the roundings of w and of the sum took
/// away is added again.
template <class T> BPX_FN T tail_factor(T a) {
  using S = Scalar<T>;
  constexpr bool single = sizeof(S) == 4;
  const T one = c<T>(1.0f), K = c<T>(single ? 4.0f : 6.0f), minus_2K = c<T>(single ? -8.0f : -12.0f);
  const T first = c<T>(single ? 7.5528514e-01f : 0.7773517718933622), low = c<T>(single ? -1.3465003e-08f : -5.080339995331781e-17);
  const T sum = a + K, part = sum - a, lost = (a - (sum - part)) + (K - part);  // Knuth's TwoSum
  const T w = one / sum, w_low = w * fma(-w, lost, fma(-w, sum, one));
  const T u = fma(minus_2K, w_low, fma(minus_2K, w, one));
  const T rest = u * tail_rest(u, S()), P = first + rest, P_low = rest - (P - first) + low;
  return fma(P, w, fma(P, w_low, P_low * w));
}

// erf(x) = x + x E(x^2), |x| <= 1, good to 2^-29.4 and 2^-55.4
template <class T> BPX_FN T erf_rest(T z, float) {
  const float E[] = {1.2837917e-01f, -3.7612626e-01f, 1.1283579e-01f, -2.6853347e-02f,
                     5.187162e-03f,  -7.997853e-04f,  7.806903e-05f};
  return polynomial(z, E);
}
template <class T> BPX_FN T erf_rest(T z, double) {
  const double E[] = {0.12837916709551256,   -0.3761263890318352,    0.11283791670944185,    -0.026866170643111413,
                      0.0052239776061181135, -0.000854832592930003,  0.00012055293576533761, -1.4924712295970096e-05,
                      1.6447131506868005e-06, -1.620631332905939e-07, 1.3710978771185197e-08, -7.779465816070692e-10};
  return polynomial(z, E);
}

}  // namespace bpx

#if BPX_CUDA
#include "math_cuda.h"
#else
#include "math_cpu.h"
#endif
#include "sine.h"

namespace bpx {

// Both devices have times_gauss(factor, a, -power) = factor exp(-power a^2), good for every a up to 40.
template <class T> BPX_FN T at_most(T a, float limit) { return where(a > c<T>(limit), c<T>(limit), a); }

template <class T> BPX_FN T normal_pdf(T t) {
  return times_gauss(c<T>(0.3989422804014327), at_most(abs(t), 40.0f), c<T>(-0.5f));
}
template <class T> BPX_FN T normal_cdf(T t) {
  const T a = at_most(abs(t), 40.0f), half = c<T>(0.5f);
  const T tail = times_gauss(tail_factor(a), a, -half);
  // near 0: 1/2 + erf(t / sqrt(2)) / 2; k is the rounding error of sqrt(1/8) in this precision, relatively
  const T eighth = c<T>(0.3535533905932738), k = c<T>(sizeof(Scalar<T>) == 4 ? 1.711427e-08f : -6.835809e-17f);
  const T middle = fma(t * eighth, erf_rest(half * t * t, Scalar<T>()) + k, fma(t, eighth, half));
  return where(a < c<T>(0.95f), middle, where(t < c<T>(0.0f), tail, c<T>(1.0f) - tail));
}

}  // namespace bpx
