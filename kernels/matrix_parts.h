#pragma once
#include "matrices.h"
// Many samples through a net that is small enough for a core's cache: the batch is cut into parts of some hundred samples,
// and each goes through the whole net (MatrixCall) on one thread, so that its signals stay in that core's cache and
// threads wait for one another once in many parts; between the halves of a call every part keeps its signals. Every part
// has gradients of its own, which are added in a fixed tree: the same bits for any number of threads.

namespace bpx {

/// Bytes of a part's signals, and of parameters, at most: about a second-level cache, a quarter of one. Measured on Zen 4.
constexpr i64 part_bytes = 1 << 20, parameter_bytes = 256 << 10;
/// Samples of a part; parts that a batch is cut into where it can be; from how many parts on a call is done in parts; and
/// parts of a wave, whose gradients are kept. Measured on Zen 4.
constexpr i64 least_part = 192, most_part = 480, few_parts = 16, enough_parts = 6, wave_parts = 32;
/// The number of parts is a multiple of it, so that up to four threads have equally many.
constexpr i64 alike = 4;
/// Numbers of a gradient that are added up at once.
constexpr i64 block_of_sums = 1024;

template <class S> struct MatrixParts : Steps<MatrixParts<S>> {
  using Steps<MatrixParts<S>>::workers;
  using Steps<MatrixParts<S>>::next_task;
  Matrices& m;
  i64 part, parameters;  // samples of a part; numbers of a gradient, filled up
  i64 first, count;      // the parts of this wave

  explicit MatrixParts(Matrices& m) : m(m), part(part_of(m)), parameters(filled(parameters_of(m))) {}

  /// Samples that a part has, about.
  static i64 about(const Matrices& m) {
    const i64 fit = part_bytes / (MatrixCall<S>::numbers_of_a_sample(m) * i64(sizeof(S))) / 48 * 48;
    const i64 wanted = (m.n / few_parts + 47) / 48 * 48, most = fit > most_part ? most_part : fit;
    return most < wanted ? most : wanted < least_part ? least_part : wanted;
  }
  static i64 part_of(const Matrices& m) {
    const i64 parts = (m.n + about(m) - 1) / about(m), even = (parts + alike - 1) / alike * alike;
    return ((m.n + even - 1) / even + product_rows - 1) / product_rows * product_rows;
  }
  static i64 parameters_of(const Matrices& m) {
    i64 sum = 0;
    for (i64 l = 0; l < m.depth; ++l) sum += m.layers[l].outputs * (m.layers[l].inputs + (m.layers[l].bias ? 1 : 0));
    return sum;
  }
  /// Whether a call is done in parts.
  static bool takes(const Matrices& m) {
    const i64 part = about(m);
    return part >= least_part && m.n >= enough_parts * part && parameters_of(m) * i64(sizeof(S)) <= parameter_bytes;
  }

  // ---- memory: the signals of each thread's part, or of each part; what threads need besides; for the parts of a wave
  // gradients and losses ---------------------------------------------------------------------------------------------------

  Matrices one_of(i64 samples) const {
    Matrices one = m;
    one.n = samples, one.threads = 1;
    return one;
  }
  i64 signals() const {
    Matrices one = one_of(part);
    return MatrixCall<S>(one).signals();
  }
  static i64 besides_of(Matrices one) { return filled(MatrixCall<S>(one).numbers_besides()); }
  /// Of a whole part or of the last one: if that is of few samples, it may take more.
  i64 numbers_besides() const {
    const i64 whole = besides_of(one_of(part)), last = besides_of(one_of(m.n - (parts() - 1) * part));
    return whole < last ? last : whole;
  }
  /// Of the numbers in the memory, the first that a thread needs besides.
  i64 besides(i64 worker) const {
    return (m.half == both_halves ? m.threads : parts()) * signals() + worker * numbers_besides();
  }
  i64 memory() const {
    return besides(m.threads) + (m.loss ? wave_parts * (parameters + i64(sizeof(double) / sizeof(S))) : 0);
  }
  double* losses() const { return (double*)((S*)m.memory + besides(m.threads)); }
  S* gradients(i64 k) const { return (S*)(losses() + wave_parts) + k * parameters; }

  // ---- steps: a wave of parts, and the sum of its gradients -------------------------------------------------------------

  bool has_gradients() const { return m.loss && m.half != up; }
  i64 parts() const { return (m.n + part - 1) / part; }
  i64 steps() const { return (parts() + wave_parts - 1) / wave_parts * 2; }
  void begin(i64 step) {
    first = step / 2 * wave_parts;
    count = parts() - first < wave_parts ? parts() - first : wave_parts;
  }
  void one_step(i64 step, int worker) {
    if (step % 2 == 0) {
      for (i64 k; (k = next_task()) < count;) one_part(k, worker);
    } else if (has_gradients()) {
      for (i64 k; (k = next_task()) * block_of_sums < parameters;) add(k * block_of_sums, step == 1);
    }
  }
  void finish(i64 step) {
    if (has_gradients() && step % 2 == 0)
      for (i64 k = 0; k < count; ++k) m.total += losses()[k];
  }
  void one_part(i64 k, int worker) {
    const i64 from = (first + k) * part;
    Matrices one = one_of(m.n - from < part ? m.n - from : part);
    one.next = 0, one.total = 0, one.time = 1e9;
    one.memory = (S*)m.memory + (m.half == both_halves ? worker : first + k) * signals();
    one.grads = gradients(k);
    with_factors<S>(one, from, [&](auto& call) {
      call.besides = (S*)m.memory + besides(worker);
      call.alone();
    });
    if (has_gradients()) losses()[k] = one.total;
  }
  /// The block's numbers of every part of the wave: number k is added to number k ^ 1, their sums alike, and so on.
  void add(i64 at, bool replace) {
    const i64 end = at + block_of_sums < parameters ? at + block_of_sums : parameters;
    for (i64 apart = 1; apart < count; apart *= 2)
      for (i64 k = 0; k + apart < count; k += 2 * apart) {
        S *const left = gradients(k), *const right = gradients(k + apart);
        for (i64 i = at; i < end; ++i) left[i] = left[i] + right[i];
      }
    S *const all = (S*)m.grads, *const sum = gradients(0);
    const i64 numbers = parameters_of(m), have = end < numbers ? end : numbers;
    for (i64 i = at; i < have; ++i) all[i] = replace ? sum[i] : all[i] + sum[i];
  }
  /// Whether it is done.
  bool run() { return this->share_out(m.threads, MatrixCall<S>::wanted(m)); }
};

/// One call, in the way that suits it: whether it is done.
template <class S> bool run_matrices(Matrices& m) {
  if (MatrixParts<S>::takes(m)) return MatrixParts<S>(m).run();
  return with_factors<S>(m, 0, [](auto& call) { return call.run(); });
}

inline i64 wrong_class(const i64* y, i64 n, i64 classes) {
  for (i64 s = 0; s < n; ++s)
    if ((unsigned long long)y[s] >= (unsigned long long)classes) return s;
  return -1;
}

}  // namespace bpx

/// What Python calls, for S = float or double. run() gives 1 when the call is done, 0 if it must be called again;
/// wrong_class() the number of the first sample whose class there is not, or -1. Other passes share the threads.
#define BPX_MATRICES(S)                                                                                                \
  BPX_ENTRY bpx::i64 bpx_matrices_memory(bpx::Matrices* m) {                                                           \
    return bpx::MatrixParts<S>::takes(*m) ? bpx::MatrixParts<S>(*m).memory() : bpx::MatrixCall<S>(*m).memory();        \
  }                                                                                                                    \
  BPX_ENTRY bpx::i64 bpx_matrices_run(bpx::Matrices* m) { return bpx::run_matrices<S>(*m); }                           \
  BPX_ENTRY bpx::i64 bpx_matrices_wrong_class(const bpx::i64* y, bpx::i64 n, bpx::i64 classes) {                       \
    return bpx::wrong_class(y, n, classes);                                                                            \
  }                                                                                                                    \
  BPX_ENTRY void bpx_share_out(void (*work)(void*), void* what, bpx::i64 threads) { bpx::share_out(work, what, threads); }\
  BPX_SIZE_OF(MatrixLayer) BPX_SIZE_OF(Matrices)
