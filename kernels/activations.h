#pragma once
#include "tanh_cpu.h"
// Activations of the fused pass that are not left to their formulas.

namespace bpx {

/// z = t. Layers with it neither store nor multiply by its derivative.
struct identity {
  static constexpr int params = 0;
  template <class T> BPX_FN static T slope(T) { return c<T>(1.0f); }
  template <class T, class P> BPX_FN static T value(T t, P) { return t; }
};

/// tanh and its derivative 4 e / (1 + e)^2, e = exp(-2 |t|), with less work than the formulas take together.
struct hyperbolic_tangent {
  static constexpr int params = 0;
  template <class T, class P> BPX_FN static T value(T t, P p) {
    T value, grad;
    both(t, p, value, grad);
    return value;
  }

#if BPX_CUDA
  template <class T> BPX_FN static T slope(T z) { return fma(-z, z, T(1)); }
  /// In float a value is off by some 2 ULP, a derivative by what one ULP of t makes: one exponential, one reciprocal.
  template <class P> BPX_FN static void both(float t, P, float& value, float& grad) {
    const float a = abs(t), e = rough_exp2(-2.885390081777927f * a), half = fma(e, 0.5f, 0.5f);  // (1 + e) / 2
    const float rest = rough_divide(e, half);                                                  // 1 - tanh |t|
    const float P_small[] = {1.0f, -0.33332947f, 0.13320725f, -0.05267181f, 0.01643758f};  // tanh(t) / t, to 2^-24
    const float small = t * polynomial(t * t, P_small);
    value = a < 0.55f ? small : ::copysignf(1.0f - rest, t);
    grad = rough_divide(rest, half);
  }
  /// As on the CPU, but for the powers of 2.
  template <class P> BPX_FN static void both(double t, P, double& value, double& grad) {
    // e = 2^k exp(2 r); the largest a gives k = -1023, and 0 for a power of 2. Adding 1.5 * 2^52 rounds to an integer
    const double a = where(abs(t) > 354.6, 354.6, abs(t)), magic = 6755399441055744.0;
    const double shifted = fma(a, -2.8853900817779268, magic), k = shifted - magic;
    const double r = fma(k, -1.1595234069231498e-17, fma(k, -0.34657359027997264, -a));
    const double square = r * r, h = fma(square, exp_rest<true>(r, square, 0.0), r);
    const double s = ::__longlong_as_double((::__double_as_longlong(shifted) << 52) + (1023LL << 52));
    const double m = fma(-s, h, fma(-s, 0.5, 0.5)), e = s * fma(h, 2.0, 1.0);
    const double q = rough_reciprocal(1.0 - m), error = q * fma(q, m, 1.0 - q), p = q + error;
    value = ::copysign(fma(m, q, m * error), t);
    grad = e * p * p;
  }
#else
  template <class T, class P> BPX_FN static void both(T t, P, T& value, T& grad) {
    if constexpr (has_tanh_table<T>) {
      const T a = abs(t);
      T z, u;
      tanh_near(a, z, u);
      value = with_sign(z, t);
      grad = fma(u, z, u);  // (1 - z) (1 + z)
      if (__builtin_expect(far_lanes(a) != 0, 0)) {
        const auto all = with_far<hyperbolic_tangent>(t, a, ValueAndSlope<T>{value, grad});
        value = all.value, grad = all.slope;
      }
    } else {
      exact(t, value, grad);
    }
  }

  template <class T> BPX_FN static void exact(T t, T& value, T& grad) {
    using S = Scalar<T>;
    using F = Format<S>;
    const T one = c<T>(1.0f), half = c<T>(0.5f), a = limit_size(abs(t));
    const T k = fma(a, c<T>(-2 * F::log2e), c<T>(F::magic)) - c<T>(F::magic);
    const T r = limit_rest(rest(a, k, S()));                        // e = 2^k exp(2 r)
    const T square = r * r, h = fma(square, exp_rest<true>(r, square, S()), r);  // (exp(2 r) - 1) / 2
    const T s = scale(one, k), m = fma(-s, h, fma(-s, half, half));  // (1 - e) / 2, without cancellation
    const T e = scale(fma(h, c<T>(2.0f), one), k);
    const T q = rough_reciprocal(one - m), error = q * fma(q, m, one - q);
    value = with_sign(fma(m, q, m * error), t);                     // m / (1 - m)
    const T p = q + error;
    grad = e * p * p;
  }

 private:
  // one ln(2) / 2 is enough in float: its error matters where tanh is +-1 and the derivative next to nothing
  template <class T> BPX_FN static T rest(T a, T k, float) { return fma(k, c<T>(-0.34657359f), -a); }
  template <class T> BPX_FN static T rest(T a, T k, double) {
    return fma(k, c<T>(-1.1595234069231498e-17), fma(k, c<T>(-0.34657359027997264), -a));
  }
#endif
};

#if BPX_CUDA
/// 1 / (1 + exp(-t)), for float with as little work as tanh; in double the formula's own steps.
struct logistic {
  static constexpr int params = 0;
  template <class T> BPX_FN static T slope(T z) { return fma(-z, z, z); }
  template <class T, class P> BPX_FN static T value(T t, P p) {
    T value, grad;
    both(t, p, value, grad);
    return value;
  }

  /// Both are right for a number within one ULP of t: the value to some 2 ULP, the derivative to 6 and, where ex2 and the
  /// division err by all that CUDA's manual allows them, 12.
  template <class P> BPX_FN static void both(float t, P, float& value, float& grad) {
    const float e = rough_exp2(-1.4426950408889634f * t), q = rough_divide(1.0f, 1.0f + e);  // inf, and 0, from -88 on
    value = q;
    grad = ::fminf(e, 0x1p126f) * q * q;
  }
  template <class P> BPX_FN static void both(double t, P, double& value, double& grad) {
    const double e = exp(-abs(t)), q = reciprocal(1.0 + e);
    value = t < 0.0 ? e * q : q;
    grad = e * q * q;
  }
};

/// max(t, 0), with the derivative 0 at 0.
struct rectifier {
  static constexpr int params = 0;
  template <class T> BPX_FN static T slope(T z) { return where(z <= T(0), T(0), where(z > T(0), T(1), z)); }
  template <class T, class P> BPX_FN static T value(T t, P) { return maximum(t, T(0)); }
  template <class T, class P> BPX_FN static void both(T t, P p, T& value_, T& grad) { value_ = value(t, p), grad = slope(t); }
};

/// Whether F::slope says the derivative by the value alone. It is off by some ULP of 1, not of itself: where tanh is 1, it
/// is 0.
template <class F> constexpr bool has_slope = false;
template <> constexpr bool has_slope<identity> = true;
template <> constexpr bool has_slope<hyperbolic_tangent> = true;
template <> constexpr bool has_slope<logistic> = true;
template <> constexpr bool has_slope<rectifier> = true;
#endif

}  // namespace bpx
