#pragma once
#include "lane.h"
// The functions that formulas are made of, for every lane type:
//   exp expm1 log log1p tanh erf normal_cdf normal_pdf minimum maximum sign   (abs, sqrt, where: lane.h)
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

// The upper tail of the normal distribution is Q(a) = exp(-a^2 / 2) P(u) w, w = 1 / (a + K), u = (a - K) w, a >= 0:
// the transformation with which Shepherd and Laframboise (1981) expanded exp(x^2) erfc(x). P by Remez:
// to 2^-24.2 with K = 4 up to a = 14.5 for float, to 2^-52.8 with K = 6 up to a = 39 for double.
template <class T> BPX_FN T tail_polynomial(T u, float) {
  const float P[] = {7.5528514e-01f, -6.078966e-01f,  3.8713732e-01f, -1.8652156e-01f, 6.0398147e-02f, -7.5429054e-03f,
                     -3.491297e-03f, 1.6370873e-03f, 1.7094032e-04f, -2.220571e-04f,  -4.6318473e-05f};
  return polynomial(u, P);
}
template <class T> BPX_FN T tail_polynomial(T u, double) {
  const double P[] = {0.7773517718933622,     -0.7010090295908655,    0.5689688918147839,    -0.4139035857755904,
                      0.26797424584163837,    -0.15268023206449535,   0.07517191566939015,   -0.03098531550754115,
                      0.010029820634582319,   -0.0021316052108260796, 3.287006625035849e-05, 0.0001813604213997559,
                      -6.475223467703854e-05, 1.075584913489847e-06,  6.797130850068667e-06, -1.799677290048045e-06,
                      -4.3121614692237813e-07, 3.1028902958597123e-07, 9.927732491670996e-09, -4.296358206233684e-08,
                      7.098840250429701e-12,  4.724276649031343e-09,  6.945640796193427e-10};
  return polynomial(u, P);
}
/// Q(a) / exp(-a^2 / 2). Q changes several times as much as w, relatively, so what rounding took from w is added again.
template <class T> BPX_FN T tail_factor(T a) {
  using S = Scalar<T>;
  const T one = c<T>(1.0f), K = c<T>(sizeof(S) == 4 ? 4.0f : 6.0f);
  const T sum = a + K, part = sum - a, lost = (a - (sum - part)) + (K - part);  // Knuth's TwoSum
  const T w = one / sum, w_low = w * fma(-w, lost, fma(-w, sum, one));
  const T u = fma(c<T>(-2.0f) * K, w_low, fma(c<T>(-2.0f) * K, w, one));
  const T P = tail_polynomial(u, S());
  return fma(P, w, P * w_low);
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

namespace bpx {

// Both devices have times_gauss(factor, a, -power) = factor exp(-power a^2), good for every a up to 40.
template <class T> BPX_FN T at_most(T a, float limit) { return where(a > c<T>(limit), c<T>(limit), a); }

template <class T> BPX_FN T normal_pdf(T t) {
  return times_gauss(c<T>(0.3989422804014327), at_most(abs(t), 40.0f), c<T>(-0.5f));
}
template <class T> BPX_FN T normal_cdf(T t) {
  const T a = at_most(abs(t), 40.0f), half = c<T>(0.5f);
  const T tail = times_gauss(tail_factor(a), a, -half);
  const T x = t * c<T>(0.7071067811865476), middle = fma(half * x, erf_rest(x * x, Scalar<T>()), fma(half, x, half));
  return where(a < c<T>(0.6f), middle, where(t < c<T>(0.0f), tail, c<T>(1.0f) - tail));
}

}  // namespace bpx
