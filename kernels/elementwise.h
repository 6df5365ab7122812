#pragma once
#include "math.h"
// A formula over arrays, in one pass over memory. F is a struct of
//   template <class T, class P> static void run(const T* inputs, P p, T* results)
// which takes one lane of each of IN inputs and gives one of each of OUT outputs; p points to scalar parameters.
// An output may be one of the inputs.

namespace bpx {

#if !BPX_CUDA
/// For every i < n, contiguous arrays. What does not fill a lane goes through a buffer, so that nothing behind an
/// array is touched.
template <class F, int IN, int OUT, class S>
BPX_FN void elementwise(i64 n, const S* const* in, S* const* out, const S* p) {
  using T = Pack<S, 2>;
  constexpr int width = Lane<T>::width;
  T x[IN], y[OUT];
  i64 i = 0;
  for (; i + width <= n; i += width) {
    for (int k = 0; k < IN; ++k) x[k] = load<T>(in[k] + i);
    F::run(x, p, y);
    for (int k = 0; k < OUT; ++k) store<T>(out[k] + i, y[k]);
  }
  if (i == n) return;
  S buffer[width] = {};
  for (int k = 0; k < IN; ++k) {
    for (int j = 0; j < n - i; ++j) buffer[j] = in[k][i + j];
    x[k] = load<T>(buffer);
  }
  F::run(x, p, y);
  for (int k = 0; k < OUT; ++k) {
    store<T>(buffer, y[k]);
    for (int j = 0; j < n - i; ++j) out[k][i + j] = buffer[j];
  }
}
#endif

}  // namespace bpx
