#pragma once
#include "math.h"
// One sample through a net known at compile time, on one thread of the CPU: every signal and every gradient is
// written out. What counts here is that a call is over soon.

namespace bpx {

/// t = W z + b (W row-major, b may be null), z_out = f(t), slope = f'(t).
template <class F, int OUT, int IN, class S>
BPX_FN void forward_layer(const S* weight, const S* bias, const S* z, const S* p, S* t, S* z_out, S* slope) {
  for (int o = 0; o < OUT; ++o) {
    S sum = bias ? bias[o] : S(0);
    for (int i = 0; i < IN; ++i) sum = fma(weight[o * IN + i], z[i], sum);
    t[o] = sum;
  }
  for (int o = 0; o < OUT; ++o) F::both(t[o], p, z_out[o], slope[o]);
}

/// grad_t = grad_z f'(t), grad_weight = outer(grad_t, z), grad_bias = grad_t, and grad_previous = W^T grad_t unless null.
template <int OUT, int IN, class S>
BPX_FN void backward_layer(const S* weight, const S* z, const S* slope, const S* grad_z, S* grad_t, S* grad_weight,
                           S* grad_bias, S* grad_previous) {
  for (int o = 0; o < OUT; ++o) {
    grad_t[o] = grad_z[o] * slope[o];
    if (grad_bias) grad_bias[o] = grad_t[o];
  }
  for (int o = 0; o < OUT; ++o)
    for (int i = 0; i < IN; ++i) grad_weight[o * IN + i] = grad_t[o] * z[i];
  if (!grad_previous) return;
  for (int i = 0; i < IN; ++i) grad_previous[i] = S(0);
  for (int o = 0; o < OUT; ++o)
    for (int i = 0; i < IN; ++i) grad_previous[i] = fma(weight[o * IN + i], grad_t[o], grad_previous[i]);
}

/// scale times the sum of the loss over the outputs, and its gradient.
template <class L, int OUT, class S>
BPX_FN S loss_and_grad(const S* z, const S* y, const S* p, S scale, S* grad_z) {
  S sum = S(0);
  for (int o = 0; o < OUT; ++o) {
    const S target = y ? y[o] : S(0);
    sum += L::value(z[o], target, p + o * L::stride);
    grad_z[o] = L::grad(z[o], target, p + o * L::stride) * scale;
  }
  return sum * scale;
}

}  // namespace bpx
