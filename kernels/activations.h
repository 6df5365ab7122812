#pragma once
#include "tanh_cpu.h"
// Activations of the fused pass that are not left to their formulas.

namespace bpx {

/// z = t. Layers with it neither store nor multiply by its derivative.
struct identity {
  static constexpr int params = 0;
  template <class T, class P> BPX_FN static T value(T t, P) { return t; }
};

/// tanh and its derivative 4 e / (1 + e)^2, e = exp(-2 |t|), with less work than the formulas take together.
template <class Formula> struct hyperbolic_tangent {
  static constexpr int params = 0;
  template <class T, class P> BPX_FN static T value(T t, P p) {
    T value, slope;
    both(t, p, value, slope);
    return value;
  }

#if BPX_CUDA
  template <class T, class P> BPX_FN static void both(T t, P p, T& value, T& grad) { Formula::both(t, p, value, grad); }
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

}  // namespace bpx
