#pragma once
#include "math.h"
// Loops over contiguous arrays of n numbers. F is a struct of formulas:
//   template <class T, class P> static T value(T t, P p), static T grad(T t, P p), static void both(T t, P p, T& f, T& df)
// where p points to the scalar parameters. An output may be one of the inputs. On the GPU each is the body of a
// kernel with any grid.

namespace bpx {

#if BPX_CUDA
template <class S> using ArrayLane = S;

/// Calls op(i) for every i < n, this thread's share of them.
template <class S, class Op> BPX_FN void for_each(i64 n, Op op) {
  const i64 step = i64(gridDim.x) * blockDim.x;
  for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) op(i);
}
template <class F, class S> BPX_FN void value(i64 n, const S* t, S* y, const S* p) {
  for_each<S>(n, [=](i64 i) { y[i] = F::value(t[i], p); });
}
template <class F, class S> BPX_FN void grad(i64 n, const S* t, S* y, const S* p) {
  for_each<S>(n, [=](i64 i) { y[i] = F::grad(t[i], p); });
}
template <class F, class S> BPX_FN void grad_product(i64 n, const S* t, const S* grad_z, S* grad_t, const S* p) {
  for_each<S>(n, [=](i64 i) { grad_t[i] = grad_z[i] * F::grad(t[i], p); });
}
template <class F, class S> BPX_FN void value_and_grad(i64 n, const S* t, S* y, S* dy, const S* p) {
  for_each<S>(n, [=](i64 i) {
    S f, df;
    F::both(t[i], p, f, df);
    y[i] = f;
    dy[i] = df;
  });
}

#else
#ifndef BPX_ARRAY_REGISTERS
#define BPX_ARRAY_REGISTERS 2
#endif
template <class S> using ArrayLane = Pack<S, BPX_ARRAY_REGISTERS>;

/// Calls op(a, b, x, y) with lanes a of `first` and b of `second` (or of `first` again), for outputs x and y (or only x).
/// The rest that does not fill a lane goes through a buffer, so that nothing behind an array is touched.
template <class S, class Op>
BPX_FN void for_each(i64 n, const S* first, const S* second, S* out, S* out2, Op op) {
  using T = ArrayLane<S>;
  constexpr int width = Lane<T>::width;
  T x, y;
  i64 i = 0;
  for (; i + width <= n; i += width) {
    op(load<T>(first + i), load<T>(second + i), x, y);
    store<T>(out + i, x);
    if (out2) store<T>(out2 + i, y);
  }
  if (i < n) {
    S a[width] = {}, b[width] = {};
    for (int k = 0; k < n - i; ++k) a[k] = first[i + k], b[k] = second[i + k];
    op(load<T>(a), load<T>(b), x, y);
    store<T>(a, x);
    if (out2) store<T>(b, y);
    for (int k = 0; k < n - i; ++k) {
      out[i + k] = a[k];
      if (out2) out2[i + k] = b[k];
    }
  }
}
/// y = f(t)
template <class F, class S> BPX_FN void value(i64 n, const S* t, S* y, const S* p) {
  using T = ArrayLane<S>;
  for_each<S>(n, t, t, y, (S*)nullptr, [=](T a, T, T& x, T&) { x = F::value(a, p); });
}
/// y = f'(t)
template <class F, class S> BPX_FN void grad(i64 n, const S* t, S* y, const S* p) {
  using T = ArrayLane<S>;
  for_each<S>(n, t, t, y, (S*)nullptr, [=](T a, T, T& x, T&) { x = F::grad(a, p); });
}
/// grad_t = grad_z * f'(t), an ordinary product: 0 times infinity is NaN
template <class F, class S> BPX_FN void grad_product(i64 n, const S* t, const S* grad_z, S* grad_t, const S* p) {
  using T = ArrayLane<S>;
  for_each<S>(n, t, grad_z, grad_t, (S*)nullptr, [=](T a, T b, T& x, T&) { x = b * F::grad(a, p); });
}
/// y = f(t) and dy = f'(t)
template <class F, class S> BPX_FN void value_and_grad(i64 n, const S* t, S* y, S* dy, const S* p) {
  using T = ArrayLane<S>;
  for_each<S>(n, t, t, y, dy, [=](T a, T, T& x, T& d) { F::both(a, p, x, d); });
}
#endif

}  // namespace bpx
