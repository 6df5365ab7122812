#pragma once
#include "graph_products.h"
#include "stack_parts.h"
// The pass of stack.h, for losses that contain derivatives of a net's outputs in x, by a block of threads on the GPU; for
// layers in a row of any widths, which stand in a table.
//
// A tile of points goes up and down the net in shared memory. A signal and its derivatives stand beside each other as if they
// were more samples: signal k of point s is in column k * points + s. So every product takes all of them, and a weight that a
// thread has in a register serves them all. Columns of points that are none hold the last point's signals once more, and have
// no gradient.
//
// Pass (backprop_xp/programs/stack_cuda.py) has the numbers S, an Equation as in stack_functions.h, the constants rows, gap, threads,
// resident and sums of block_cuda.h, and
//   points, signals            rows is their product; whole vectors of points
//   equation_scalars           where the equation's parameters begin among all
//   axis(k)                    the feature of x along which signal k is the first derivative, or -1
//   with_function(number, op)  calls op(StackFunction, where its parameters begin)
//
// Barriers stand in run(): within a step no thread reads what another one writes there.

namespace bpx {

/// The chain rule of an activation; FIRST as in first_inputs().
template <class FORWARD, class BACKWARD, class FIRST> struct StackFunction {
  using Forward = FORWARD;
  using Backward = BACKWARD;
  using First = FIRST;
};

struct DeviceLayer {
  int inputs, outputs;
  int skip, before;    // as in stack.h
  int function;        // its number; -1 for the identity
  int up, down, bias;  // where in the packed parameters W^T, W and b are; -1 for no b
  int grad;            // where among the gradients those of W begin; b's are behind them
  int z, t;            // features before it in a tile's memory; the same for the identity. The stack of x is at 0
};

/// `from` holds W and b of every layer, contiguous; what there is none of is not read.
template <class S> BPX_FN void pack_stack(const DeviceLayer* layers, int depth, const S* const* from, S* packed) {
  for (int l = 0; l < depth; ++l) {
    const DeviceLayer layer = layers[l];
    pack_rows(layer.inputs, layer.outputs, from[2 * l], 1, layer.inputs, packed + layer.up);
    pack_rows(layer.outputs, layer.inputs, from[2 * l], layer.inputs, 1, packed + layer.down);
    if (layer.bias >= 0) pack_rows(1, layer.outputs, from[2 * l + 1], 0, 1, packed + layer.bias);
  }
}

template <class Pass> struct DeviceStack {
  using S = typename Pass::S;
  static constexpr int points = Pass::points, signals = Pass::signals, rows = Pass::rows, step = stride<Pass>;
  const BlockArgs<S>& args;
  const DeviceLayer* layers;
  int depth;
  S* memory;

  /// The stacks of a layer; of x for -1.
  BPX_FN S* z(int l) const { return memory + (l < 0 ? 0 : layers[l].z) * step; }
  BPX_FN S* t(int l) const { return memory + layers[l].t * step; }
  BPX_FN static i64 sample(const BlockTile<S>& tile, int s) { return tile.first + (s < tile.valid ? s : tile.valid - 1); }
  /// Whether z of an earlier layer is added to t of this one, or to z.
  BPX_FN static bool adds(const DeviceLayer& layer, bool before) { return layer.skip >= -1 && bool(layer.before) == before; }
  /// op(where the signal of a feature of a point stands)
  template <class Op> BPX_FN static void each_point(int features, Op op) {
    each_of<Pass>(features * points, [&](int at) { op(at / points * step + at % points); });
  }

  BPX_FN void take_x(const BlockTile<S>& tile) const {
    each_of<Pass>(layers[0].inputs * rows, [&](int at) {
      const int i = at / rows, column = at % rows, k = column / points;
      const S* const from = args.x + sample(tile, column % points) * args.x_row + i * args.x_column;
      memory[i * step + column] = k == 0 ? *from : S(Pass::axis(k) == i);
    });
  }

  BPX_FN void product(const DeviceLayer& layer, int l) const {
    const S* const bias = layer.bias < 0 ? nullptr : args.params + layer.bias;
    const S* const skip = adds(layer, true) ? z(layer.skip) : nullptr;
    graph_product<Pass>(layer.outputs, layer.inputs, args.params + layer.up, padded(layer.outputs), z(l - 1), t(l), rows,
                        [&](int o, int column) {
                          if (o >= layer.outputs) return S(0);
                          const S start = bias && column < points ? bias[o] : S(0);
                          return skip ? start + skip[o * step + column] : start;
                        });
  }
  /// z and its derivatives, from t and its.
  BPX_FN void through(const DeviceLayer& layer) const {
    const S* const from = memory + layer.t * step;
    S* const to = memory + layer.z * step;
    Pass::with_function(layer.function, [&](auto f, int scalars) {
      using F = decltype(f);
      each_point(layer.outputs, [&](int at) {
        S in[signals + 2], out[signals];
        S* const rest = first_inputs<S, typename F::First>(from[at], args.scalars + scalars, in);
        BPX_UNROLL
        for (int k = 1; k < signals; ++k) rest[k - 1] = from[at + k * points];
        F::Forward::run(in, args.scalars + scalars, out);
        BPX_UNROLL
        for (int k = 0; k < signals; ++k) to[at + k * points] = out[k];
      });
    });
  }
  /// The gradients in t and its derivatives, in their place, from those in z and its.
  BPX_FN void through_below(const DeviceLayer& layer) const {
    const S* const grad_z = memory + layer.z * step;
    S* const to = memory + layer.t * step;
    Pass::with_function(layer.function, [&](auto f, int scalars) {
      using F = decltype(f);
      each_point(layer.outputs, [&](int at) {
        S in[2 * signals + 2], out[signals];
        S* const rest = first_inputs<S, typename F::First>(to[at], args.scalars + scalars, in);
        BPX_UNROLL
        for (int k = 1; k < signals; ++k) rest[k - 1] = to[at + k * points];
        BPX_UNROLL
        for (int k = 0; k < signals; ++k) rest[signals - 1 + k] = grad_z[at + k * points];
        F::Backward::run(in, args.scalars + scalars, out);
        BPX_UNROLL
        for (int k = 0; k < signals; ++k) to[at + k * points] = out[k];
      });
    });
  }

  /// Puts the gradients in the place of the outputs, and in x_grad those of what the equation reads of x itself.
  BPX_FN void equation(const BlockTile<S>& tile) const {
    using E = typename Pass::Equation;
    static_assert(points <= Pass::threads, "each point has a thread");
    const int s = threadIdx.x;
    if (s >= points) return;
    const bool real = s < tile.valid;
    const i64 at = sample(tile, s);
    S *const u = z(depth - 1) + s, *const x_grad = args.x_grad && real ? args.x_grad + at * layers[0].inputs : nullptr;
    S in[E::reads], out[1 + E::gives];
    BPX_UNROLL
    for (int k = 0; k < E::reads; ++k) {
      const Place place = E::from(k);
      if (place.at == At::x) in[k] = memory[place.feature * step + s];
      else if (place.at == At::y) in[k] = ((const S*)args.y)[at * args.y_row + place.feature * args.y_column];
      else in[k] = u[place.feature * step + place.signal * points];
    }
    E::run(in, args.scalars + Pass::equation_scalars, out);
    const S weight = args.weight ? args.weight[at * args.weight_row] : S(1);
    if (real) *tile.loss = *tile.loss + S(0.5f) * (out[0] * weight);
    for (int o = 0; o < layers[depth - 1].outputs; ++o) {
      BPX_UNROLL
      for (int k = 0; k < signals; ++k) u[o * step + k * points] = S(0);
    }
    for (int i = 0; x_grad && i < layers[0].inputs; ++i) x_grad[i] = S(0);
    BPX_UNROLL
    for (int k = 0; k < E::gives; ++k) {
      const Place place = E::to(k);
      const S grad = real ? out[1 + k] * (weight * args.scale) : S(0);
      if (place.at != At::x) u[place.feature * step + place.signal * points] = grad;
      else if (x_grad) x_grad[place.feature] = grad;
    }
  }

  BPX_FN void parameters(const DeviceLayer& layer, int l, S* sums, bool add) const {
    const int in = layer.inputs, out = layer.outputs;
    graph_outer<Pass>(in, in, out, t(l), z(l - 1), sums + layer.grad, rows, add);
    if (layer.bias >= 0) graph_column_sums<Pass, S, points>(out, t(l), nullptr, sums + layer.grad + in * out, rows, add);
  }
  /// The gradients in z of the layer below.
  BPX_FN void below(const DeviceLayer& layer, int l) const {
    graph_product<Pass>(layer.inputs, layer.outputs, args.params + layer.down, padded(layer.inputs), t(l), z(l - 1), rows,
                        [](int, int) { return S(0); });
  }
  BPX_FN void add_x_grad(const BlockTile<S>& tile) const {
    const int in = layers[0].inputs;
    each_of<Pass>(in * tile.valid, [&](int at) { args.x_grad[tile.first * in + at] += memory[at % in * step + at / in]; });
  }

  BPX_FN void run(const BlockTile<S>& tile, S* sums) const {
    take_x(tile);
    __syncthreads();
#pragma unroll 1
    for (int l = 0; l < depth; ++l) {
      const DeviceLayer layer = layers[l];
      product(layer, l);
      __syncthreads();
      through(layer);
      __syncthreads();
      if (adds(layer, false)) {
        graph_add<Pass>(layer.outputs, z(l), z(layer.skip), z(l), rows);
        __syncthreads();
      }
    }
    equation(tile);
    __syncthreads();
#pragma unroll 1
    for (int l = depth - 1; l >= 0; --l) {
      const DeviceLayer layer = layers[l];
      through_below(layer);
      __syncthreads();
      parameters(layer, l, sums, tile.add);
      __syncthreads();
      if (l == 0 && !args.x_grad) return;
      below(layer, l);
      __syncthreads();
      for (int above = l; above < depth; ++above) {
        const DeviceLayer other = layers[above];
        if (other.skip != l - 1) continue;
        graph_add<Pass>(layer.inputs, z(l - 1), other.before ? t(above) : z(above), z(l - 1), rows);
        __syncthreads();
      }
    }
    add_x_grad(tile);
    __syncthreads();
  }
};

/// A block's chunk; a chunk has `parameters` gradients.
template <class Pass, class S>
BPX_FN void run_stack(const BlockArgs<S>& args, const DeviceLayer* layers, int depth, i64 parameters, S* memory) {
  const DeviceStack<Pass> stack{args, layers, depth, memory + Pass::threads};
  const i64 begin = blockIdx.x * args.chunk, end = begin + args.chunk < args.n ? begin + args.chunk : args.n;
  S loss = S(0);
  for (i64 at = begin; at < end; at += Pass::points) {
    const int valid = end - at < Pass::points ? int(end - at) : Pass::points;
    stack.run({&args, at, valid, at > begin, &loss, memory}, args.sums + blockIdx.x * parameters);
  }
  add_losses<Pass>(args, memory, loss);
}

}  // namespace bpx
