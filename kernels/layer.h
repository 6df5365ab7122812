#pragma once
#include "math.h"
// The layered engine on the GPU: all that happens to a layer between two matrix products, in one launch.
//
// Signals are (n, width), a sample a row. A block takes `rows` samples and tiles of `span` columns. Each of its threads
// stays in one column of a tile and strides over the rows, so that neighbours read neighbouring numbers, a bias is
// read once, and a column's sum grows in a register. A block's sums are one row of partial results, which second_pass
// adds up: every order is fixed by n and width.
//
// Pointers may be null: no bias, no target, no weights, a result that nobody wants.

namespace bpx {

constexpr int layer_threads = 256, second_threads = 1024;
constexpr int softmax_rows = 256;  // the most that a block takes of a loss that needs whole rows

/// The sums of each column over the threads in it: thread k holds a number of column k % columns, k / columns < lanes.
template <int THREADS, class S> BPX_FN S sum_lanes(S mine, int columns, int lanes) {
  __shared__ S sums[THREADS];
  const int k = threadIdx.x, lane = k / columns;
  sums[k] = mine;
  __syncthreads();
  for (int half = THREADS / 2; half > 0; half /= 2) {
    if (lane < half && lane + half < lanes) sums[k] += sums[k + half * columns];
    __syncthreads();
  }
  const S sum = sums[k];
  __syncthreads();
  return sum;  // in the threads k < columns
}

/// The sum of step(row) over every stride-th row, four at a time, so that their loads don't wait for one another.
template <class S, class Step> BPX_FN S over_rows(i64 row, i64 last, int stride, Step step) {
  S sum = 0;
  for (; row + 3 * (i64)stride < last; row += 4 * (i64)stride) {
    S four = 0;
    BPX_UNROLL
    for (int k = 0; k < 4; ++k) four += step(row + k * (i64)stride);
    sum += four;
  }
  for (; row < last; row += stride) sum += step(row);
  return sum;
}

/// The samples of this block, and work(column, first row of this thread, rows at once, columns, lane is in use) a tile.
struct Share {
  i64 first, last;
  int width, span;

  BPX_FN Share(i64 n, i64 rows, int width, int span) : first(blockIdx.x * rows), width(width), span(span) {
    last = first + rows < n ? first + rows : n;
  }
  template <class Work> BPX_FN void each_tile(Work work) const {
    for (int start = blockIdx.y * span; start < width; start += gridDim.y * span) {
      const int columns = width - start < span ? width - start : span, lanes = layer_threads / columns;
      const int lane = threadIdx.x / columns;
      work(start + (int)threadIdx.x % columns, lane < lanes ? first + lane : last, columns, lanes);
    }
  }
};

/// t += bias, z = f(t).
template <class F, class S>
BPX_FN void layer_forward(i64 n, i64 rows, int width, int span, S* __restrict__ t, const S* __restrict__ bias,
                          S* __restrict__ z, const S* p) {
  const Share share(n, rows, width, span);
  share.each_tile([&](int column, i64 row, int, int lanes) {
    const S b = bias ? bias[column] : S(0);
    over_rows<S>(row, share.last, lanes, [&](i64 r) {
      const i64 i = r * width + column;
      S a = t[i];
      if (bias) t[i] = a = a + b;
      if (z) z[i] = F::value(a, p);
      return S(0);
    });
  });
}

/// grad_t = grad_z f'(t), and the sums of its columns.
template <class F, class S>
BPX_FN void layer_backward(i64 n, i64 rows, int width, int span, const S* __restrict__ t, const S* __restrict__ grad_z,
                           S* __restrict__ grad_t, S* __restrict__ sums, const S* p) {
  const Share share(n, rows, width, span);
  share.each_tile([&](int column, i64 row, int columns, int lanes) {
    S sum = over_rows<S>(row, share.last, lanes, [&](i64 r) {
      const i64 i = r * width + column;
      const S grad = grad_z[i] * F::grad(t[i], p);
      if (grad_t) grad_t[i] = grad;
      return grad;
    });
    if (!sums) return;
    sum = sum_lanes<layer_threads>(sum, columns, lanes);
    if (threadIdx.x < columns) sums[blockIdx.x * (i64)width + column] = sum;
  });
}

/// What all outputs of one sample share.
template <class S> struct Softmax { S top, inverse, mass; };

/// A loss that is F::factor times a sum over the outputs: F::both(z, y, p, value, grad), or without y if F::target is
/// false.
template <class F> struct SumLoss {
  static constexpr bool rowwise = false;
  static constexpr float factor = F::factor;
  template <class S>
  BPX_FN static void both(S z, const S* y, i64 i, i64, int, Softmax<S>, const S* p, S& value, S& grad) {
    if constexpr (F::target) F::both(z, y[i], p, value, grad);
    else F::both(z, p, value, grad);
  }
};

/// -sum_k y_k log softmax(z)_k; y are class indices or probabilities. An index of no class gives NaN.
template <bool CLASSES> struct SoftmaxLoss {
  static constexpr bool rowwise = true;
  static constexpr float factor = 1.0f;
  template <class S, class Y>
  BPX_FN static void both(S z, const Y* y, i64 i, i64 row, int column, Softmax<S> of, const S*, S& value, S& grad) {
    const S softmax = exp(z - of.top) * of.inverse * of.mass;
    value = 0;  // it was added with the rows
    grad = softmax - (CLASSES ? S(y[row] == column) : S(y[i]));
  }

  /// Fills `softmax` for the samples of a block, `group` threads a sample, and returns this thread's part of the loss.
  template <class S, class Y, class Output>
  BPX_FN static S rows(const Share& share, const Y* y, const S* weight, Softmax<S>* softmax, Output output) {
    const int width = share.width;
    int group = 1;
    while (group < width && group < 32) group *= 2;
    const int lane = threadIdx.x % group;
    S losses = 0;
    for (i64 base = share.first; base < share.last; base += layer_threads / group) {
      const bool here = base + threadIdx.x / group < share.last;
      const i64 row = here ? base + threadIdx.x / group : share.last - 1;  // all of a warp take part in its shuffles
      S top = output(row, lane < width ? lane : 0), total = 0, loss = 0, mass = 0;
      for (int k = lane + group; k < width; k += group) top = maximum(output(row, k), top);
      for (int o = group / 2; o > 0; o /= 2) top = maximum(__shfl_xor_sync(~0u, top, o), top);
      for (int k = lane; k < width; k += group) total += exp(output(row, k) - top);
      total = group_sum(total, group);
      const S log_total = log(total);
      if constexpr (!CLASSES) {
        for (int k = lane; k < width; k += group) {
          const S y_k = y[row * width + k];
          mass += y_k;
          // a class of probability 0 adds nothing, even where its log-probability is -inf
          if (y_k != S(0)) loss += y_k * (log_total - (output(row, k) - top));
        }
        mass = group_sum(mass, group);
      } else {
        const Y label = y[row];
        const bool known = 0 <= label && label < width;
        mass = known ? S(1) : sqrt(S(-1));
        if (lane == 0) loss = known ? log_total - (output(row, (int)label) - top) : mass;
      }
      if (here) losses += weight ? loss * weight[row] : loss;
      if (here && lane == 0) softmax[row - share.first] = {top, S(1) / total, mass};
    }
    return losses;
  }

 private:
  template <class S> BPX_FN static S group_sum(S a, int group) {
    for (int o = group / 2; o > 0; o /= 2) a += __shfl_xor_sync(~0u, a, o);
    return a;
  }
};

/// The last layer's t += bias and z = f(t), the loss, and the gradients back to t: everything between the last product
/// of the forward pass and the first of the backward pass.
template <class F, class L, class S, class Y>
BPX_FN void layer_loss(i64 n, i64 rows, int width, int span, const S* __restrict__ product, const S* __restrict__ bias,
                       const Y* __restrict__ y, const S* __restrict__ weight, S scale, S* __restrict__ t,
                       S* __restrict__ z, S* __restrict__ grad_z, S* __restrict__ grad_t, S* __restrict__ losses,
                       S* __restrict__ sums, const S* p, const S* loss_p) {
  __shared__ Softmax<S> softmax[L::rowwise ? softmax_rows : 1];
  const Share share(n, rows, width, span);
  S loss = 0;
  if constexpr (L::rowwise) {
    loss = L::rows(share, y, weight, softmax, [&](i64 row, int k) {
      const S a = product[row * width + k];
      return F::value(bias ? a + bias[k] : a, p);
    });
    __syncthreads();
  }
  share.each_tile([&](int column, i64 row, int columns, int lanes) {
    const S b = bias ? bias[column] : S(0);
    S sum = over_rows<S>(row, share.last, lanes, [&](i64 r) {
      const i64 i = r * width + column;
      const S a = bias ? product[i] + b : product[i];
      S output, slope, value, grad;
      F::both(a, p, output, slope);
      L::both(output, y, i, r, column, softmax[L::rowwise ? r - share.first : 0], loss_p, value, grad);
      grad = grad * scale;
      if (weight) grad = grad * weight[r], value = value * weight[r];
      loss += value;
      if (t) t[i] = a;
      if (z) z[i] = output;
      if (grad_z) grad_z[i] = grad;
      grad_t[i] = grad = grad * slope;
      return grad;
    });
    if (!sums) return;
    sum = sum_lanes<layer_threads>(sum, columns, lanes);
    if (threadIdx.x < columns) sums[blockIdx.x * (i64)width + column] = sum;
  });
  loss = sum_lanes<layer_threads>(loss, 1, layer_threads);
  if (threadIdx.x == 0) losses[blockIdx.y * (i64)gridDim.x + blockIdx.x] = loss * c<S>(L::factor);
}

/// totals[column] = factor times the sum of a column of partial sums (rows, columns), in double.
template <class S> BPX_FN void second_pass(const S* parts, S* totals, i64 rows, i64 columns, double factor) {
  for (i64 start = blockIdx.x * 32; start < columns; start += gridDim.x * 32) {
    const int here = columns - start < 32 ? columns - start : 32, lanes = second_threads / here;
    const int lane = threadIdx.x / here, column = threadIdx.x % here;
    double sum = over_rows<double>(lane < lanes ? lane : rows, rows, lanes, [&](i64 row) {
      return double(parts[row * columns + start + column]);
    });
    sum = sum_lanes<second_threads>(sum, here, lanes);
    if (threadIdx.x < here) totals[start + column] = S(sum * factor);
  }
}

}  // namespace bpx
