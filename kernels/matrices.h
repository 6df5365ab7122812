#pragma once
#include "matrix_blocks.h"
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

/// The samples from number `origin` on, m.n of them.
template <class S, class Factors = Exact<S>> struct MatrixCall : MatrixBlocks<S, Factors, MatrixCall<S, Factors>> {
  using Blocks = MatrixBlocks<S, Factors, MatrixCall>;
  using Blocks::Blocks, Blocks::V, Blocks::workers, Blocks::next_task, Blocks::m, Blocks::origin, Blocks::chunk;
  using Blocks::first, Blocks::count, Blocks::kept, Blocks::chunks, Blocks::signals_of_a_chunk, Blocks::losses;
  using Blocks::forward_cut, Blocks::backward_cut, Blocks::weight_cut;
  using Blocks::take_x, Blocks::forward, Blocks::loss, Blocks::give_outputs, Blocks::backward, Blocks::weights;

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
