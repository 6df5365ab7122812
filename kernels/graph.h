#pragma once
#include "panels.h"
#include "vectors.h"
// Steps of a compiled pass over a graph, for one tile of samples: backprop_xp/programs/graph_source.py strings them
// together.
//
// Values stand in panels as in panels.h. `features` counts real ones; element-wise steps also go over those that only
// fill a panel, which nothing reads. `add` says whether a result is added to what is there.
//
// A tile of one sample, R = 1, is read and written by no product of matrices: its features stand side by side, its
// parameters and their gradients row by row, as their owner has them, and its input is one piece.

namespace bpx {

using u64 = unsigned long long;

/// What the caller hands over. `wide` holds all but the inputs.
struct GraphArgs {
  WideArgs wide;
  const void* const* x;  // of every input (n, features), any strides
  const i64* strides;    // row and column of each
  void* const* x_grad;   // of every input (n, features) contiguous, where input gradients are asked for
  const u64* keys;       // of every dropout
};

template <int R, class S> constexpr i64 panel_size = i64(R) * panel<S>;

// ---- linear nodes -----------------------------------------------------------------------------------------------
// The input may be several pieces, each in panels of its own, as if they were concatenated: `from` is where a piece
// begins among all `in` features.

/// t (+)= W z (+ b) for a piece of the input; `weight` is W^T in panels of outputs.
template <int R, class S>
static void graph_linear(int in, int from, int features, int out, const S* weight, const S* bias, const S* z, S* t, int used) {
  if constexpr (R == 1) {
    for (int o = 0; o < out; ++o) t[o] = dot(in, weight + i64(o) * in, z, bias ? bias[o] : S(0));
  } else {
    constexpr int V = panel<S>;
    products<S>(features, z, panel_size<R, S>, weight + i64(from) * V, i64(in) * V, t, panel_size<R, S>, panels<S>(out), used,
                from ? nullptr : bias, from > 0);
  }
}
/// grad_z (+)= W^T grad_t for a piece; `weight` is its W in panels of inputs.
template <int R, class S>
static void graph_linear_below(int features, int out, const S* weight, const S* grad_t, S* grad_z, int used, bool add) {
  if constexpr (R == 1) {
    if (!add) times(features, grad_t[0], weight, grad_z);
    for (int o = !add; o < out; ++o) add_times(features, grad_t[o], weight + i64(o) * features, grad_z);
  } else {
    products<S>(out, grad_t, panel_size<R, S>, weight, i64(out) * panel<S>, grad_z, panel_size<R, S>, panels<S>(features), used,
                (const S*)nullptr, add);
  }
}
/// dw (+)= grad_t z^T for a piece; on the GPU its rows are `in` apart.
template <int R, class S>
static void graph_outer(int, int features, int out, const S* grad_t, const S* z, S* dw, int valid, bool add) {
  if constexpr (R == 1) {
    for (int o = 0; o < out; ++o) times(features, grad_t[o], z, dw + i64(o) * features);
  } else {
    const int rows = (out + weight_rows - 1) / weight_rows * weight_rows;
    const i64 panel_of_dw = i64(rows) * panel<S>;
    panel_blocks<weight_panels>(panels<S>(features), [&](int i, auto size) __attribute__((always_inline)) {
      weight_product<decltype(size)::value>(valid, grad_t, panel_size<R, S>, z + i * panel_size<R, S>, panel_size<R, S>,
                                            dw + i * panel_of_dw, panel_of_dw, rows, add);
    });
  }
}
/// sums (+)= a (times b) summed over the samples.
template <int R, class S> static void graph_column_sums(int features, const S* a, const S* b, S* sums, int valid, bool add) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>;
  for (int p = 0; p < panels<S>(features); ++p) {
    T total = add ? load<T>(sums + p * V) : T{};
    for (int s = 0; s < valid; ++s) {
      const i64 i = p * panel_size<R, S> + s * V;
      total = b ? fma(load<T>(a + i), load<T>(b + i), total) : total + load<T>(a + i);
    }
    store<T>(sums + p * V, total);
  }
}

// ---- element by element -------------------------------------------------------------------------------------------

/// op(i, T) for the lanes T of all panels in use.
template <int R, class S, class Op> BPX_FN void graph_each(int features, int used, Op op) {
  using T = Pack<S, R == 1 ? 1 : 2>;
  each_panel<R, T>(panels<S>(features), used, [&](i64 i) __attribute__((always_inline)) { op(i, T()); });
}

/// z = f(t), and f'(t) unless `slope` is null; both may stand where t does.
template <class F, int R, class S>
static void graph_activate(int features, const S* scalars, const S* t, S* z, S* slope, int used) {
  graph_each<R, S>(features, used, [&](i64 i, auto lane) __attribute__((always_inline)) {
    using T = decltype(lane);
    T value, derivative;
    if (slope) {
      F::both(load<T>(t + i), scalars, value, derivative);
      store<T>(slope + i, derivative);
    } else {
      value = F::value(load<T>(t + i), scalars);
    }
    store<T>(z + i, value);
  });
}
/// to = a + b
template <int R, class S> static void graph_add(int features, const S* a, const S* b, S* to, int used) {
  graph_each<R, S>(features, used, [&](i64 i, auto lane) __attribute__((always_inline)) {
    using T = decltype(lane);
    store<T>(to + i, load<T>(a + i) + load<T>(b + i));
  });
}
/// to (+)= a b
template <int R, class S> static void graph_multiply(int features, const S* a, const S* b, S* to, int used, bool add) {
  graph_each<R, S>(features, used, [&](i64 i, auto lane) __attribute__((always_inline)) {
    using T = decltype(lane);
    const T product = load<T>(a + i) * load<T>(b + i);
    store<T>(to + i, add ? load<T>(to + i) + product : product);
  });
}
template <int R, class S> static void graph_copy(int features, const S* a, S* to, int used) {
  graph_each<R, S>(features, used, [&](i64 i, auto lane) __attribute__((always_inline)) {
    store(to + i, load<decltype(lane)>(a + i));
  });
}
/// to (+)= a times dropout's factors, see backprop_xp/operations/dropout.py; `first` is the number of the first sample.
template <int R, class S>
static void graph_drop(int features, i64 first, u64 key, u64 threshold, S factor, const S* a, S* to, int used, bool add) {
  constexpr int V = panel<S>;
  constexpr u64 step = 0x9E3779B97F4A7C15ull;
  for (int p = 0; p < panels<S>(features); ++p) {
    for (int s = 0; s < used; ++s) {
      const u64 start = key + (u64(first + s) * u64(features) + u64(p) * V) * step;
      const i64 at = p * panel_size<R, S> + s * V;
      for (int k = 0; k < V; ++k) {
        u64 z = start + u64(k) * step;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ z >> 27) * 0x94D049BB133111EBull;
        z ^= z >> 31;
        const S kept = a[at + k] * (z >> 40 >= threshold ? factor : S(0));
        to[at + k] = add ? to[at + k] + kept : kept;
      }
    }
  }
}

// ---- concatenation where a linear node can't take the pieces ------------------------------------------------------

/// Features of one value to their places, from `at` on, in another.
template <int R, class S> static void graph_join(int features, const S* part, int at, S* whole, int used) {
  constexpr int V = panel<S>;
  for (int i = 0; i < features; ++i) {
    const S* const from = part + i / V * panel_size<R, S> + i % V;
    S* const to = whole + (at + i) / V * panel_size<R, S> + (at + i) % V;
    for (int s = 0; s < used; ++s) to[s * V] = from[s * V];
  }
}
/// The gradient of a concatenation, from `at` on, to the gradient of one of its pieces.
template <int R, class S> static void graph_split(int features, const S* whole, int at, S* part, int used, bool add) {
  constexpr int V = panel<S>;
  for (int i = 0; i < features; ++i) {
    const S* const from = whole + (at + i) / V * panel_size<R, S> + (at + i) % V;
    S* const to = part + i / V * panel_size<R, S> + i % V;
    for (int s = 0; s < used; ++s) to[s * V] = add ? to[s * V] + from[s * V] : from[s * V];
  }
}

// ---- layer normalisation --------------------------------------------------------------------------------------------

/// The sum over the real features of sample s of op(i), lane by lane.
template <int R, class S, class Op> BPX_FN S row_sum(int features, int s, Op op) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>;
  T sums{};
  S total = 0;
  const int whole = features / V;
  for (int p = 0; p < whole; ++p) sums = sums + op(p * panel_size<R, S> + s * V);
  for (int k = 0; k < V; ++k) total += sums.v[k];
  if (features % V) {
    const T last = op(whole * panel_size<R, S> + s * V);
    for (int k = 0; k < features % V; ++k) total += last.v[k];
  }
  return total;
}
/// y = normal * gain + bias, normal = (z - mean) * scale; `normal` may stand where z does, `scale` holds one number a sample.
template <int R, class S>
static void graph_normalise(int features, S eps, const S* gain, const S* bias, const S* z, S* normal, S* scale, S* y, int used) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>;
  for (int s = 0; s < used; ++s) {
    const T mean = c<T>(row_sum<R, S>(features, s, [&](i64 i) { return load<T>(z + i); }) / S(features));
    const S variance = row_sum<R, S>(features, s, [&](i64 i) { const T d = load<T>(z + i) - mean; return d * d; }) / S(features);
    scale[s] = S(1) / sqrt(variance + eps);
    const T factor = c<T>(scale[s]);
    for (int p = 0; p < panels<S>(features); ++p) {
      const i64 i = p * panel_size<R, S> + s * V;
      const T n = (load<T>(z + i) - mean) * factor;
      store<T>(normal + i, n);
      store<T>(y + i, fma(n, load<T>(gain + p * V), load<T>(bias + p * V)));
    }
  }
}
/// grad_z (+)= scale (g gain - mean(g gain) - normal mean(g gain normal))
template <int R, class S>
static void graph_normalise_below(int features, const S* gain, const S* normal, const S* scale, const S* grad, S* grad_z,
                                  int used, bool add) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>;
  for (int s = 0; s < used; ++s) {
    auto inner = [&](i64 i) __attribute__((always_inline)) { return load<T>(grad + i) * load<T>(gain + i / panel_size<R, S> * V); };
    const T mean = c<T>(row_sum<R, S>(features, s, inner) / S(features));
    const T along = c<T>(row_sum<R, S>(features, s, [&](i64 i) { return inner(i) * load<T>(normal + i); }) / S(features));
    for (int p = 0; p < panels<S>(features); ++p) {
      const i64 i = p * panel_size<R, S> + s * V;
      const T g = c<T>(scale[s]) * (inner(i) - mean - load<T>(normal + i) * along);
      store<T>(grad_z + i, add ? load<T>(grad_z + i) + g : g);
    }
  }
}

// ---- normalisation by given statistics: batch normalisation in use ---------------------------------------------------

/// 1 / sqrt(variance + eps) of a panel.
template <class T, class S> BPX_FN T panel_scale(const S* variance, S eps) {
  return c<T>(S(1)) / sqrt(load<T>(variance) + c<T>(eps));
}
/// y = normal * gain + bias, normal = (z - mean) / sqrt(variance + eps); `normal` may stand where z does.
template <int R, class S>
static void graph_standardise(int features, S eps, const S* mean, const S* variance, const S* gain, const S* bias, const S* z,
                              S* normal, S* y, int used) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>;
  for (int p = 0; p < panels<S>(features); ++p) {
    const T middle = load<T>(mean + p * V), scale = panel_scale<T>(variance + p * V, eps);
    const T factor = load<T>(gain + p * V), offset = load<T>(bias + p * V);
    for (int s = 0; s < used; ++s) {
      const i64 i = p * panel_size<R, S> + s * V;
      const T n = (load<T>(z + i) - middle) * scale;
      store<T>(normal + i, n);
      store<T>(y + i, fma(n, factor, offset));
    }
  }
}
/// grad_z (+)= g gain / sqrt(variance + eps)
template <int R, class S>
static void graph_standardise_below(int features, S eps, const S* variance, const S* gain, const S* grad, S* grad_z, int used,
                                    bool add) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>;
  for (int p = 0; p < panels<S>(features); ++p) {
    const T factor = load<T>(gain + p * V) * panel_scale<T>(variance + p * V, eps);
    for (int s = 0; s < used; ++s) {
      const i64 i = p * panel_size<R, S> + s * V;
      const T g = load<T>(grad + i) * factor;
      store<T>(grad_z + i, add ? load<T>(grad_z + i) + g : g);
    }
  }
}

// ---- a chunk ----------------------------------------------------------------------------------------------------------

/// Calls Graph::tile for tiles of R samples; returns the sum of the samples' losses.
template <class Graph> double graph_run(const GraphArgs& args, i64 first, i64 count, void* memory, void* grads) {
  using S = typename Graph::S;
  constexpr int R = Graph::rows;
  double loss = 0;
  for (i64 at = 0; at < count && !stopped(args.wide); at += R) {
    const int valid = count - at < R ? int(count - at) : R;
    const int used = (valid + product_rows - 1) / product_rows * product_rows;
    const WideTile<S> tile{&args.wide, (const S*)args.wide.scalars, first + at, valid, used, at > 0, &loss};
    Graph::tile(args, tile, (S*)memory, (S*)grads);
  }
  return loss;
}
template <int R, class S> static void graph_input(const GraphArgs& args, int k, i64 first, int features, int valid, S* to) {
  const i64 row = args.strides[2 * k], column = args.strides[2 * k + 1];
  to_panels<R>((const S*)args.x[k] + first * row, row, column, features, valid, to);
}

// ---- a batch of one chunk, with parameters and gradients as their owner has them -----------------------------------------

struct ChunkArgs {
  GraphArgs graph;
  i64 parameters;        // how many arrays are copied to `flat`,
  const i64* copies;     // and of each its address, its place there and its size
  void* flat;
  i64 packed;            // how many numbers graph.wide.params holds,
  const i64* origins;    // and the place of each in `flat`
  void* packed_grads;    // as the pass leaves them
  i64 grads;             // how many numbers the gradients hold,
  const i64* to;         // and the place of each in `packed_grads`
  i64 sums;              // how many of these are added to others, of parameters that stand in several places,
  const i64* additions;  // and of each the place among the gradients and its own
};

/// Copies arrays, of each of which `copies` holds the address, the place in `to` and the size.
template <class S> static void copy_arrays(i64 count, const i64* copies, S* to) {
  for (const i64* copy = copies; copy < copies + 3 * count; copy += 3)
    __builtin_memcpy(to + copy[1], (const void*)copy[0], copy[2] * sizeof(S));
}
/// The sum of the samples' losses, and unless `grads` is null all gradients.
template <class Graph> double graph_chunk(const ChunkArgs& args, i64 count, void* memory, void* grads) {
  using S = typename Graph::S;
  S *const flat = (S*)args.flat, *const params = (S*)args.graph.wide.params, *const found = (S*)args.packed_grads;
  copy_arrays(args.parameters, args.copies, flat);
  for (i64 k = 0; k < args.packed; ++k) params[k] = flat[args.origins[k]];
  const double loss = graph_run<Graph>(args.graph, 0, count, memory, found);
  if (S* const to = (S*)grads) {
    for (i64 k = 0; k < args.grads; ++k) to[k] = found[args.to[k]];
    for (i64 k = 0; k < args.sums; ++k) to[args.additions[2 * k]] += found[args.additions[2 * k + 1]];
  }
  return loss;
}

}  // namespace bpx

#define BPX_GRAPH(GRAPH)                                                                                               \
  BPX_ENTRY double bpx_graph(const bpx::GraphArgs* args, bpx::i64 first, bpx::i64 count, void* memory, void* grads) {  \
    return bpx::graph_run<GRAPH>(*args, first, count, memory, grads);                                                  \
  }                                                                                                                    \
  BPX_ENTRY double bpx_graph_chunk(const bpx::ChunkArgs* args, bpx::i64 count, void* memory, void* grads) {            \
    return bpx::graph_chunk<GRAPH>(*args, count, memory, grads);                                                       \
  }                                                                                                                    \
  BPX_SIZE_OF(GraphArgs)                                                                                               \
  BPX_SIZE_OF(ChunkArgs)                                                                                               \
  BPX_ENTRY bpx::i64 bpx_graph_panel() { return bpx::panel<GRAPH::S>; }                                                \
  BPX_ENTRY bpx::i64 bpx_graph_weight_rows() { return bpx::weight_rows; }
