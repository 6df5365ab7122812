#pragma once
#include "matrix_call.h"
// The blocks of the pass of matrices.h, one thread each: of x, of a layer's outputs, of the loss or the outputs, and of a
// layer's gradients.

namespace bpx {

/// Samples up to which the way down reads whole rows of W, as they lie. Measured on Zen 4: from 8 on sums that stay in
/// registers are as fast at most widths.
constexpr int fewest_samples = 6;
/// Bytes of a weight's gradient from which on it is written past the caches. Measured on Zen 4, whose cache of a core holds
/// 1 MiB: a tenth to a quarter less time for 1 to 64 samples of nets from 1024 wide on, none below.
constexpr i64 bytes_past_caches = 2 << 20;
/// Rows of W that few samples go through from end to end, one row after another.
constexpr int few_slice = 32;
/// Rows of x that are read side by side: few enough for a processor to read ahead in each.
constexpr i64 taken_rows = 8;

template <class S, class Factors, class Call> struct MatrixBlocks : MatrixPlaces<S, Factors, Call> {
  using Places = MatrixPlaces<S, Factors, Call>;
  using Places::Places, Places::V, Places::together, Places::packed_numbers, Places::chunk;
  using Places::m, Places::origin, Places::first, Places::count, Places::few;
  using Places::z, Places::slope, Places::grad, Places::scratch, Places::losses;
  using Places::forward_cut, Places::backward_cut, Places::weight_cut, Places::rows_of;

  /// Rows of panel p of signals with so many features, for products.
  static void convert(View<S> signals, i64 s, i64 rows, i64 p, i64 features) {
    Factors::convert(signals.at(s, p), rows, features - p * V < V ? int(features - p * V) : V);
  }

  void take_x(i64 at, i64 rows) {
    const i64 in = m.layers[0].inputs;
    const View<S> to = z(-1);
    for (i64 s0 = 0; s0 < rows; s0 += taken_rows) {
      const i64 end = rows < s0 + taken_rows ? rows : s0 + taken_rows;
      for (i64 p = 0; p < panels<S>(in); ++p) {
        const int most = in - p * V < V ? int(in - p * V) : V;
        for (i64 s = s0; s < end; ++s) {
          const S* const from = x_of(at + s) + p * V * m.x_column;
          S* const target = to.at(at + s, p);
          if (s + taken_rows < rows) __builtin_prefetch(x_of(at + s + taken_rows) + p * V * m.x_column);
          if (m.x_column == 1) {
            store<Pack<S, 1>>(target, load_part<S>(from, most));
          } else {
            for (int k = 0; k < V; ++k) target[k] = k < most ? from[k * m.x_column] : S(0);
          }
        }
      }
    }
    for (i64 p = 0; p < panels<S>(in); ++p) convert(to, at, rows, p, in);
  }
  /// x of a sample of this chunk.
  const S* x_of(i64 s) const { return (const S*)m.x + (m.rows ? m.rows[first + s] : first + s) * m.x_row; }

  /// The panels from p0 on of a layer's signal, with which `from` begins, to where the caller wants them, if it does.
  void keep(Signal which, i64 l, View<S> from, i64 p0, i64 count_of_panels) const {
    if (!m.signals) return;
    const i64 out = m.layers[l].outputs;
    S* to = (S*)m.signals + i64(which) * out;
    for (i64 k = 0; k < l; ++k) to += 4 * m.layers[k].outputs;
    for (i64 p = p0; p < p0 + count_of_panels; ++p)
      store_part<S>(to + p * V, load<Pack<S, 1>>(from.at(0, p - p0)), out - p * V < V ? int(out - p * V) : V);
  }

  void activate(i64 l, i64 s, i64 rows, i64 p0, i64 count_of_panels) {
    const Function& f = m.layers[l].f;
    const i64 out = m.layers[l].outputs;
    const View<S> to = z(l), df = slope(l);
    auto apply = [&](i64 n, S* t, S* d) {
      if (!f.value) return;
      if (m.loss) f.both(n, t, t, d, f.p);
      else f.value(n, t, t, f.p);
    };
    if (few) {
      const i64 from = p0 * V, end = (p0 + count_of_panels) * V;
      for (i64 r = 0; r < rows; ++r) apply((end < out ? end : out) - from, to.at(s + r, p0), df.at(s + r, p0));
    } else {
      for (i64 p = p0; p < p0 + count_of_panels; ++p) {
        apply(rows * V, to.at(s, p), df.at(s, p));
        if (l + 1 < m.depth) convert(to, s, rows, p, out);
      }
    }
  }

  void forward(i64 l, i64 t, int worker) {
    const MatrixLayer& layer = m.layers[l];
    const Cut cut = forward_cut(layer);
    const S *const w = (const S*)layer.weight, *const bias = (const S*)layer.bias;
    const View<S> from = z(l - 1), to = z(l);
    if (few) {
      const i64 o = cut.first_column(t) * 16, end = o + cut.columns_of(t) * 16;
      const i64 outputs = (end < layer.outputs ? end : layer.outputs) - o;
      dots<S>(count, outputs, layer.inputs, from.data, from.row, w + o * layer.inputs, bias ? bias + o : nullptr,
              to.data + o, to.row);
      keep(Signal::t, l, to.from(0, o / V), o / V, panels<S>(outputs));
      activate(l, 0, count, o / V, panels<S>(outputs));
      return keep(Signal::z, l, to.from(0, o / V), o / V, panels<S>(outputs));
    }
    const i64 p0 = cut.first_column(t), NB = cut.columns_of(t), s = cut.first_row(t), rows = rows_of(cut, t, count);
    S* const packed = scratch(worker);
    alignas(64) S start[product_panels * V] = {};
    for (i64 k = 0; bias && k < NB * V && p0 * V + k < layer.outputs; ++k) start[k] = bias[p0 * V + k];
    for (i64 k0 = 0; k0 < layer.inputs; k0 += slice) {
      const i64 depth = layer.inputs - k0 < slice ? layer.inputs - k0 : slice;
      for (i64 n = 0; n < NB; ++n) {
        const i64 o = (p0 + n) * V, have = layer.outputs - o < V ? layer.outputs - o : V;
        for (i64 k = 0; k < depth; k += V * together)
          Factors::pack_columns(w + o * layer.inputs + k0 + k, layer.inputs, int(have),
                                int(depth - k < V * together ? depth - k : V * together),
                                packed + n * slice * V + k / together * V);
      }
      const View<const S> before = k0 ? View<const S>{to.at(s, p0), to.panel, to.row} : View<const S>{start, V, 0};
      product<Factors, S>(rows, depth, int(NB), constant(from.from(s, k0 / V)), {packed, slice * V, V}, before,
                          to.from(s, p0), nullptr);
    }
    activate(l, s, rows, p0, NB);
  }
  static View<const S> constant(View<S> v) { return {v.data, v.panel, v.row}; }

  void loss(i64 at, i64 rows, int worker) {
    const i64 last = m.depth - 1, out = m.layers[last].outputs;
    const View<S> outputs = z(last);
    const LossBlock block{first + at, rows, outputs.at(at, 0), outputs.panel, outputs.row, out, m.y, m.y_row, m.y_column,
                          m.rows, m.weight, m.weight_row, m.scale, m.loss_p, losses() + at};
    m.loss(&block, scratch(worker));
    keep(Signal::grad_z, last, outputs, 0, panels<S>(out));
    const View<S> df = slope(last);
    for (i64 p = 0; p < panels<S>(out); ++p) {
      for (i64 s = at; m.layers[last].f.value && s < at + rows; ++s)
        store<Pack<S, 1>>(outputs.at(s, p), load<Pack<S, 1>>(outputs.at(s, p)) * load<Pack<S, 1>>(df.at(s, p)));
      convert(outputs, at, rows, p, out);
    }
    keep(Signal::grad_t, last, outputs, 0, panels<S>(out));
  }

  /// The gradient in what layer l takes, times f' of the layer below; or in x.
  void backward(i64 l, i64 t, int worker) {
    const MatrixLayer& layer = m.layers[l];
    const Cut cut = backward_cut(layer);
    const i64 p0 = cut.first_column(t), end = p0 + cut.columns_of(t), s = cut.first_row(t), rows = rows_of(cut, t, count);
    const bool times = l > 0 && m.layers[l - 1].f.value;
    S *const packed = scratch(worker), *const memory = packed + packed_numbers;
    // sums stand in panels, but with few samples row by row, for then a block has many columns
    const View<S> sums = few ? View<S>{memory, V, cut.group * V} : View<S>{memory, filled(chunk) * V, V};
    if (few && count <= fewest_samples) {
      add_rows<S>(count, layer.outputs, columns_of(p0, end, layer), grad(l).data, grad(l).row,
                  (const S*)layer.weight + p0 * V, layer.inputs, memory, sums.row);
      for (i64 r = 0; l > 0 && r < count; ++r)
        for (i64 p = p0; p < end; ++p) {
          S* const to = slope(l - 1).at(r, p);
          const Pack<S, 1> sum = load<Pack<S, 1>>(sums.at(r, p - p0));
          store<Pack<S, 1>>(to, times ? sum * load<Pack<S, 1>>(to) : sum);
        }
      if (l > 0) {
        keep(Signal::grad_z, l - 1, sums, p0, end - p0);
        keep(Signal::grad_t, l - 1, slope(l - 1).from(0, p0), p0, end - p0);
      }
    } else {
      const i64 depth = few ? few_slice : slice;
      for (i64 o = 0; o < layer.outputs; o += depth)
        for (i64 p = p0; p < end; p += product_panels) {
          const i64 panels_here = end - p < product_panels ? end - p : product_panels;
          const bool last = o + depth >= layer.outputs;
          const View<const S> w = packed_rows(layer, o, last ? layer.outputs : o + depth, p, panels_here, packed);
          const View<S> all = sums.from(0, p - p0);
          const bool direct = last && l > 0;
          const View<S> to = direct ? slope(l - 1).from(s, p) : all;
          product<Factors, S>(rows, last ? layer.outputs - o : depth, int(panels_here), constant(grad(l).from(s, o / V)), w,
                              o ? constant(all) : View<const S>{nullptr, 0, 0}, to, direct && times ? to.data : nullptr);
          for (i64 n = 0; direct && n < panels_here; ++n) convert(slope(l - 1), s, rows, p + n, layer.inputs);
        }
    }
    if (l == 0)
      for (i64 r = 0; r < rows; ++r)
        for (i64 p = p0; p < end; ++p)
          store_part<S>((S*)m.x_grad + (first + s + r) * layer.inputs + p * V, load<Pack<S, 1>>(sums.at(r, p - p0)),
                        layer.inputs - p * V < V ? int(layer.inputs - p * V) : V);
  }
  /// How many of these panels' columns there are.
  static i64 columns_of(i64 p0, i64 end, const MatrixLayer& layer) {
    return (layer.inputs < end * V ? layer.inputs : end * V) - p0 * V;
  }
  /// Rows of W in some panels of its columns: packed, or with few samples as they lie, where the last panel is full.
  View<const S> packed_rows(const MatrixLayer& layer, i64 o, i64 end, i64 p, i64 count_of_panels, S* packed) {
    const S* const w = (const S*)layer.weight + o * layer.inputs + p * V;
    const i64 columns = layer.inputs - p * V;
    if (few && columns >= count_of_panels * V) return {w, V, layer.inputs};
    for (i64 k = 0; k < end - o; k += together)  // a row's pieces at once, for rows are far from one another
      for (i64 n = 0; n < count_of_panels; ++n)
        store<Pack<S, 1>>(packed + (n * slice + k / together) * V,
                          Factors::pack_rows(w + k * layer.inputs + n * V, layer.inputs, int(end - o - k),
                                             columns - n * V < V ? int(columns - n * V) : V));
    return {packed, slice * V, V};
  }

  void weights(i64 l, i64 t) {
    const MatrixLayer& layer = m.layers[l];
    const Cut cut = weight_cut(layer);
    const i64 o = cut.first_row(t), rows = rows_of(cut, t, layer.outputs), p0 = cut.first_column(t), end = p0 + cut.columns_of(t);
    const View<S> g = grad(l), z_in = z(l - 1);
    // few samples leave so little to do that memory wants whole rows
    const i64 rows_at_once = few ? weight_rows : rows;
    S* const all = (S*)m.grads + layer.grad;
    const bool whole_registers = ((i64)all | layer.inputs * i64(sizeof(S))) % BPX_VECTOR_BYTES == 0;
    const bool large = layer.inputs * layer.outputs * i64(sizeof(S)) >= bytes_past_caches;
    const bool past_caches = large && whole_registers && first == origin;
    for (i64 r = 0; r < rows; r += rows_at_once)
      for (i64 p = p0; p < end; p += weight_panels) {
        const i64 panels_here = end - p < weight_panels ? end - p : weight_panels, i = (p + panels_here - 1) * V;
        weight_product<Factors, S>(count, o + r, rows - r < rows_at_once ? rows - r : rows_at_once, int(panels_here),
                                   constant(g), constant(z_in.from(0, p)), all + (o + r) * layer.inputs + p * V, layer.inputs,
                                   layer.inputs - i < V ? int(layer.inputs - i) : V, first > origin, past_caches);
      }
    if (past_caches) stores_are_seen();
    if (p0 == 0 && layer.bias) {
      const i64 last = (o + rows + V - 1) / V;
      for (i64 k = o / V; k < last; k += product_panels)
        with_count<product_panels>(last - k < product_panels ? int(last - k) : product_panels,
                                   [&](auto columns) __attribute__((always_inline)) {
          add_biases<decltype(columns)::value>(g.from(0, k), k * V, o, o + rows, (S*)m.grads + layer.bias_grad);
        });
    }
  }

  /// The gradients of biases `begin` to `end` in NB panels of g, the first of which holds output `at`: several sums at once,
  /// for an addition waits for the one before.
  template <int NB> void add_biases(View<S> g, i64 at, i64 begin, i64 end, S* to) const {
    using T = Pack<S, 1>;
    T sums[NB] = {};
    for (i64 s = 0; s < count; s += together) {
      BPX_UNROLL
      for (int n = 0; n < NB; ++n) sums[n] = Factors::add(load<T>(g.at(s, n)), sums[n]);
    }
    S parts[NB * V];
    for (int n = 0; n < NB; ++n) store<T>(parts + n * V, sums[n]);
    for (i64 j = at < begin ? begin : at; j < at + NB * V && j < end; ++j)
      to[j] = first > origin ? to[j] + parts[j - at] : parts[j - at];
  }

  void give_outputs(i64 at, i64 rows) {
    const i64 out = m.layers[m.depth - 1].outputs;
    const View<S> from = z(m.depth - 1);
    for (i64 s = at; s < at + rows; ++s)
      for (i64 p = 0; p < panels<S>(out); ++p)
        store_part<S>((S*)m.output + (first + s) * out + p * V, load<Pack<S, 1>>(from.at(s, p)),
                      out - p * V < V ? int(out - p * V) : V);
  }
};

}  // namespace bpx
