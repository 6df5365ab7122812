#pragma once
#include "lane.h"
// The Euclidean norm of all gradients, which decides whether a step clips them.

namespace bpx {

/// The sum of the squares of n numbers, in double, where no square of a float overflows.
template <class S> double square_sum(i64 n, const S* numbers) {
  constexpr int side = 32;  // sums side by side: as many as the vector units need
  double sums[side] = {};
  i64 i = 0;
  for (; i + side <= n; i += side)
    for (int k = 0; k < side; ++k) sums[k] += double(numbers[i + k]) * double(numbers[i + k]);
  for (int k = 0; i + k < n; ++k) sums[k] += double(numbers[i + k]) * double(numbers[i + k]);
  double total = 0;
  for (int k = 0; k < side; ++k) total += sums[k];
  return total;
}

}  // namespace bpx
