#pragma once
#include "matrix_functions.h"
#include "matrix_products.h"
#include "steps_cpu.h"
// A call of the pass of matrices.h: what it is handed, where its signals stand, and how its steps are cut into blocks.

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
/// Bytes of the gradients in t that the blocks of a weight's gradient read one after another: they stay in a core's cache.
constexpr i64 gradient_bytes = 256 << 10;
/// Features of a packed block of W, measured on Zen 4: 256 take up to 5 % longer, 1024 are no better.
constexpr int slice = 512;
/// Panels of a block of columns with few samples: so many that a row's piece is long.
constexpr int few_panels = 64;
/// Multiply-adds that are worth being shared out as a block.
constexpr double worth_a_block = 30e3;
/// Samples computed at once: so many bytes of signals, or as many as the largest W has, which is read for each such chunk;
/// multiply-adds in a layer's step (after which an interrupt is seen), and samples at most. Sums of many samples are sums of
/// such sums.
constexpr i64 signal_bytes = 24 << 20, most_chunk = 4096;
constexpr double step_multiply_adds = 6e9;

BPX_FN double at_least(double a, double b) { return a < b ? b : a; }
BPX_FN i64 filled(i64 n) { return (n + 15) / 16 * 16; }

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

/// What the blocks of a call stand on: samples from number `origin` on, m.n of them.
template <class S, class Factors, class Call> struct MatrixPlaces : Steps<Call> {
  static constexpr int V = panel<S>, together = Factors::together;
  using Steps<Call>::workers;
  Matrices& m;
  i64 origin;
  i64 chunk;         // samples computed at once
  i64 first, count;  // the samples of this chunk
  i64 kept = 0;      // numbers before its signals: of other chunks, between two halves
  S* besides = nullptr;  // what threads need besides: null where it stands behind the signals
  bool few;

  explicit MatrixPlaces(Matrices& m, i64 origin = 0)
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
  i64 chunks() const { return (m.n + chunk - 1) / chunk; }
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
    const double multiply_adds = double(count) * l.inputs * l.outputs;
    Cut cut(panels<S>(l.inputs), few ? few_panels : weight_panels, l.outputs, 16, weight_rows, multiply_adds, workers);
    if (!few) cut.limit_rows(l.outputs, gradient_bytes / (count * i64(sizeof(S))) / 16 * 16);
    return cut;
  }
};

}  // namespace bpx
