#pragma once
#include "math.h"
// Losses for the fused pass. run() takes one lane of samples' outputs, z[k * W] for output k, replaces them by the
// gradient times `factor` (if `scaled`), and returns each sample's loss, without the factor.

namespace bpx {

/// Stands for a number of outputs that is known only when the program runs; run() is then told it as `outputs`.
constexpr int any_outputs = 1 << 30;

/// What y holds.
enum class Target { none, values, classes };

/// F::factor times a sum over the outputs; F::both(z, y, p, value, grad), or F::both(z, p, value, grad) where F::target
/// is false. The parameters of output k begin at k * F::stride.
template <class F> struct ElementwiseLoss {
  static constexpr int params = F::params;
  static constexpr Target target = F::target ? Target::values : Target::none;

  template <int OUT, int W, class T, class S>
  BPX_FN static T run(S* z, const S* y, const S* p, T factor, bool scaled, int outputs = OUT) {
    const int count = OUT == any_outputs ? outputs : OUT;
    T loss = c<T>(0.0f);
    auto step = [&](int k) __attribute__((always_inline)) {
      const T zk = load<T>(z + k * W);
      T value, grad;
      if constexpr (F::target) {
        const T yk = load<T>(y + k * W);
        F::both(zk, yk, p + k * F::stride, value, grad);
      } else {
        F::both(zk, p + k * F::stride, value, grad);
      }
      loss = loss + value;
      store<T>(z + k * W, scaled ? grad * factor : grad);
    };
    if constexpr (OUT <= 16 || BPX_CUDA) {
      BPX_UNROLL
      for (int k = 0; k < count; ++k) step(k);
    } else {
      for (int k = 0; k < count; ++k) step(k);
    }
    return F::factor == 1.0f ? loss : loss * c<T>(F::factor);
  }
};

/// -sum_k y_k log softmax(z)_k; y are class indices or probabilities.
template <bool CLASSES> struct SoftmaxCrossEntropy {
  static constexpr int params = 0;
  static constexpr Target target = CLASSES ? Target::classes : Target::values;

  /// Output k, z_k - max z, adds to the loss and has the gradient `grad`; y is the class, or the probability of class k.
  template <class T>
  BPX_FN static void output(T shifted, T y, T k, T log_total, T inverse, T mass, T& loss, T& grad) {
    const T softmax = exp(shifted) * inverse;
    if constexpr (CLASSES) {
      loss = where(y == k, log_total - shifted, loss);
      grad = softmax - where(y == k, c<T>(1.0f), c<T>(0.0f));
    } else {
      // a class of probability 0 adds nothing, even where its log-probability is -inf
      loss = loss + where(y != c<T>(0.0f), y * (log_total - shifted), c<T>(0.0f));
      grad = softmax * mass - y;
    }
  }

  template <int OUT, int W, class T, class S>
  BPX_FN static T run(S* z, const S* y, const S*, T factor, bool scaled, int outputs = OUT) {
    const int count = OUT == any_outputs ? outputs : OUT;
    const T zero = c<T>(0.0f);
    T top = load<T>(z);
    BPX_UNROLL_OUTER
    for (int k = 1; k < count; ++k) top = maximum(load<T>(z + k * W), top);
    T total = zero;
    BPX_UNROLL_OUTER
    for (int k = 0; k < count; ++k) total = total + exp(load<T>(z + k * W) - top);
    const T log_total = log(total), inverse = c<T>(1.0f) / total;
    T loss = zero, mass = CLASSES ? c<T>(1.0f) : zero;
    if constexpr (!CLASSES) {
      BPX_UNROLL_OUTER
      for (int k = 0; k < count; ++k) mass = mass + load<T>(y + k * W);
    }
    BPX_UNROLL_OUTER
    for (int k = 0; k < count; ++k) {
      T grad;
      output(load<T>(z + k * W) - top, load<T>(y + (CLASSES ? 0 : k * W)), c<T>(S(k)), log_total, inverse, mass, loss, grad);
      store<T>(z + k * W, scaled ? grad * factor : grad);
    }
    return loss;
  }
};

}  // namespace bpx
