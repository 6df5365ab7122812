#pragma once
// The functions of math.h on the GPU: CUDA's; only the normal distribution's tail is written out in math.h,
// for CUDA's normcdf is good to 5 ULP.

namespace bpx {

BPX_FN float exp(float x) { return ::expf(x); }
BPX_FN double exp(double x) { return ::exp(x); }
BPX_FN float expm1(float x) { return ::expm1f(x); }
BPX_FN double expm1(double x) { return ::expm1(x); }
BPX_FN float log(float x) { return ::logf(x); }
BPX_FN double log(double x) { return ::log(x); }
BPX_FN float log1p(float x) { return ::log1pf(x); }
BPX_FN double log1p(double x) { return ::log1p(x); }
BPX_FN float tanh(float x) { return ::tanhf(x); }
BPX_FN double tanh(double x) { return ::tanh(x); }
BPX_FN float erf(float x) { return ::erff(x); }
BPX_FN double erf(double x) { return ::erf(x); }

// One or two instructions each: 2^x to 2^-22 (CuPy compiles with -ftz=true), and a / b to 2 ULP for 2^-126 < b < 2^126.
BPX_FN float rough_exp2(float x) { return ::exp2f(x); }
BPX_FN float rough_divide(float a, float b) { return ::__fdividef(a, b); }
/// 1 / d for 1/2 <= d <= 2, to 2^-40, and to 1 ULP.
BPX_FN double rough_reciprocal(double d) {
  const double r = rough_divide(1.0f, float(d));
  return fma(r, fma(-d, r, 1.0), r);
}
BPX_FN double reciprocal(double d) {
  const double r = rough_reciprocal(d);
  return fma(r, fma(-d, r, 1.0), r);
}

template <class T> BPX_FN T times_gauss(T factor, T a, T minus_power) {
  const T square = a * a, error = fma(a, a, -square), e = exp(minus_power * square);
  return factor * fma(e, minus_power * error, e);
}

}  // namespace bpx
