#pragma once
#include "losses.h"
#include "net.h"
#include "transpose_cpu.h"
#include "panel_products.h"
// What the compiled pass over a graph does to a tile of samples, which stays in the second-level cache: matrix products are
// blocked for registers, and element-wise steps are applied there.
//
// Signals stand in panels of V features (one register) by R samples: feature i of sample s is at
// [i / V][s][i % V]. A panel is what a product reads as vectors, and its rows are what another broadcasts from.
// Features that only fill a panel never meet real ones: products go over the real ones alone.

namespace bpx {

/// What the caller hands over; see bpx::Narrow for x, y and weight.
struct WideArgs {
  const void* x;
  i64 x_row, x_column;
  const void* y;
  i64 y_row, y_column;
  const void* weight;
  i64 weight_row;
  const void* params;   // packed by backprop_xp/programs/packing.py
  const void* scalars;
  double scale;
  void* output;         // (n, out) contiguous: forward
  void* x_grad;         // (n, in) contiguous, if Net::input_grad
  const i64* stop;      // raised, and the pass returns soon, with any result; may be null
};
inline bool stopped(const WideArgs& args) { return args.stop && __atomic_load_n(args.stop, __ATOMIC_RELAXED); }

// ---- one tile -----------------------------------------------------------------------------------------------------

template <class S> struct WideTile {
  const WideArgs* args;
  const S* scalars;
  i64 first;   // sample
  int valid;   // samples
  int used;    // valid, filled up to whole blocks of product()
  bool add;    // to the gradients, which the first tile of a chunk writes
  double* loss;

  bool stopped() const { return bpx::stopped(*args); }
};

/// Rows of a strided matrix into panels, and back.
template <int R, class S> static void to_panels(const S* from, i64 row, i64 column, int features, int valid, S* to) {
  constexpr int V = panel<S>;
  for (int p = 0; p < panels<S>(features); ++p) {
    const int most = features - p * V < V ? features - p * V : V;
    for (int s = 0; s < valid; ++s) {
      const S* const source = from + s * row + i64(p) * V * column;
      S* const target = to + (i64(p) * R + s) * V;
      if (column == 1 && most == V) {
        store(target, load<Pack<S, 1>>(source));
      } else {
        for (int k = 0; k < most; ++k) target[k] = source[k * column];
      }
    }
  }
}
template <int R, class S> static void from_panels(const S* from, int features, int valid, S* to) {
  constexpr int V = panel<S>;
  for (int s = 0; s < valid; ++s)
    for (int i = 0; i < features; ++i) to[i64(s) * features + i] = from[(i64(i / V) * R + s) * V + i % V];
}

/// Calls op(i) for the lanes T of all panels of a tile, at most one lane beyond the samples in use.
template <int R, class T, class Op> BPX_FN void each_panel(int count, int used, Op op) {
  constexpr int V = panel<Scalar<T>>;
  for (int p = 0; p < count; ++p)
    for (int i = 0; i < used * V; i += Lane<T>::width) op(i64(p) * R * V + i);
}
/// a *= b over all panels.
template <int R, class S> static void multiply_panels(int count, int used, S* a, const S* b) {
  using T = Pack<S, 2>;
  each_panel<R, T>(count, used, [&](i64 i) __attribute__((always_inline)) { store<T>(a + i, load<T>(a + i) * load<T>(b + i)); });
}

/// The loss of the tile, and its gradient in place of the outputs z.
template <class Net, int OUT, int SCALAR, int R, class S> static void wide_loss(const WideTile<S>& tile, S* z) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>;
  constexpr Target target = Net::Loss::target;
  constexpr int targets = target == Target::values ? OUT : 1;
  alignas(64) static thread_local S outputs[OUT * V], y[targets * V];
  const WideArgs& args = *tile.args;
  for (int s0 = 0; s0 < tile.valid; s0 += V) {  // a register of samples at a time, feature by feature, as losses.h wants
    const int count = tile.valid - s0 < V ? tile.valid - s0 : V;
    const i64 at = tile.first + s0;
    alignas(64) S losses[V], weight[V], factor[V];
    for (int k = 0; k < V; ++k) {
      const bool real = k < count;
      weight[k] = Net::factors && args.weight && real ? ((const S*)args.weight)[(at + k) * args.weight_row] : S(1);
      factor[k] = weight[k] * S(args.scale);
      for (int o = 0; o < OUT; ++o) outputs[o * V + k] = real ? z[(i64(o / V) * R + s0 + k) * V + o % V] : S(0);
      if constexpr (target == Target::values) {
        for (int o = 0; o < OUT; ++o) y[o * V + k] = real ? ((const S*)args.y)[(at + k) * args.y_row + o * args.y_column] : S(0);
      } else if constexpr (target == Target::classes) {
        y[k] = real ? S(((const i64*)args.y)[(at + k) * args.y_row]) : S(0);
      }
    }
    store<T>(losses, Net::Loss::template run<OUT, V>(outputs, y, tile.scalars + SCALAR, load<T>(factor), Net::factors));
    for (int k = 0; k < count; ++k) {
      *tile.loss += double(Net::factors ? losses[k] * weight[k] : losses[k]);
      for (int o = 0; o < OUT; ++o) z[(i64(o / V) * R + s0 + k) * V + o % V] = outputs[o * V + k];
    }
  }
}

}  // namespace bpx
