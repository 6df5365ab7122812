#pragma once
#include "activations.h"
// What passes for losses that contain derivatives (stack.h, stack_cuda.h) are told of an equation and of activations.

namespace bpx {

/// Where something that an equation reads or gives stands.
enum class At { x, y, signal, slope };
struct Place {
  At at;
  int signal, feature;
};

/// An activation's formula needs nothing but t.
struct nothing {};
template <class F> constexpr bool is_nothing = false;
template <> constexpr bool is_nothing<nothing> = true;

/// What a formula of an activation is given, lane by lane: t, by FIRST its value and slope, then the others.
template <class T, class FIRST, class P> BPX_FN T* first_inputs(T t, P p, T* in) {
  *in++ = t;
  if constexpr (!is_nothing<FIRST>) {
    FIRST::both(t, p, in[0], in[1]);
    in += 2;
  }
  return in;
}

}  // namespace bpx
