#pragma once
#include "matrix_parts.h"
#include "narrow_cpu.h"
// Steps of training, many in one call: the pass of matrices.h or narrow_cpu.h over some rows, and the update of all
// parameters.
//
// The update is formulas over arrays (elementwise.h) that are compiled elsewhere and called by their addresses, as Python
// calls them, and so is the narrow pass: the same code, and so the same bits.

namespace bpx {

using Formula = void(i64 n, const void* const* in, void* const* out, const void* p);
using SquareSum = double(i64 n, const void* numbers);
using RunNarrow = i64(Narrow*);

/// A formula over arrays of `size` numbers; an output may be one of the inputs.
struct Sweep {
  Formula* run;             // null: nothing to do
  i64 size, inputs, outputs;
  const void* const* reads;
  void* const* writes;
  const void* p;            // its scalars
};

/// Steps of one epoch. All parameters lie one after another, and so do their gradients.
struct Training {
  Matrices* call;           // x and y are all rows; n, rows, weight, scale and grads are filled in for each step
  Narrow* narrow;           // the same for steps of at least `narrow_from` samples; null: none are that large
  RunNarrow* run_narrow;
  i64 narrow_from;
  const i64* rows;          // of the epoch, in the order in which they are taken
  i64 samples, batch;       // rows of the epoch, and of a step; its last one has what is left
  i64 classes;              // class indices in y must be below; 0: y holds none
  const void* weight;       // of the rows that these steps take, in their order; null: all 1
  double scale, last_scale; // of the loss of a whole batch, and of the last one
  i64 parameters;
  void* grads;              // as the pass gives them
  void* changed;            // room for the same with penalties, clipped
  Sweep penalty, update;
  i64 scalars;              // of the update at each step; update.p begins with those of the first
  SquareSum* square_sum;    // null: no clipping
  double clip_norm;
  double* losses;           // of each step
  i64 stop_on_nan, threads;
  double time;              // seconds after which it returns to the caller
  i64 steps;                // to be made
  i64 first;                // the first row of the next one
  i64 done, begun;          // steps made, and whether the next one is
};

/// Numbers of an array that a thread takes at once, whole registers; and numbers that are worth a thread.
constexpr i64 sweep_block = 1 << 12, worth_a_sweep = 1 << 14;
constexpr int most_arrays = 16;
/// Bytes of a row of x that is asked for a step ahead, at most: of a longer one a processor asks for the rest itself; and
/// rows, which fill a quarter of a second-level cache. Calculated.
constexpr i64 short_row = 128, rows_ahead = 2048;

template <class S> struct SweepCall {
  const Sweep& sweep;
  const S* p;
  i64 next = 0;

  void run(i64 threads) {
    if (!sweep.run || !sweep.size) return;
    const i64 wanted = sweep.size / worth_a_sweep + 1;
    if (wanted == 1 || threads == 1) return sweep.run(sweep.size, sweep.reads, sweep.writes, p);
    share_out([](void* call) { ((SweepCall*)call)->take_part(); }, this, wanted < threads ? wanted : threads);
  }
  void take_part() {
    const void* in[most_arrays];
    void* out[most_arrays];
    for (i64 at; (at = __atomic_fetch_add(&next, sweep_block, __ATOMIC_RELAXED)) < sweep.size;) {
      for (i64 k = 0; k < sweep.inputs; ++k) in[k] = (const S*)sweep.reads[k] + at;
      for (i64 k = 0; k < sweep.outputs; ++k) out[k] = (S*)sweep.writes[k] + at;
      sweep.run(sweep.size - at < sweep_block ? sweep.size - at : sweep_block, in, out, p);
    }
  }
};

template <class S> struct TrainingCall {
  Training& t;

  explicit TrainingCall(Training& t) : t(t) {}

  /// False if it must be called again to go on with the step that is begun. It may make fewer steps than `steps`, and
  /// none where the next one is one for the caller: its loss isn't finite, or a class isn't there.
  bool run() {
    const double since = seconds();
    while (t.done < t.steps) {
      if (!t.begun && !begin()) return true;
      double total;
      if (!run_pass(&total)) return false;
      const S loss = S(total * scale());
      if (t.stop_on_nan && !(loss - loss == 0)) return true;
      t.losses[t.done] = double(loss);
      update();
      t.first += samples();
      t.begun = 0;
      ++t.done;
      if (seconds() - since > t.time) return true;
    }
    return true;
  }

  // of the step that is next, or begun
  i64 left() const { return t.samples - t.first; }
  i64 samples() const { return left() < t.batch ? left() : t.batch; }
  double scale() const { return left() <= t.batch ? t.last_scale : t.scale; }
  bool is_narrow() const { return t.narrow && samples() >= t.narrow_from; }

  bool begin() {
    const i64 *const rows = t.rows + t.first, n = samples();
    for (i64 s = 0; t.classes && s < n; ++s)
      if ((unsigned long long)((const i64*)t.call->y)[rows[s] * t.call->y_row] >= (unsigned long long)t.classes) return false;
    is_narrow() ? aim(*t.narrow, rows) : aim(*t.call, rows);
    if (!is_narrow()) ask_for_next();
    t.begun = 1;
    return true;
  }
  /// Asks for the rows of the step after this one, which lie anywhere, if each is short.
  void ask_for_next() const {
    const Matrices& call = *t.call;
    if (call.x_column != 1 || call.layers[0].inputs * i64(sizeof(S)) > short_row) return;
    const i64 first = t.first + t.batch, most = first + (t.batch < rows_ahead ? t.batch : rows_ahead);
    const i64 end = most < t.samples ? most : t.samples;
    const i64 y_size = t.classes ? i64(sizeof(i64)) : i64(sizeof(S));
    for (i64 s = first; s < end; ++s) {
      const S* const x = (const S*)call.x + t.rows[s] * call.x_row;
      __builtin_prefetch(x, 0, 2);
      __builtin_prefetch(x + call.layers[0].inputs - 1, 0, 2);  // a row may begin in one line and end in another
      if (call.y) __builtin_prefetch((const char*)call.y + t.rows[s] * call.y_row * y_size, 0, 2);
    }
  }
  template <class Pass> void aim(Pass& pass, const i64* rows) const {
    pass.n = samples();
    pass.rows = rows;
    pass.weight = t.weight ? (const S*)t.weight + t.done * t.batch : nullptr;
    pass.weight_row = 1;
    pass.scale = scale();
    pass.grads = t.grads;
    pass.next = 0;
    pass.total = 0;
  }
  /// Whether it is done; then the total of the losses.
  bool run_pass(double* total) const {
    const bool done = is_narrow() ? t.run_narrow(t.narrow) : run_matrices<S>(*t.call);
    *total = is_narrow() ? t.narrow->total : t.call->total;
    return done;
  }

  /// The gradients that the pass has given stay as they are.
  void update() {
    if (t.penalty.run || t.square_sum) __builtin_memcpy(t.changed, t.grads, t.parameters * sizeof(S));
    SweepCall<S>{t.penalty, (const S*)t.penalty.p}.run(t.threads);
    if (t.square_sum) clip((S*)t.changed);
    SweepCall<S>{t.update, (const S*)t.update.p + t.done * t.scalars}.run(t.threads);
  }
  void clip(S* grads) const {
    const double norm = __builtin_sqrt(t.square_sum(t.parameters, grads)), factor = t.clip_norm / (norm + 1e-6);
    if (factor >= 1) return;
    const S by = S(factor);
    for (i64 i = 0; i < t.parameters; ++i) grads[i] = grads[i] * by;
  }
};

}  // namespace bpx

/// What Python calls, for S = float or double: 1 when it has ended, 0 if it must be called again.
#define BPX_TRAINING(S)                                                                                  \
  BPX_ENTRY bpx::i64 bpx_train(bpx::Training* t) { return bpx::TrainingCall<S>(*t).run(); }             \
  BPX_SIZE_OF(Sweep) BPX_SIZE_OF(Training)
