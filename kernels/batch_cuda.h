#pragma once
#include "lane.h"
// What every pass over a batch on the GPU is handed.

namespace bpx {

/// By value; backprop_xp/programs/structs.py mirrors it. Strides are in elements.
template <class S> struct Batch {
  i64 n, chunk;          // samples, and those of a chunk
  const S* x;            // (n, in)
  i64 x_row, x_column;
  const void* y;         // (n, out) numbers or (n,) int64 class indices
  i64 y_row, y_column;
  const S* weight;       // (n,) or null
  i64 weight_row;
  S scale;               // the gradient is multiplied by it; `losses` is not
  S* x_grad;             // (n, in) contiguous, if Net::input_grad
  S* sums;               // (chunks, params): each chunk's gradients
  double* losses;        // (chunks,): each chunk's sum of weight * loss
  S* output;             // (n, out) contiguous: where nothing is backward
};

}  // namespace bpx
