#pragma once
#include "activations.h"
#include "dense.h"
// A whole net as a type.
//
// The net is a type, written by the Python side:
//
//   struct Net {
//     using S = float;
//     using Layers = bpx::Layers<bpx::Layer<5, 10, bpx::tanh, false>, bpx::Layer<10, 4, Activation0, false>, ...>;
//     using Loss = bpx::ElementwiseLoss<LossFormula>;        // losses.h
//     static constexpr bool backward = true;                 // false: forward alone, and Loss is not used
//     static constexpr bool factors = false;                 // the gradient is multiplied by weight or scale
//     static constexpr bool input_grad = false;
//     static constexpr bool dense = true;                    // on the GPU: features of a sample in x and y are adjacent
//     static constexpr i64 chunk = 1024;                     // samples
//   };

namespace bpx {

template <class F> struct IsIdentity { static constexpr bool value = false; };
template <> struct IsIdentity<identity> { static constexpr bool value = true; };

/// t = W z + b, then z = F(t).
template <int IN, int OUT, class F, bool BIAS> struct Layer : Dense<IN, OUT, BIAS> {
  static constexpr bool identity = IsIdentity<F>::value;
  using Act = F;
};
template <class... L> struct Layers {
  static constexpr int count = sizeof...(L), params = (0 + ... + L::params), scalars = (0 + ... + L::Act::params);
};
template <class L> struct First;
template <class L, class... Rest> struct First<Layers<L, Rest...>> { using Type = L; };
template <class L> struct Last { using Type = typename Last<Layers<L>>::Type; };
template <class L> struct Last<Layers<L>> { using Type = L; };
template <class L, class... Rest> struct Last<Layers<L, Rest...>> { using Type = typename Last<Layers<Rest...>>::Type; };

}  // namespace bpx
