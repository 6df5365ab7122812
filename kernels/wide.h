#pragma once
#include "losses.h"
#include "small_cpu.h"
#include "transpose_cpu.h"
#include "wide_products.h"
// The fused pass for layers too wide for net_cpu.h's registers and first-level cache: the matrix products are blocked
// for registers, a tile of samples stays in the second-level cache, and activations are applied to it there.
//
// Signals stand in panels of V features (one register) by R samples: feature i of sample s is at
// [i / V][s][i % V]. A panel is what a product reads as vectors, and its rows are what another broadcasts from.
// Features that only fill a panel never meet real ones: products go over the real ones alone.

namespace bpx {

/// What the caller hands over; see bpx::Args for x, y and weight.
struct WideArgs {
  const void* x;
  i64 x_row, x_column;
  const void* y;
  i64 y_row, y_column;
  const void* weight;
  i64 weight_row;
  const void* params;   // packed by bpx_wide_pack
  const void* scalars;
  double scale;
  void* output;         // (n, out) contiguous: forward
  void* x_grad;         // (n, in) contiguous, if Net::input_grad
  const i64* stop;      // raised, and the pass returns after the product it is at, with any result; may be null

  bool stopped() const { return stop && __atomic_load_n(stop, __ATOMIC_RELAXED); }
};

// ---- where a layer's numbers lie --------------------------------------------------------------------------------

/// Packed parameters: W^T in panels of outputs, W in panels of inputs, the bias. Packed gradients: dW, then the bias.
template <class L, class S> struct Packed {
  static constexpr int V = panel<S>, outs = panels<S>(L::out), ins = panels<S>(L::in);
  static constexpr int rows = (L::out + weight_rows - 1) / weight_rows * weight_rows;
  static constexpr i64 transposed = 0, weight = i64(outs) * L::in * V, bias = weight + i64(ins) * L::out * V;
  static constexpr i64 params = bias + (L::bias ? outs * V : 0);
  static constexpr i64 grad_bias = i64(ins) * rows * V, grads = grad_bias + (L::bias ? outs * V : 0);
};
template <class S, class... L> constexpr i64 packed_params(Layers<L...>) { return (i64(0) + ... + Packed<L, S>::params); }
template <class S, class... L> constexpr i64 packed_grads(Layers<L...>) { return (i64(0) + ... + Packed<L, S>::grads); }
/// A tile's signals: x, then z and f' of every layer.
template <class S, class L, class... Rest> constexpr i64 row_numbers(Layers<L, Rest...>) {
  return i64(panel<S>) * (panels<S>(L::in) + ((2 * panels<S>(L::out)) + ... + (2 * panels<S>(Rest::out))));
}
/// Samples in a tile: as many as leave its signals a megabyte.
template <class S, class LAYERS> constexpr int tile_rows() {
  const i64 fit = (i64(1) << 20) / (row_numbers<S>(LAYERS()) * i64(sizeof(S)));
  const i64 rows = fit / 48 * 48;
  return rows < 96 ? 96 : rows > 480 ? 480 : int(rows);
}

// ---- one tile -----------------------------------------------------------------------------------------------------

template <class S> struct WideTile {
  const WideArgs* args;
  const S* scalars;
  i64 first;   // sample
  int valid;   // samples
  int used;    // valid, filled up to whole blocks of product()
  bool add;    // to the gradients, which the first tile of a chunk writes
  double* loss;

  bool stopped() const { return args->stopped(); }
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

/// z = f(t) for one layer, and f' where `slope` is not null.
template <class L, int R, class S>
static void wide_forward(const S* params, const S* scalars, const S* z_in, S* z, S* slope, int used) {
  using T = Pack<S, 2>;
  constexpr int V = panel<S>;
  using P = Packed<L, S>;
  products<S>(L::in, z_in, i64(R) * V, params + P::transposed, i64(L::in) * V, z, i64(R) * V, P::outs, used,
              L::bias ? params + P::bias : nullptr);
  if constexpr (!L::identity) {
    each_panel<R, T>(P::outs, used, [&](i64 i) __attribute__((always_inline)) {
      T value, derivative;
      if (slope) {
        L::Act::both(load<T>(z + i), scalars, value, derivative);
        store<T>(slope + i, derivative);
      } else {
        value = L::Act::value(load<T>(z + i), scalars);
      }
      store<T>(z + i, value);
    });
  }
}

/// grads (+)= grad_t z_in^T, and the bias's column sums.
template <class L, int R, class S> static void wide_outer(const S* grad_t, const S* z_in, S* grads, int valid, bool add) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>;
  using P = Packed<L, S>;
  panel_blocks<weight_panels>(P::ins, [&](int i, auto size) __attribute__((always_inline)) {
    constexpr int NB = decltype(size)::value;
    weight_product<NB>(valid, grad_t, i64(R) * V, z_in + i64(i) * R * V, i64(R) * V, grads + i64(i) * P::rows * V,
                       i64(P::rows) * V, P::rows, add);
  });
  if constexpr (L::bias) {
    for (int p = 0; p < P::outs; ++p) {
      S* const sum = grads + P::grad_bias + p * V;
      T total = add ? load<T>(sum) : T{};
      for (int s = 0; s < valid; ++s) total = total + load<T>(grad_t + (i64(p) * R + s) * V);
      store<T>(sum, total);
    }
  }
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

/// One layer and those above it; z_in becomes the gradient in it, times f' of the layer below (`below`, or null).
template <class Net, int R, int SCALAR, int OUT, class S>
static void wide_backprop(Layers<>, const WideTile<S>& tile, const S*, S*, S* z, S*, const S*) {
  wide_loss<Net, OUT, SCALAR, R>(tile, z);
}
template <class Net, int R, int SCALAR, int OUT, class S, class L, class... Rest>
static void wide_backprop(Layers<L, Rest...>, const WideTile<S>& tile, const S* params, S* grads, S* z_in, S* memory,
                          const S* below) {
  using P = Packed<L, S>;
  constexpr int V = panel<S>;
  constexpr bool lowest = OUT == 0;
  constexpr i64 numbers = i64(P::outs) * R * V;
  S *const z = memory, *const slope = memory + numbers;
  wide_forward<L, R>(params, tile.scalars + SCALAR, z_in, z, slope, tile.used);
  if (tile.stopped()) return;
  constexpr int above = SCALAR + L::Act::params;
  wide_backprop<Net, R, above, L::out>(Layers<Rest...>(), tile, params + P::params, grads + P::grads, z, memory + 2 * numbers,
                                       L::identity ? nullptr : slope);
  if (tile.stopped()) return;
  if constexpr (sizeof...(Rest) == 0 && !L::identity) {  // above, there was no layer to multiply by f'
    multiply_panels<R>(P::outs, tile.used, z, slope);
  }
  wide_outer<L, R>(z, z_in, grads, tile.valid, tile.add);
  if (tile.stopped()) return;
  if constexpr (!lowest || Net::input_grad) {
    products<S>(L::out, z, i64(R) * V, params + P::weight, i64(L::out) * V, z_in, i64(R) * V, P::ins, tile.used,
                (const S*)nullptr);
    if (below) multiply_panels<R>(P::ins, tile.used, z_in, below);
  }
}

template <int R, int SCALAR, class S, class L, class... Rest>
static const S* wide_infer(Layers<L, Rest...>, const WideArgs& args, const S* params, const S* scalars, const S* z_in, S* memory,
                           int used) {
  using P = Packed<L, S>;
  constexpr i64 numbers = i64(P::outs) * R * panel<S>;
  wide_forward<L, R>(params, scalars + SCALAR, z_in, memory, (S*)nullptr, used);
  if constexpr (sizeof...(Rest) == 0) return memory;
  else if (args.stopped()) return nullptr;
  else return wide_infer<R, SCALAR + L::Act::params>(Layers<Rest...>(), args, params + P::params, scalars, memory, memory + numbers, used);
}

// ---- what Python calls --------------------------------------------------------------------------------------------

/// `memory` holds bpx_wide_memory() numbers, `grads` bpx_wide_grads().
template <class Net> double wide_run(const WideArgs& args, i64 first, i64 count, void* memory, void* grads) {
  using S = typename Net::S;
  using LAYERS = typename Net::Layers;
  using Bottom = typename First<LAYERS>::Type;
  constexpr int R = tile_rows<S, LAYERS>(), in = Bottom::in, out = Last<LAYERS>::Type::out;
  double loss = 0;
  S* const x = (S*)memory;
  S* const rest = x + i64(panels<S>(in)) * R * panel<S>;
  for (i64 at = 0; at < count && !args.stopped(); at += R) {
    const int valid = count - at < R ? int(count - at) : R;
    const int used = (valid + product_rows - 1) / product_rows * product_rows;
    const i64 sample = first + at;
    to_panels<R>((const S*)args.x + sample * args.x_row, args.x_row, args.x_column, in, valid, x);
    if constexpr (Net::backward) {
      const WideTile<S> tile{&args, (const S*)args.scalars, sample, valid, used, at > 0, &loss};
      wide_backprop<Net, R, 0, 0>(LAYERS(), tile, (const S*)args.params, (S*)grads, x, rest, (const S*)nullptr);
      if constexpr (Net::input_grad) from_panels<R>(x, in, valid, (S*)args.x_grad + sample * in);
    } else {
      const S* const z = wide_infer<R, 0>(LAYERS(), args, (const S*)args.params, (const S*)args.scalars, x, rest, used);
      if (!z) break;
      from_panels<R>(z, out, valid, (S*)args.output + sample * out);
    }
  }
  return loss;
}

/// From an array for each weight and bias; every number of `packed` is written, zeros where a panel isn't full.
template <class S> static void wide_pack(Layers<>, const void* const*, S*) {}
template <class S, class L, class... Rest> static void wide_pack(Layers<L, Rest...>, const void* const* parameters, S* packed) {
  using P = Packed<L, S>;
  constexpr int V = panel<S>;
  const S* const w = (const S*)parameters[0];
  for (int o = 0; o < L::out; o += V) {
    const int rows = L::out - o < V ? L::out - o : V;
    for (int i = 0; i < L::in; i += V) {
      const int columns = L::in - i < V ? L::in - i : V;
      transpose_square(w + i64(o) * L::in + i, L::in, rows, columns, packed + P::transposed + i64(o) * L::in + i64(i) * V, V);
      S* const panel_rows = packed + P::weight + (i64(i) * L::out + i64(o) * V);
      for (int r = 0; r < rows; ++r) {
        const S* const from = w + i64(o + r) * L::in + i;
        for (int k = 0; k < V; ++k) panel_rows[r * V + k] = k < columns ? from[k] : S(0);
      }
    }
  }
  if constexpr (L::bias)
    for (int o = 0; o < P::outs * V; ++o) packed[P::bias + o] = o < L::out ? ((const S*)parameters[1])[o] : S(0);
  wide_pack(Layers<Rest...>(), parameters + (L::bias ? 2 : 1), packed + P::params);
}
template <class S> static void wide_unpack(Layers<>, const S*, S*) {}
template <class S, class L, class... Rest> static void wide_unpack(Layers<L, Rest...>, const S* packed, S* grads) {
  using P = Packed<L, S>;
  constexpr int V = panel<S>;
  for (int o = 0; o < L::out; ++o)
    for (int i = 0; i < L::in; i += V) {
      const int columns = L::in - i < V ? L::in - i : V;
      const S* const from = packed + (i64(i / V) * P::rows + o) * V;
      S* const to = grads + i64(o) * L::in + i;
      if (columns == V) store<Pack<S, 1>>(to, load<Pack<S, 1>>(from));
      else for (int k = 0; k < columns; ++k) to[k] = from[k];
    }
  if constexpr (L::bias)
    for (int o = 0; o < L::out; ++o) grads[L::weights + o] = packed[P::grad_bias + o];
  wide_unpack(Layers<Rest...>(), packed + P::grads, grads + L::params);
}

/// Where run_small keeps the packed parameters, the packed gradients and a tile's signals.
template <class Net> struct WideSmall {
  using S = typename Net::S;
  using LAYERS = typename Net::Layers;
  static constexpr i64 round(i64 numbers) { return (numbers + panel<S> - 1) / panel<S> * panel<S>; }
  static constexpr i64 params = round(packed_params<S>(LAYERS())), grads = round(packed_grads<S>(LAYERS()));
  static constexpr i64 signals = row_numbers<S>(LAYERS()) * tile_rows<S, LAYERS>();
};
template <class Net> constexpr i64 small_memory() {
  using Room = WideSmall<Net>;
  return (Room::params + Room::grads + Room::signals) * i64(sizeof(typename Net::S));
}
/// One chunk, of some tiles.
template <class Net> double run_small(const SmallNet& net, i64 n, const void* x, const void* y, double scale) {
  using S = typename Net::S;
  using Room = WideSmall<Net>;
  constexpr int in = First<typename Net::Layers>::Type::in, out = Last<typename Net::Layers>::Type::out;
  S *const params = (S*)net.memory, *const grads = params + Room::params, *const signals = grads + Room::grads;
  wide_pack(typename Net::Layers(), net.parameters, params);
  WideArgs args{};
  args.x = x, args.x_row = in, args.x_column = 1;
  args.y = y, args.y_row = Net::Loss::target == Target::values ? out : 1, args.y_column = 1;
  args.params = params, args.scalars = net.scalars, args.scale = scale;
  const double loss = wide_run<Net>(args, 0, n, signals, grads);
  wide_unpack(typename Net::Layers(), grads, (S*)net.out + 1);
  return loss;
}
template <class Net> void run_small_forward(const SmallNet& net, i64 n, const void* x, void* output) {
  using S = typename Net::S;
  using Room = WideSmall<Net>;
  S* const params = (S*)net.memory;
  wide_pack(typename Net::Layers(), net.parameters, params);
  WideArgs args{};
  args.x = x, args.x_row = First<typename Net::Layers>::Type::in, args.x_column = 1;
  args.params = params, args.scalars = net.scalars, args.output = output;
  wide_run<Net>(args, 0, n, params + Room::params + Room::grads, nullptr);
}

}  // namespace bpx

#define BPX_WIDE_PASS(NET)                                                                                             \
  BPX_ENTRY double bpx_wide(const bpx::WideArgs* args, bpx::i64 first, bpx::i64 count, void* memory, void* grads) {    \
    return bpx::wide_run<NET>(*args, first, count, memory, grads);                                               \
  }                                                                                                                    \
  BPX_ENTRY void bpx_wide_pack(const void* const* parameters, void* packed) {                                          \
    bpx::wide_pack(NET::Layers(), parameters, (NET::S*)packed);                                                        \
  }                                                                                                                    \
  BPX_ENTRY void bpx_wide_unpack(const void* packed, void* grads) {                                                    \
    bpx::wide_unpack(NET::Layers(), (const NET::S*)packed, (NET::S*)grads);                                            \
  }                                                                                                                    \
  BPX_ENTRY bpx::i64 bpx_wide_params() { return bpx::packed_params<NET::S>(NET::Layers()); }                           \
  BPX_ENTRY bpx::i64 bpx_wide_grads() { return bpx::packed_grads<NET::S>(NET::Layers()); }                             \
  BPX_ENTRY bpx::i64 bpx_wide_rows() { return bpx::tile_rows<NET::S, NET::Layers>(); }                                 \
  BPX_ENTRY bpx::i64 bpx_wide_memory() {                                                                               \
    return bpx::row_numbers<NET::S>(NET::Layers()) * bpx::tile_rows<NET::S, NET::Layers>();                            \
  }
#define BPX_WIDE_BACKPROP(NET) BPX_SIZE_OF(WideArgs) BPX_WIDE_PASS(NET) BPX_SMALL(NET)
#define BPX_WIDE_FORWARD(NET) BPX_SIZE_OF(WideArgs) BPX_WIDE_PASS(NET) BPX_SMALL_FORWARD(NET)
