#pragma once
#include "block.h"
// The steps of a compiled pass over a graph by a block of threads: what backprop_xp/programs/block_graph.py strings
// together. They have the names and the arguments of those of graph.h, so that operations write one text for both.
//
// A value stands in shared memory feature by feature, the rows `stride` apart, as signals in block_cuda.h do. Samples from
// `used` on are none and hold 0 in every value and every gradient, whatever the parameters are. Before
// a step that touches what others wrote, or writes what they read, there is a barrier. Those of linear nodes are in
// graph_products.h, and by tensor cores in graph_tensor.h.
//
// A pass that waits for sums over the batch, as batch normalisation does in training, is several launches. Each adds up the
// sums from Graph::first on, among all of the pass, and keeps what later ones need of the tile (backprop_xp/programs/stages.py).
//
// R, a number of samples in graph.h, is here the Graph, whose constants rows, threads and sums are as in block_cuda.h.

namespace bpx {

using u64 = unsigned long long;

/// By value; backprop_xp/programs/structs.py mirrors it. Strides are in elements.
template <class S> struct GraphInput {
  const S* x;   // (n, features)
  i64 row, column;
  S* grad;      // (n, features) contiguous, where input gradients are asked for
};

/// What launches leave each other where a pass waits for sums over the whole batch. By value, too.
template <class S> struct Between {
  S* kept;      // of the launch's first sample; features are `samples` apart
  S* totals;    // sums over the batch, and what is computed of them
  i64 samples;  // of the whole batch
};

/// The x and the x_grad of `Batch` are not used.
template <class S> struct GraphArgs : BlockArgs<S> {
  const GraphInput<S>* inputs;
  S* const* x_grad;         // of every input
  const u64* keys;          // of every dropout
  Between<S> between;
};
template <class S> struct GraphTile : BlockTile<S> {
  int used;  // samples, = valid
};

/// rows x columns numbers from `from`, `row` and `column` apart, to rows of padded(columns). All blocks do it together.
template <class S> BPX_FN void pack_rows(int rows, int columns, const S* from, int row, int column, S* to) {
  const int whole_row = padded(columns);
  for (int at = blockIdx.x * blockDim.x + threadIdx.x; at < rows * whole_row; at += gridDim.x * blockDim.x) {
    const int r = at / whole_row, c = at % whole_row;
    to[at] = c < columns ? from[i64(r) * row + i64(c) * column] : S(0);
  }
}

// ---- sums over the samples of a tile ------------------------------------------------------------------------------------

/// Over the first SAMPLES of a tile, whole vectors.
template <class R, class S, int SAMPLES = R::rows>
BPX_FN void graph_column_sums(int features, const S* a, const S* b, S* sums, int, bool add) {
  // the last threads: the first have more to do in the products beside it
  for (int i = R::threads - 1 - int(threadIdx.x); i < features; i += R::threads) {
    S parts[vector<S>] = {}, total = S(0);
    BPX_UNROLL
    for (int s = 0; s < SAMPLES; s += vector<S>) {
      S row[vector<S>], factor[vector<S>];
      load_row(a + i * stride<R> + s, row);
      if (b) load_row(b + i * stride<R> + s, factor);
      BPX_UNROLL
      for (int v = 0; v < vector<S>; ++v) parts[v] = b ? fma(row[v], factor[v], parts[v]) : parts[v] + row[v];
    }
    BPX_UNROLL
    for (int v = 0; v < vector<S>; ++v) total = total + parts[v];
    sums[i] = add ? sums[i] + total : total;
  }
}

// ---- element by element -------------------------------------------------------------------------------------------------

/// op(where it stands, the sample) for every number, each in one thread, whatever the step.
template <class R, class Op> BPX_FN void graph_each(int features, Op op) {
  each_of<R>(features * R::rows, [&](int at) { op(at / R::rows * stride<R> + at % R::rows, at % R::rows); });
}
template <class F, class R, class S>
BPX_FN void graph_activate(int features, const S* scalars, const S* t, S* z, S* slope, int used) {
  graph_each<R>(features, [&](int i, int s) {
    S value, derivative;
    if (slope) {
      F::both(t[i], scalars, value, derivative);
      slope[i] = s < used ? derivative : S(0);
    } else {
      value = F::value(t[i], scalars);
    }
    z[i] = s < used ? value : S(0);
  });
}
template <class R, class S> BPX_FN void graph_add(int features, const S* a, const S* b, S* to, int) {
  graph_each<R>(features, [&](int i, int) { to[i] = a[i] + b[i]; });
}
template <class R, class S> BPX_FN void graph_multiply(int features, const S* a, const S* b, S* to, int, bool add) {
  graph_each<R>(features, [&](int i, int) { to[i] = add ? to[i] + a[i] * b[i] : a[i] * b[i]; });
}
template <class R, class S> BPX_FN void graph_copy(int features, const S* a, S* to, int) {
  graph_each<R>(features, [&](int i, int) { to[i] = a[i]; });
}
template <class R, class S>
BPX_FN void graph_drop(int features, i64 first, u64 key, u64 threshold, S factor, const S* a, S* to, int, bool add) {
  constexpr u64 step = 0x9E3779B97F4A7C15ull;
  graph_each<R>(features, [&](int i, int s) {
    u64 z = key + (u64(first + s) * u64(features) + u64(i / stride<R>)) * step;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    const S kept = a[i] * (z >> 40 >= threshold ? factor : S(0));
    to[i] = add ? to[i] + kept : kept;
  });
}

// ---- concatenation where a linear node can't take the pieces --------------------------------------------------------

template <class R, class S> BPX_FN void graph_join(int features, const S* part, int at, S* joined, int used) {
  graph_copy<R>(features, part, joined + at * stride<R>, used);
}
template <class R, class S> BPX_FN void graph_split(int features, const S* joined, int at, S* part, int, bool add) {
  const S* const from = joined + at * stride<R>;
  graph_each<R>(features, [&](int i, int) { part[i] = add ? part[i] + from[i] : from[i]; });
}

// ---- layer normalisation ------------------------------------------------------------------------------------------------

/// Neighbours in a warp share a sample, and each has some of its features: where a row of sums is added up.
template <class R> constexpr int sharing = R::threads / R::rows;
/// The sum of op(where it stands, the feature) over the features of this thread's sample.
template <class R, class S, class Op> BPX_FN S row_sum(int features, Op op) {
  static_assert(R::threads % R::rows == 0 && sharing<R> <= 32, "a warp has whole samples");
  S total = S(0);
  for (int f = threadIdx.x % sharing<R>; f < features; f += sharing<R>)
    total = total + op(f * stride<R> + int(threadIdx.x) / sharing<R>, f);
  return together<sharing<R>>(total, [](S a, S b) { return a + b; });
}
/// op(where it stands, the feature) for this thread's features of its sample.
template <class R, class Op> BPX_FN void row_each(int features, Op op) {
  for (int f = threadIdx.x % sharing<R>; f < features; f += sharing<R>)
    op(f * stride<R> + int(threadIdx.x) / sharing<R>, f);
}
template <class R, class S>
BPX_FN void graph_normalise(int features, S eps, const S* gain, const S* bias, const S* z, S* normal, S* scale, S* y, int used) {
  const int s = threadIdx.x / sharing<R>;
  const S mean = row_sum<R, S>(features, [&](int i, int) { return z[i]; }) / S(features);
  const S variance = row_sum<R, S>(features, [&](int i, int) { return (z[i] - mean) * (z[i] - mean); }) / S(features);
  const S factor = s < used ? S(1) / sqrt(variance + eps) : S(0);
  if (threadIdx.x % sharing<R> == 0) scale[s] = factor;
  row_each<R>(features, [&](int i, int f) {
    const S n = (z[i] - mean) * factor;
    normal[i] = n;
    y[i] = s < used ? fma(n, gain[f], bias[f]) : S(0);
  });
}
template <class R, class S>
BPX_FN void graph_normalise_below(int features, const S* gain, const S* normal, const S* scale, const S* grad, S* grad_z,
                                  int used, bool add) {
  const int s = threadIdx.x / sharing<R>;
  const S mean = row_sum<R, S>(features, [&](int i, int f) { return grad[i] * gain[f]; }) / S(features);
  const S along = row_sum<R, S>(features, [&](int i, int f) { return grad[i] * gain[f] * normal[i]; }) / S(features);
  row_each<R>(features, [&](int i, int f) {
    const S g = scale[s] * (grad[i] * gain[f] - mean - normal[i] * along);
    grad_z[i] = s >= used ? S(0) : add ? grad_z[i] + g : g;
  });
}

// ---- normalisation by given statistics: batch normalisation in use -----------------------------------------------------

template <class R, class S>
BPX_FN void graph_standardise(int features, S eps, const S* mean, const S* variance, const S* gain, const S* bias, const S* z,
                              S* normal, S* y, int used) {
  graph_each<R>(features, [&](int i, int s) {
    const int f = i / stride<R>;
    const S n = s < used ? (z[i] - mean[f]) * (S(1) / sqrt(variance[f] + eps)) : S(0);
    normal[i] = n;
    y[i] = s < used ? fma(n, gain[f], bias[f]) : S(0);
  });
}
template <class R, class S>
BPX_FN void graph_standardise_below(int features, S eps, const S* variance, const S* gain, const S* grad, S* grad_z, int used,
                                    bool add) {
  graph_each<R>(features, [&](int i, int s) {
    const int f = i / stride<R>;
    const S g = s < used ? grad[i] * (gain[f] * (S(1) / sqrt(variance[f] + eps))) : S(0);
    grad_z[i] = add ? grad_z[i] + g : g;
  });
}

// ---- batch normalisation in training, between launches that add up the batch -----------------------------------------

/// features x samples of a value, from `slot` on, to the device's memory and back.
template <class R, class S>
BPX_FN void graph_keep(const GraphArgs<S>& args, int features, int slot, i64 first, int valid, const S* from) {
  each_of<R>(features * R::rows, [&](int at) {
    const int f = at / R::rows, s = at % R::rows;
    if (s < valid) args.between.kept[(slot + f) * args.between.samples + first + s] = from[f * stride<R> + s];
  });
}
template <class R, class S>
BPX_FN void graph_recall(const GraphArgs<S>& args, int features, int slot, i64 first, int valid, S* to) {
  each_of<R>(features * R::rows, [&](int at) {
    const int f = at / R::rows, s = at % R::rows;
    to[f * stride<R> + s] = s < valid ? args.between.kept[(slot + f) * args.between.samples + first + s] : S(0);
  });
}
/// Of the sums over the batch at `at`: the mean, and behind them those of squares, the variance.
template <class S> BPX_FN S batch_mean(const GraphArgs<S>& args, int at) {
  return args.between.totals[at] / S(args.between.samples);
}
/// sums[i] (+)= sum over the tile of (z[i] - mean)^2, the mean of the totals from `at` on.
template <class R, class S>
BPX_FN void graph_squares(const GraphArgs<S>& args, int features, int at, const S* z, S* sums, int valid, bool add) {
  for (int i = R::threads - 1 - int(threadIdx.x); i < features; i += R::threads) {
    const S mean = batch_mean(args, at + i);
    S total = S(0);
    for (int s = 0; s < valid; ++s) {
      const S centred = z[i * stride<R> + s] - mean;
      total = fma(centred, centred, total);
    }
    sums[i] = add ? sums[i] + total : total;
  }
}
/// Behind the totals what the running mean and variance become; the latter moves towards that divided by n - 1.
template <class R, class S>
BPX_FN void graph_move_statistics(const GraphArgs<S>& args, int features, S share, const S* mean, const S* variance, int at,
                                  bool add) {
  if (blockIdx.x > 0 || add) return;
  const S n = S(args.between.samples);
  S* const to = args.between.totals + at + 2 * features;
  for (int f = threadIdx.x; f < features; f += R::threads) {
    to[f] = (S(1) - share) * mean[f] + share * batch_mean(args, at + f);
    to[features + f] = (S(1) - share) * variance[f] + share * (batch_mean(args, at + features + f) * (n / (n - S(1))));
  }
}
/// Without a gain and a bias, the normal value itself.
template <class R, class S>
BPX_FN void graph_batch_normalise(const GraphArgs<S>& args, int features, S eps, int at, const S* gain, const S* bias,
                                  const S* z, S* y, int used) {
  graph_each<R>(features, [&](int i, int s) {
    const int f = i / stride<R>;
    const S normal = (z[i] - batch_mean(args, at + f)) * (S(1) / sqrt(batch_mean(args, at + features + f) + eps));
    y[i] = s >= used ? S(0) : gain ? fma(normal, gain[f], bias[f]) : normal;
  });
}
/// grad_z (+)= gain / sqrt(variance + eps) (grad - mean of grad - normal mean of grad normal); these means' sums are the
/// totals at `biases` and at `gains`, the variance's at `squares`.
template <class R, class S>
BPX_FN void graph_batch_below(const GraphArgs<S>& args, int features, S eps, int squares, const S* gain, int gains, int biases,
                              const S* normal, const S* grad, S* grad_z, int used, bool add) {
  graph_each<R>(features, [&](int i, int s) {
    const int f = i / stride<R>;
    const S factor = gain[f] * (S(1) / sqrt(batch_mean(args, squares + f) + eps));
    const S through = normal[i] * batch_mean(args, gains + f) + batch_mean(args, biases + f);
    const S g = s < used ? factor * (grad[i] - through) : S(0);
    grad_z[i] = add ? grad_z[i] + g : g;
  });
}

// ---- a tile, from the device's memory and back ---------------------------------------------------------------------------

template <class R, class S>
BPX_FN void graph_input(const GraphArgs<S>& args, int k, i64 first, int features, int valid, S* to) {
  const GraphInput<S>& x = args.inputs[k];
  const S* const from = x.x + first * x.row;
  each_of<R>(features * R::rows, [&](int at) {
    const int s = at / features, f = at % features;
    to[f * stride<R> + s] = s < valid ? from[s * x.row + f * x.column] : S(0);
  });
}
/// Rows (valid, features), contiguous.
template <class R, class S> BPX_FN void from_panels(const S* from, int features, int valid, S* to) {
  each_of<R>(features * valid, [&](int at) { to[at] = from[at % features * stride<R> + at / features]; });
}

template <int OUT> struct Outputs { static constexpr int out = OUT; static constexpr bool identity = true; };
/// The outputs become the gradient in them.
template <class Net, int OUT, int SCALAR, class R, class S> BPX_FN void wide_loss(const GraphTile<S>& tile, S* z) {
  BlockLoss<Net, typename Net::Loss>::template run<Outputs<OUT>>(tile, tile.args->scalars + SCALAR, z, (const S*)nullptr);
}

template <class GRAPH> struct GraphPass {
  using Net = GRAPH;
  using S = typename Net::S;
  static constexpr int shared = Net::features * stride<Net>, packed = Net::packed, params = Net::params, out = Net::out;
  BPX_FN static void backprop(const BlockTile<S>& tile, S* sums, S* memory) { run(tile, memory, sums - Net::first); }
  BPX_FN static const S* infer(const BlockTile<S>& tile, S* memory) { return run(tile, memory, nullptr); }
  BPX_FN static const S* run(const BlockTile<S>& tile, S* memory, S* sums) {
    return Net::tile(static_cast<const GraphArgs<S>&>(*tile.args), GraphTile<S>{tile, tile.valid}, memory, sums);
  }
};

}  // namespace bpx
