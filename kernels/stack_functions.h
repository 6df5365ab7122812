#pragma once
#include "stack_parts.h"
// What the pass of stack.h is given for one net: the chain rule of an activation, and an equation, over strips of samples.

namespace bpx {

/// An equation at the points of one strip; all arrays stand feature by feature, `strip` numbers a feature.
struct EquationBlock {
  i64 count;           // points that are there
  const void* x;
  const void* y;       // the targets
  const void* weight;  // (strip) of the points' losses
  const void* factor;  // (strip) weight * scale
  void* u;             // the signals of the outputs, `apart` numbers from one to the next, which become their gradients
  i64 apart, signals, outputs;
  void* slopes;        // the first derivatives of an output, of every feature of x, which become the gradients; or null
  i64 inputs;
  void* x_grad;        // what the equation reads of x itself gives: its gradients are added
  void* losses;        // (strip)
  const void* p;
};

/// z = f(t) and its derivatives, K signals of some features of one strip, `apart` numbers from one to the next.
template <class F, class FIRST, int K, class S> void stack_forward(i64 features, const S* t, S* z, i64 apart, const S* p) {
  using T = Pack<S, 1>;
  constexpr int strip = 2 * Lane<T>::width;
  for (i64 i = 0; i < features * strip; i += Lane<T>::width) {
    T in[K + 2], out[K];
    T* const rest = first_inputs<T, FIRST>(load<T>(t + i), p, in);
    BPX_UNROLL
    for (int k = 1; k < K; ++k) rest[k - 1] = load<T>(t + k * apart + i);
    F::run(in, p, out);
    BPX_UNROLL
    for (int k = 0; k < K; ++k) store<T>(z + k * apart + i, out[k]);
  }
}
/// The gradients in t and its derivatives, in their place, from those in z and its derivatives.
template <class F, class FIRST, int K, class S> void stack_backward(i64 features, S* t, const S* grad_z, i64 apart, const S* p) {
  using T = Pack<S, 1>;
  constexpr int strip = 2 * Lane<T>::width;
  for (i64 i = 0; i < features * strip; i += Lane<T>::width) {
    T in[2 * K + 2], out[K];
    T* const rest = first_inputs<T, FIRST>(load<T>(t + i), p, in);
    BPX_UNROLL
    for (int k = 1; k < K; ++k) rest[k - 1] = load<T>(t + k * apart + i);
    BPX_UNROLL
    for (int k = 0; k < K; ++k) rest[K - 1 + k] = load<T>(grad_z + k * apart + i);
    F::run(in, p, out);
    BPX_UNROLL
    for (int k = 0; k < K; ++k) store<T>(t + k * apart + i, out[k]);
  }
}

/// z = f(t) in the place of t, f'(t) and f''(t), of some features of one strip.
template <class F, class FIRST, class S> void stack_slopes(i64 features, S* z, S* first, S* second, const S* p) {
  using T = Pack<S, 1>;
  constexpr int strip = 2 * Lane<T>::width;
  for (i64 i = 0; i < features * strip; i += Lane<T>::width) {
    T in[3], out[3];
    first_inputs<T, FIRST>(load<T>(z + i), p, in);
    F::run(in, p, out);
    store<T>(z + i, out[0]);
    store<T>(first + i, out[1]);
    store<T>(second + i, out[2]);
  }
}

/// E::run gives the sum of squares of all residuals, then the gradients of its half in what stands at E::to(k).
template <class E, class S> void equation_block(const EquationBlock& block) {
  using T = Pack<S, 1>;
  constexpr int V = Lane<T>::width, strip = 2 * V;
  auto at = [&](Place place) __attribute__((always_inline)) {
    const i64 feature = i64(place.feature) * strip;
    if (place.at == At::x) return (S*)block.x + feature;
    if (place.at == At::y) return (S*)block.y + feature;
    return place.at == At::slope ? (S*)block.slopes + feature : (S*)block.u + place.signal * block.apart + feature;
  };
  auto clear = [&](i64 from, i64 to) __attribute__((always_inline)) {  // all gradients of these points
    for (i64 k = 0; k < block.signals; ++k)
      for (i64 o = 0; o < block.outputs; ++o)
        for (i64 s = from; s < to; ++s) ((S*)block.u)[k * block.apart + o * strip + s] = S(0);
    for (i64 i = 0; block.slopes && i < block.inputs; ++i)
      for (i64 s = from; s < to; ++s) ((S*)block.slopes)[i * strip + s] = S(0);
  };
  for (int s = 0; s < strip; s += V) {
    T in[E::reads], out[1 + E::gives];
    BPX_UNROLL
    for (int k = 0; k < E::reads; ++k) in[k] = load<T>(at(E::from(k)) + s);
    E::run(in, (const S*)block.p, out);
    const T weight = load<T>((const S*)block.weight + s), factor = load<T>((const S*)block.factor + s);
    store<T>((S*)block.losses + s, c<T>(0.5f) * (out[0] * weight));
    clear(s, s + V);
    BPX_UNROLL
    for (int k = 0; k < E::gives; ++k) {
      const Place place = E::to(k);
      S* const to = place.at == At::x ? (S*)block.x_grad + place.feature * strip : at(place);
      store<T>(to + s, out[1 + k] * factor);
    }
  }
  clear(block.count, strip);  // points that aren't there count as nothing, whatever is computed for them
}

}  // namespace bpx

BPX_VECTOR_BYTES_ENTRY
