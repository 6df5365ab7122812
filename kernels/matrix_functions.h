#pragma once
#include "activations.h"
#include "dense.h"
#include "losses.h"
#include "transpose_cpu.h"
// What the passes of matrices.h and narrow_cpu.h are given for one net: activations and a loss, over blocks of signals.

namespace bpx {

/// The loss of a block of samples, and its gradients in place of the outputs.
struct LossBlock {
  i64 first, count;     // samples of the batch
  void* z;              // output k of sample s at z[k / V * panel + s * row + k % V]
  i64 panel, row, out;
  const void* y;
  i64 y_row, y_column;
  const i64* rows;      // of y, one a sample; null: the samples' numbers
  const void* weight;   // (n) or null
  i64 weight_row;
  double scale;
  const void* p;
  double* losses;       // one a sample, times its weight
};
using LossOfBlock = void(const LossBlock*, void* memory);
/// The losses of a tile of Shape<S>::samples samples, feature by feature, and their gradients in place of the outputs z,
/// times the factors of the samples, if these aren't null.
using TileLoss = void(i64 outputs, void* z, const void* y, const void* p, const void* factor, void* losses);

/// z and f'(t) of n numbers t, or z alone; p points to the activation's parameters.
using Both = void(i64 n, const void* t, void* z, void* slope, const void* p);
using Value = void(i64 n, const void* t, void* z, const void* p);
struct Function {
  Both* both;
  Value* value;
  const void* p;
};

/// Calls op(i, count) for registers of numbers 0 to n, `count` of which are there.
template <class T, class Op> BPX_FN void each_lane(i64 n, Op op) {
  constexpr int width = Lane<T>::width;
  i64 i = 0;
  for (; i + width <= n; i += width) op(i, width);
  if (i < n) op(i, int(n - i));
}
template <class T, class S> BPX_FN T load_some(const S* from, int count) {
  if (count == Lane<T>::width) return load<T>(from);
  S buffer[Lane<T>::width] = {};
  for (int k = 0; k < count; ++k) buffer[k] = from[k];
  return load<T>(buffer);
}
template <class T, class S> BPX_FN void store_some(S* to, T a, int count) {
  if (count == Lane<T>::width) return store<T>(to, a);
  S buffer[Lane<T>::width];
  store<T>(buffer, a);
  for (int k = 0; k < count; ++k) to[k] = buffer[k];
}

/// z = f(t) and f'(t) of n numbers, which may stand where t does; and z alone.
template <class F, class S> void activation_both(i64 n, const S* t, S* z, S* slope, const S* p) {
  using T = Pack<S, 2>;
  each_lane<T>(n, [&](i64 i, int count) __attribute__((always_inline)) {
    T value, derivative;
    F::both(load_some<T>(t + i, count), p, value, derivative);
    store_some<T>(z + i, value, count);
    store_some<T>(slope + i, derivative, count);
  });
}
template <class F, class S> void activation_value(i64 n, const S* t, S* z, const S* p) {
  using T = Pack<S, 2>;
  each_lane<T>(n, [&](i64 i, int count) __attribute__((always_inline)) {
    store_some<T>(z + i, F::value(load_some<T>(t + i, count), p), count);
  });
}

/// A register of samples at a time, output by output, as losses.h wants them; `memory` has room for 2 * out registers.
template <class Loss, class S> void loss_block(const LossBlock& block, S* memory) {
  using T = Pack<S, 1>;
  constexpr int V = Lane<T>::width;
  constexpr Target target = Loss::target;
  const int out = int(block.out);
  S *const outputs = memory, *const y = memory + i64(out) * V;
  const bool scaled = block.weight || block.scale != 1.0;
  for (i64 s0 = 0; s0 < block.count; s0 += V) {
    const int count = block.count - s0 < V ? int(block.count - s0) : V;
    const i64 at = block.first + s0;
    alignas(64) S losses[V], weight[V], factor[V];
    S* const z = (S*)block.z + s0 * block.row;
    const bool rows_of_y = target == Target::values && !block.rows && block.y_column == 1;
    for (int o = 0; o < out; o += V) {
      const int some = out - o < V ? out - o : V;
      transpose_square(z + o / V * block.panel, block.row, count, some, outputs + o * V, V);
      if (rows_of_y) transpose_square((const S*)block.y + at * block.y_row + o, block.y_row, count, some, y + o * V, V);
    }
    for (int k = 0; k < V; ++k) {
      const int s = k < count ? k : 0;  // a sample that isn't there is like the first
      const i64 y_at = (block.rows ? block.rows[at + s] : at + s) * block.y_row;
      weight[k] = block.weight ? ((const S*)block.weight)[(at + s) * block.weight_row] : S(1);
      factor[k] = weight[k] * S(block.scale);
      if constexpr (target == Target::values) {
        for (int o = 0; !rows_of_y && o < out; ++o) y[o * V + k] = ((const S*)block.y)[y_at + o * block.y_column];
      } else if constexpr (target == Target::classes) {
        y[k] = S(((const i64*)block.y)[y_at]);
      }
    }
    store<T>(losses, Loss::template run<any_outputs, V>(outputs, y, (const S*)block.p, load<T>(factor), scaled, out));
    for (int k = 0; k < count; ++k) block.losses[s0 + k] = double(block.weight ? losses[k] * weight[k] : losses[k]);
    for (int o = 0; o < out; o += V)
      transpose_square(outputs + o * V, V, out - o < V ? out - o : V, count, z + o / V * block.panel, block.row);
  }
}

template <class Loss, class S> void tile_loss(i64 outputs, S* z, const S* y, const S* p, const S* factor, S* losses) {
  using T = typename Shape<S>::Widest;
  constexpr int W = Shape<S>::samples;
  for (int s = 0; s < W; s += Lane<T>::width) {
    const T by = factor ? load<T>(factor + s) : c<T>(1.0f);
    store<T>(losses + s, Loss::template run<any_outputs, W>(z + s, y + s, p, by, factor != nullptr, int(outputs)));
  }
}

}  // namespace bpx

BPX_VECTOR_BYTES_ENTRY
