#pragma once
#include "panel_products.h"
// Products of a matrix and a vector, a row at a time: for one sample.

namespace bpx {

/// start + the sum of a[i] b[i].
template <class S> static S dot(int count, const S* a, const S* b, S start) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>;
  T sums{};
  int i = 0;
  for (; i + V <= count; i += V) sums = fma(load<T>(a + i), load<T>(b + i), sums);
  if (i)
    for (int k = 0; k < V; ++k) start += sums.v[k];
  for (; i < count; ++i) start = fma(a[i], b[i], start);
  return start;
}
/// to = factor a
template <class S> static void times(int count, S factor, const S* a, S* to) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>;
  int i = 0;
  for (; i + V <= count; i += V) store<T>(to + i, c<T>(factor) * load<T>(a + i));
  for (; i < count; ++i) to[i] = factor * a[i];
}
/// to += factor a
template <class S> static void add_times(int count, S factor, const S* a, S* to) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>;
  int i = 0;
  for (; i + V <= count; i += V) store<T>(to + i, fma(c<T>(factor), load<T>(a + i), load<T>(to + i)));
  for (; i < count; ++i) to[i] = fma(factor, a[i], to[i]);
}

}  // namespace bpx
