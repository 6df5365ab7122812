#pragma once
#include "graph_cuda.h"
// Linear nodes of a graph by a block of threads, by float arithmetic. Of each W^T has rows of padded(out) numbers, and W, of
// each piece of the input, rows of padded(features); dW is as its owner has W.

namespace bpx {

/// Columns of the block of sums that a thread has at a time, and its rows, by how many there are for each thread.
constexpr int graph_columns = 4;
template <int ROWS> struct Rows { static constexpr int value = ROWS; };
template <class R, class Op> BPX_FN void graph_in_blocks(int sums, Op op) {
  const int share = whole(sums, R::threads * graph_columns);
  if (R::sums >= 8 * graph_columns && share > 4) op(Rows<(R::sums >= 8 * graph_columns ? 8 : 1)>());
  else if (R::sums >= 4 * graph_columns && share > 2) op(Rows<(R::sums >= 4 * graph_columns ? 4 : 1)>());
  else if (share > 1) op(Rows<2>());
  else op(Rows<1>());
}
/// to[o] (+)= start(o) + sum over k < depth of w[k][o] z[k], for every sample.
template <class R, class S, class Start>
BPX_FN void graph_product(int out, int depth, const S* w, int w_step, const S* z, S* to, int used, Start start) {
  graph_in_blocks<R>(out * R::rows, [&](auto rows) {
    product_in_blocks<R, decltype(rows)::value, graph_columns>(out, depth, w, w_step, z, start,
                                                               [&](int o, int s, const S* sums) {
      Vector<S> value;
      BPX_UNROLL
      for (int v = 0; v < vector<S>; ++v) value.v[v] = s + v < used ? sums[v] : S(0);
      *(Vector<S>*)(to + o * stride<R> + s) = value;
    });
  });
}
template <class R, class S>
BPX_FN void graph_linear(int in, int from, int features, int out, const S* weight, const S* bias, const S* z, S* t, int used) {
  graph_product<R>(out, features, weight + from * padded(out), padded(out), z, t, used, [&](int o, int s) {
    if (from > 0) return o < out ? t[o * stride<R> + s] : S(0);
    return bias ? bias[o] : S(0);
  });
}
template <class R, class S>
BPX_FN void graph_linear_below(int features, int out, const S* weight, const S* grad_t, S* grad_z, int used, bool add) {
  graph_product<R>(features, out, weight, padded(features), grad_t, grad_z, used, [&](int i, int s) {
    return add && i < features ? grad_z[i * stride<R> + s] : S(0);
  });
}
template <class R, class S>
BPX_FN void graph_outer(int in, int features, int out, const S* grad_t, const S* z, S* dw, int, bool add) {
  graph_in_blocks<R>(features * out, [&](auto rows) {
    weight_gradient_in_blocks<R, decltype(rows)::value, graph_columns>(out, features, grad_t, z, features, dw, in, add);
  });
}

}  // namespace bpx
