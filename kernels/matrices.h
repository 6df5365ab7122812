#pragma once
#include "matrix_functions.h"
#include "matrix_products.h"
#include "steps_cpu.h"
// The pass for nets of any widths, whose sizes are known when the program runs: compiled once, for all of them.
//
// The batch goes up and down the net as whole matrices, in steps: x, each layer's outputs, the loss, and each layer's
// gradients. A step is cut into blocks of rows and columns which threads share out, so that every number is summed by one
// thread in one order: the same bits for any number of threads. Activations and the loss are functions the caller gives,
// applied to a block while it is in the cache.
//
// Signals stand in panels (View), but with few samples row by row. What a product reads of W is packed by the thread that
// needs it, a block at a time; with few samples W is read as it lies. Many samples of a net that fits a core's cache go
// through it in parts instead, matrix_parts.h.
//
// The factors of products may be rounded to bfloat16 (factors_cpu.h), but with few samples, for which memory is read and
// little computed. Signals are converted where they were computed; sums, activations, the loss and gradients are numbers
// of S.

namespace bpx {

struct MatrixLayer {
  i64 inputs, outputs;
  const void* weight;  // (out, in)
  const void* bias;    // (out), or null
  i64 grad, bias_grad; // where the gradients of the weight (out, in) and of the bias (out) begin in Matrices::grads
  Function f;          // both null for the identity
};

/// A call with a loss may be done in two halves, each a call of its own: `up` gives the outputs and leaves all signals in
/// the memory, from which `down` takes them, once: gradients take their places.
constexpr i64 both_halves = 0, up = 1, down = 2;

/// What of a layer is among Matrices::signals, in this order.
enum class Signal { t, z, grad_z, grad_t };

/// One call. The loss is `scale` times the sum of all samples' losses times their weights.
struct Matrices {
  i64 n, depth;                    // samples, layers
  const MatrixLayer* layers;
  const void* x;
  i64 x_row, x_column;
  const void* y;
  i64 y_row, y_column;
  const i64* rows;                 // of x and y, one a sample; null: the samples' numbers
  const void* weight;
  i64 weight_row;
  double scale;
  LossOfBlock* loss;               // null: outputs alone
  const void* loss_p;
  void* grads;                     // of all parameters
  void* output;                    // (n, out): outputs alone
  void* signals;                   // of one sample, or null: of each layer, (outputs) each, t, z and the gradients in z and t
  void* x_grad;                    // (n, in), or null
  void* memory;                    // bpx_matrices_memory() numbers, 64-byte aligned
  i64 half;                        // of a call with a loss: both halves, up or down
  i64 bfloat16;                    // whether factors of products may be such, for S = float
  i64 threads;                     // at most
  double worth_a_thread;           // multiply-adds of the forward pass for each thread, at least
  double time;                     // seconds after which it returns to the caller, who calls again
  i64 next;                        // the step to be done
  double total;                    // of the losses, without `scale`
};

/// Samples up to which signals stand row by row.
constexpr int few_samples = 24;
/// Samples up to which the way down reads whole rows of W, as they lie. Measured on Zen 4: from 8 on sums that stay in
/// registers are as fast at most widths.
constexpr int fewest_samples = 6;
/// Bytes of a weight's gradient from which on it is written past the caches. Measured on Zen 4, whose cache of a core holds
/// 1 MiB: a tenth to a quarter less time for 1 to 64 samples of nets from 1024 wide on, none below.
constexpr i64 bytes_past_caches = 2 << 20;
/// Bytes of the gradients in t that the blocks of a weight's gradient read one after another: they stay in a core's cache.
constexpr i64 gradient_bytes = 256 << 10;
/// Features of a packed block of W, measured on Zen 4: 256 take up to 5 % longer, 1024 are no better; and rows of W that few samples go through from end to end, one row after another.
constexpr int slice = 512, few_slice = 32;
/// Panels of a block of columns with few samples: so many that a row's piece is long.
constexpr int few_panels = 64;
/// Rows of x that are read side by side: few enough for a processor to read ahead in each.
constexpr i64 taken_rows = 8;
/// Multiply-adds that are worth being shared out as a block.
constexpr double worth_a_block = 30e3;
/// Samples computed at once: so many bytes of signals, or as many as the largest W has, which is read for each such chunk;
/// multiply-adds in a layer's step (after which an interrupt is seen), and samples at most. Sums of many samples are sums of
/// such sums.
constexpr i64 signal_bytes = 24 << 20, most_chunk = 4096;
constexpr double step_multiply_adds = 6e9;

BPX_FN double at_least(double a, double b) { return a < b ? b : a; }
BPX_FN i64 filled(i64 n) { return (n + 15) / 16 * 16; }

/// The samples from number `origin` on, m.n of them.
template <class S, class Factors = Exact<S>> struct MatrixCall : Steps<MatrixCall<S, Factors>> {
  static constexpr int V = panel<S>, together = Factors::together;
  using Steps<MatrixCall<S, Factors>>::workers;
  using Steps<MatrixCall<S, Factors>>::next_task;
  Matrices& m;
  i64 origin;
  i64 chunk;         // samples computed at once
  i64 first, count;  // the samples of this chunk
  i64 kept = 0;      // numbers before its signals: of other chunks, between two halves
  S* besides = nullptr;  // what threads need besides: null where it stands behind the signals
  bool few;

  explicit MatrixCall(Matrices& m, i64 origin = 0)
      : m(m), origin(origin), chunk(chunk_of(m)), few(m.n <= few_samples) {}

  static i64 numbers_of_a_sample(const Matrices& m) {
    i64 numbers = filled(m.layers[0].inputs);
    for (i64 l = 0; l < m.depth; ++l) numbers += 2 * filled(m.layers[l].outputs);
    return numbers + (2 * m.depth + 1) * 16;
  }
  static i64 chunk_of(const Matrices& m) {
    double largest = 1;
    for (i64 l = 0; l < m.depth; ++l) largest = at_least(largest, double(m.layers[l].inputs) * m.layers[l].outputs);
    const double bytes = at_least(double(signal_bytes), largest * sizeof(S));
    const double by_memory = bytes / (numbers_of_a_sample(m) * i64(sizeof(S)));
    const double by_time = step_multiply_adds / largest;
    const i64 fit = i64(by_memory < by_time ? by_memory : by_time) / 96 * 96;
    const i64 most = fit < 96 ? 96 : fit > most_chunk ? most_chunk : fit;
    return m.n < most ? m.n : most;
  }
  static constexpr i64 packed_numbers = i64(slice) * product_panels * V;
  i64 scratch_numbers() const {
    const i64 product = packed_numbers + (few ? few_panels : product_panels) * filled(chunk) * V;
    const i64 loss = 2 * V * m.layers[m.depth - 1].outputs;
    return filled(product > loss ? product : loss);
  }
  i64 signals_of_a_chunk() const { return numbers_of_a_sample(m) * filled(chunk); }
  i64 signals() const { return (m.half == both_halves ? 1 : chunks()) * signals_of_a_chunk(); }
  /// Numbers of S that threads need besides: a scratch for each, and the losses.
  i64 numbers_besides() const { return m.threads * scratch_numbers() + filled(chunk) * i64(sizeof(double) / sizeof(S)); }
  i64 memory() const { return signals() + numbers_besides(); }

  // ---- where signals stand ----------------------------------------------------------------------------------------

  View<S> view(i64 at, i64 features) const {
    S* const data = (S*)m.memory + kept + at * filled(chunk);
    if (few) return {data, V, filled(features) + 16};
    return {data, filled(chunk) * V, V};
  }
  /// z of layer l, x for -1; and f' of it, which becomes the gradient in t.
  i64 offset(i64 l) const {
    if (l < 0) return 0;
    i64 at = filled(m.layers[0].inputs) + 16;
    for (i64 k = 0; k < l; ++k) at += 2 * (filled(m.layers[k].outputs) + 16);
    return at;
  }
  View<S> z(i64 l) const { return view(offset(l), l < 0 ? m.layers[0].inputs : m.layers[l].outputs); }
  View<S> slope(i64 l) const { return view(offset(l) + filled(m.layers[l].outputs) + 16, m.layers[l].outputs); }
  /// The gradient in t of layer l: for the last layer it stands in place of z.
  View<S> grad(i64 l) const { return l == m.depth - 1 ? z(l) : slope(l); }
  S* scratch(i64 worker) const { return (besides ? besides : (S*)m.memory + signals()) + worker * scratch_numbers(); }
  double* losses() const { return (double*)scratch(m.threads); }

  // ---- how a step is cut ------------------------------------------------------------------------------------------

  /// Blocks of `columns` in groups of at most `most`, by blocks of rows: about as many as the threads can share out.
  struct Cut {
    i64 groups, group, row_blocks, rows, total, columns;
    Cut(i64 columns, i64 most, i64 rows_in_all, i64 least_rows, i64 unit, double multiply_adds, i64 workers)
        : columns(columns) {
      groups = (columns + most - 1) / most;
      const i64 by_work = i64(multiply_adds / worth_a_block) + 1, wanted = by_work < 4 * workers ? by_work : 4 * workers;
      if (workers > 1 && wanted > groups && rows_in_all < 2 * least_rows) groups = wanted < columns ? wanted : columns;
      group = (columns + groups - 1) / groups;
      groups = (columns + group - 1) / group;
      row_blocks = workers == 1 ? 1 : (wanted + groups - 1) / groups;
      const i64 most_blocks = rows_in_all / least_rows;
      if (row_blocks > most_blocks) row_blocks = most_blocks;
      if (row_blocks < 1) row_blocks = 1;
      rows = (rows_in_all + row_blocks - 1) / row_blocks;
      rows = (rows + unit - 1) / unit * unit;
      row_blocks = (rows_in_all + rows - 1) / rows;
      total = groups * row_blocks;
    }
    /// At most so many rows a block, but 16.
    void limit_rows(i64 rows_in_all, i64 most) {
      if (rows <= most || rows <= 16) return;
      rows = most < 16 ? 16 : most;
      row_blocks = (rows_in_all + rows - 1) / rows;
      total = groups * row_blocks;
    }
    i64 first_column(i64 t) const { return t % groups * group; }
    i64 columns_of(i64 t) const { return group < columns - first_column(t) ? group : columns - first_column(t); }
    i64 first_row(i64 t) const { return t / groups * rows; }
  };
  i64 rows_of(const Cut& cut, i64 t, i64 all) const {
    const i64 rest = all - cut.first_row(t);
    return cut.rows < rest ? cut.rows : rest;
  }
  Cut forward_cut(const MatrixLayer& l) const {
    const double work = double(count) * l.inputs * l.outputs;
    if (few) return Cut((l.outputs + 15) / 16, few_group(l.outputs), count, count, 1, work, workers);
    return Cut(panels<S>(l.outputs), product_panels, count, 48, block_rows<Factors>, work, workers);
  }
  /// Few samples: the sixteens of outputs in a block, some for each thread.
  i64 few_group(i64 out) const {
    const i64 sixteens = (out + 15) / 16, share = (sixteens + 4 * workers - 1) / (4 * workers);
    return share < 1 ? 1 : share;
  }
  Cut backward_cut(const MatrixLayer& l) const {
    const double work = double(count) * l.inputs * l.outputs;
    if (few) return Cut(panels<S>(l.inputs), few_panels, count, count, 1, work, workers);
    return Cut(panels<S>(l.inputs), product_panels, count, 48, block_rows<Factors>, work, workers);
  }
  Cut weight_cut(const MatrixLayer& l) const {
    Cut cut(panels<S>(l.inputs), few ? few_panels : weight_panels, l.outputs, 16, weight_rows, double(count) * l.inputs * l.outputs, workers);
    if (!few) cut.limit_rows(l.outputs, gradient_bytes / (count * i64(sizeof(S))) / 16 * 16);
    return cut;
  }

  /// Rows of panel p of signals with so many features, for products.
  static void convert(View<S> signals, i64 s, i64 rows, i64 p, i64 features) {
    Factors::convert(signals.at(s, p), rows, features - p * V < V ? int(features - p * V) : V);
  }

  // ---- the blocks -------------------------------------------------------------------------------------------------

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
          const View<const S> w = packed_rows(layer, o, o + depth < layer.outputs ? o + depth : layer.outputs, p, panels_here, packed);
          const View<S> all = sums.from(0, p - p0);
          const bool last = o + depth >= layer.outputs, direct = last && l > 0;
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

  // ---- the steps --------------------------------------------------------------------------------------------------

  i64 chunks() const { return (m.n + chunk - 1) / chunk; }
  bool gives_outputs() const { return !m.loss || m.half == up; }
  i64 steps_of_a_chunk() const { return gives_outputs() ? m.depth + 2 : m.half == down ? m.depth + 1 : 2 * m.depth + 2; }
  /// Of a chunk's steps up and down: x, the layers, the loss or the outputs, the layers' gradients.
  i64 step_of(i64 number) const { return number % steps_of_a_chunk() + (m.half == down ? m.depth + 1 : 0); }
  i64 steps() const { return chunks() * steps_of_a_chunk(); }
  void begin(i64 number) {
    const i64 before = number / steps_of_a_chunk();
    first = origin + before * chunk;
    count = m.n - before * chunk < chunk ? m.n - before * chunk : chunk;
    kept = m.half == both_halves ? 0 : before * signals_of_a_chunk();
  }
  void finish(i64 number) {
    if (gives_outputs() || step_of(number) != m.depth + 1) return;
    const double* const each = losses();
    double total = m.total;
    for (i64 s = 0; s < count; ++s) total += each[s];
    m.total = total;
  }
  void one_step(i64 number, int worker) {
    const i64 step = step_of(number);
    if (step == 0) {
      rows_of_step([&](i64 s, i64 rows) { take_x(s, rows); });
    } else if (step <= m.depth) {
      const i64 total = forward_cut(m.layers[step - 1]).total;
      for (i64 t; (t = next_task()) < total;) forward(step - 1, t, worker);
    } else if (gives_outputs()) {
      rows_of_step([&](i64 s, i64 rows) { give_outputs(s, rows); });
    } else if (step == m.depth + 1) {
      rows_of_step([&](i64 s, i64 rows) { loss(s, rows, worker); });
    } else {
      const i64 l = 2 * m.depth + 1 - step;
      const i64 below = l > 0 || m.x_grad ? backward_cut(m.layers[l]).total : 0;
      const i64 total = below + weight_cut(m.layers[l]).total;
      for (i64 t; (t = next_task()) < total;) t < below ? backward(l, t, worker) : weights(l, t - below);
    }
  }
  template <class Op> void rows_of_step(Op op) {
    i64 rows = (count + 4 * workers - 1) / (4 * workers);
    rows = workers == 1 ? count : (rows + V - 1) / V * V;
    for (i64 t; (t = next_task()) * rows < count;) op(t * rows, count - t * rows < rows ? count - t * rows : rows);
  }
  void give_outputs(i64 at, i64 rows) {
    const i64 out = m.layers[m.depth - 1].outputs;
    const View<S> from = z(m.depth - 1);
    for (i64 s = at; s < at + rows; ++s)
      for (i64 p = 0; p < panels<S>(out); ++p)
        store_part<S>((S*)m.output + (first + s) * out + p * V, load<Pack<S, 1>>(from.at(s, p)),
                      out - p * V < V ? int(out - p * V) : V);
  }

  /// Threads that the call is worth.
  static i64 wanted(const Matrices& m) {
    double multiply_adds = 0;
    for (i64 l = 0; l < m.depth; ++l) multiply_adds += double(m.layers[l].inputs) * m.layers[l].outputs * m.n;
    return i64(multiply_adds / m.worth_a_thread) + 1;
  }
  /// All of it, on this thread.
  void alone() {
    this->since = 0;
    this->work(0);
  }
  /// Whether it is done.
  bool run() { return this->share_out(m.threads, wanted(m)); }
};

/// op(call) of the samples from number `origin` on, m.n of them, with the factors that m asks for.
template <class S, class Op> auto with_factors(Matrices& m, i64 origin, Op op) {
  if constexpr (sizeof(S) == sizeof(float)) {
    if (m.bfloat16 && m.n > few_samples) {
      MatrixCall<S, Bfloat16> call(m, origin);
      return op(call);
    }
  }
  MatrixCall<S> call(m, origin);
  return op(call);
}

}  // namespace bpx
