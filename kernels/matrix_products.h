#pragma once
#include "factors_cpu.h"
// Matrix products over blocks of registers, for matrices whose sizes are known when the program runs.

namespace bpx {

/// How many sums a product keeps in registers: rows by panels.
#if BPX_VECTOR_BYTES == 64
constexpr int product_rows = 6, product_panels = 4, weight_rows = 8, weight_panels = 3, dot_sums = 16;
#elif BPX_VECTOR_BYTES == 32
constexpr int product_rows = 3, product_panels = 4, weight_rows = 4, weight_panels = 2, dot_sums = 8;
#else
constexpr int product_rows = 3, product_panels = 4, weight_rows = 2, weight_panels = 2, dot_sums = 8;
#endif
#define BPX_UNROLL_SOME _Pragma("GCC unroll 4")
#define BPX_BLOCK static __attribute__((noinline))

/// A matrix of rows by features: feature i of row s is data[i / V * panel + s * row + i % V], V = bpx::panel<S>. With
/// `panel` = V it lies row by row, with `row` = V in panels that a product reads from end to end.
template <class S> struct View {
  S* data;
  i64 panel, row;
  BPX_FN S* at(i64 s, i64 p) const { return data + p * panel + s * row; }
  BPX_FN View from(i64 s, i64 p) const { return {at(s, p), panel, row}; }
};

/// To memory at a multiple of the register's size, past the caches: what stands there needn't be read before. Other threads
/// see it after stores_are_seen().
template <class S> BPX_FN void store_past_caches(S* to, Pack<S, 1> a) {
#if BPX_VECTOR_BYTES >= 32
  asm volatile("vmovntps %1, %0" : "=m"(*(typename Register<S>::V*)to) : "v"(a.v));
#else
  store<Pack<S, 1>>(to, a);
#endif
}
BPX_FN void stores_are_seen() {
#if BPX_VECTOR_BYTES >= 32
  asm volatile("sfence" ::: "memory");
#endif
}

/// Calls op(first, count, Index<block>) for as many of n as are whole blocks of MOST, then for what is left in blocks of
/// halves of it: a function for each block would take as long to be called as 250 multiply-adds of registers.
template <int MOST, class Op> BPX_FN void row_runs(i64 n, Op op) {
  i64 first = 0;
  auto run = [&](auto block) __attribute__((always_inline)) {
    const i64 count = (n - first) / decltype(block)::value * decltype(block)::value;
    if (count) op(first, count, block);
    first += count;
  };
  run(Index<MOST>());
  if constexpr (MOST > 4) run(Index<4>());
  if constexpr (MOST > 2) run(Index<2>());
  if constexpr (MOST > 1) run(Index<1>());
}
/// Calls op(first, Index<count>) for blocks of MOST of n, then for what is left in blocks of halves of it.
template <int MOST, class Op> BPX_FN void row_blocks(i64 n, Op op) {
  row_runs<MOST>(n, [&](i64 first, i64 count, auto block) __attribute__((always_inline)) {
    for (i64 i = first; i < first + count; i += decltype(block)::value) op(i, block);
  });
}
/// Calls op(Index<n>) for n from 1 to MOST.
template <int MOST, class Op> BPX_FN void with_count(int n, Op op) {
  if constexpr (MOST > 1) {
    if (n < MOST) return with_count<MOST - 1>(n, op);
  }
  op(Index<MOST>());
}

/// to = (start + a b) (* times) for blocks of MR rows and NB panels: a (rows, depth), b (depth, features); what stands in a
/// and b is of Factors.
///
/// `start.data` and `times` may be null; a `start` whose rows are 0 apart is a bias. `times` lies as `to` does.
template <class Factors, int MR, int NB, class S>
BPX_BLOCK void product_blocks(i64 rows, i64 depth, View<const S> a, View<const S> b, View<const S> start, View<S> to,
                              const S* times) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>, together = Factors::together;
  for (i64 s = 0; s < rows; s += MR) {
    T sums[MR * NB];
    BPX_UNROLL
    for (T& sum : sums) sum = T{};
    if (start.data) {
      BPX_UNROLL
      for (int i = 0; i < MR * NB; ++i) sums[i] = load<T>(start.at(s + i / NB, i % NB));
    }
    for (i64 k0 = 0; k0 < depth; k0 += V) {
      const S* const features = a.at(s, k0 / V);
      const S* const columns = b.at(k0 / together, 0);
      const int most = ((depth - k0 < V ? int(depth - k0) : V) + together - 1) / together;
      BPX_UNROLL_SOME
      for (int k = 0; k < most; ++k) {
        T x[NB];
        BPX_UNROLL
        for (int n = 0; n < NB; ++n) x[n] = load<T>(columns + n * b.panel + k * b.row);
        BPX_UNROLL
        for (int r = 0; r < MR; ++r) {
          const T y = Factors::everywhere(features[Factors::features(r, a.row) + k]);
          BPX_UNROLL
          for (int n = 0; n < NB; ++n) sums[r * NB + n] = Factors::multiply_add(y, x[n], sums[r * NB + n]);
        }
      }
    }
    BPX_UNROLL
    for (int i = 0; i < MR * NB; ++i) {
      const i64 at = i % NB * to.panel + (s + i / NB) * to.row;
      store<T>(to.data + at, times ? sums[i] * load<T>(times + at) : sums[i]);
    }
  }
}
/// Rows that product() goes through at once: blocks begin where pairs of rows do.
template <class Factors> constexpr int block_rows = product_rows / Factors::together * Factors::together;
/// product_blocks() for any number of rows.
template <class Factors, class S>
static void product(i64 rows, i64 depth, int count, View<const S> a, View<const S> b, View<const S> start, View<S> to,
                    const S* times) {
  with_count<product_panels>(count, [&](auto columns) __attribute__((always_inline)) {
    row_runs<block_rows<Factors>>(rows, [&](i64 s, i64 some, auto block) __attribute__((always_inline)) {
      product_blocks<Factors, decltype(block)::value, decltype(columns)::value>(
          some, depth, a.from(s, 0), b, {start.data ? start.at(s, 0) : nullptr, start.panel, start.row}, to.from(s, 0),
          times ? times + s * to.row : nullptr);
    });
  });
}

/// dw[o][i] (+)= sum over the samples of g[s][o] * z[s][i], for outputs `first` to `first + rows` in blocks of MR, and NB
/// panels of inputs, the last of which has `last` of them; dw is the row of the first of these outputs. What is added to is
/// read at the end: sums of many samples are sums of a few sums. `past_caches` is for a dw whose rows are whole registers,
/// and to which nothing is added.
template <class Factors, int MR, int NB, class S>
BPX_BLOCK void weight_blocks(i64 samples, i64 first, i64 rows, View<const S> g, View<const S> z, S* dw, i64 dw_row,
                             int last, bool add, bool past_caches) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>;
  for (i64 o = first; o < first + rows; o += MR, dw += MR * dw_row) {
    const S* const outputs = g.at(0, o / V) + o % V;
    T sums[MR * NB];
    BPX_UNROLL
    for (T& sum : sums) sum = T{};
    BPX_UNROLL_SOME
    for (i64 s = 0; s < samples; s += Factors::together) {
      T x[NB];
      BPX_UNROLL
      for (int n = 0; n < NB; ++n) x[n] = load<T>(z.at(s, n));
      BPX_UNROLL
      for (int r = 0; r < MR; ++r) {
        const T y = Factors::everywhere(outputs[s * g.row + r]);
        BPX_UNROLL
        for (int n = 0; n < NB; ++n) sums[r * NB + n] = Factors::multiply_add(y, x[n], sums[r * NB + n]);
      }
    }
    BPX_UNROLL
    for (int i = 0; i < MR * NB; ++i) {
      S* const to = dw + i / NB * dw_row + i % NB * V;
      const int count = i % NB + 1 < NB ? V : last;
      if (past_caches) store_past_caches(to, sums[i]);
      else store_part(to, add ? load_part<S>(to, count) + sums[i] : sums[i], count);
    }
  }
}
/// weight_blocks() for outputs `first` to `first + rows` of all in g; `first` is a multiple of weight_rows.
template <class Factors, class S>
static void weight_product(i64 samples, i64 first, i64 rows, int count, View<const S> g, View<const S> z, S* dw, i64 dw_row,
                           int last, bool add, bool past_caches) {
  with_count<weight_panels>(count, [&](auto columns) __attribute__((always_inline)) {
    row_runs<weight_rows>(rows, [&](i64 o, i64 some, auto block) __attribute__((always_inline)) {
      weight_blocks<Factors, decltype(block)::value, decltype(columns)::value>(samples, first + o, some, g, z, dw + o * dw_row,
                                                                               dw_row, last, add, past_caches);
    });
  });
}

/// to[s] (+)= sum over k of a[s][k] * b[k], for SB rows of a and `to` and RB rows of b; all lie row by row, and rows of `to`
/// have room for whole registers.
template <int SB, int RB, class S>
BPX_BLOCK void add_rows_block(i64 features, const S* a, i64 a_row, const S* b, i64 b_row, S* to, i64 to_row, bool add) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>;
  T factors[SB][RB];
  for (int s = 0; s < SB; ++s)
    for (int k = 0; k < RB; ++k) factors[s][k] = c<T>(a[s * a_row + k]);
  auto step = [&](i64 i, int count) __attribute__((always_inline)) {
    T sums[SB];
    BPX_UNROLL
    for (int s = 0; s < SB; ++s) sums[s] = add ? load<T>(to + s * to_row + i) : T{};
    BPX_UNROLL
    for (int k = 0; k < RB; ++k) {
      const T x = load_part<S>(b + k * b_row + i, count);
      BPX_UNROLL
      for (int s = 0; s < SB; ++s) sums[s] = fma(factors[s][k], x, sums[s]);
    }
    BPX_UNROLL
    for (int s = 0; s < SB; ++s) store<T>(to + s * to_row + i, sums[s]);
  };
  i64 i = 0;
  for (; i + V <= features; i += V) step(i, V);
  if (i < features) step(i, int(features - i));
}
/// The same for any numbers of rows: b is read once, in the order in which it lies.
template <class S>
static void add_rows(i64 samples, i64 rows, i64 features, const S* a, i64 a_row, const S* b, i64 b_row, S* to, i64 to_row) {
  auto all = [&](auto at_once) __attribute__((always_inline)) {
    constexpr int RB = decltype(at_once)::value;
    row_blocks<RB>(rows, [&](i64 k, auto count) __attribute__((always_inline)) {
      row_blocks<dot_sums / RB>(samples, [&](i64 s, auto size) __attribute__((always_inline)) {
        add_rows_block<decltype(size)::value, decltype(count)::value>(features, a + s * a_row + k, a_row, b + k * b_row,
                                                                      b_row, to + s * to_row, to_row, k > 0);
      });
    });
  };
  if (samples < 4) all(Index<dot_sums / 2>());
  else all(Index<dot_sums / 4>());
}

#if BPX_VECTOR_BYTES == 64 && defined(__AVX512F__)
/// COUNT registers that hold sums of N numbers each, to half as many with twice as many sums of N / 2; and so on, until the
/// sum of what register k held stands at place k * V / COUNT of the first, V numbers a register.
template <int N, int COUNT, class S> BPX_FN void merge(typename Register<S>::V* registers) {
  constexpr int half = N / 2, rest = (COUNT + 1) / 2;
  typename Picks<S>::I crossed;
  typename Register<S>::I upper;
  BPX_UNROLL
  for (int k = 0; k < panel<S>; ++k) {
    upper[k] = k & half ? -1 : 0;
    crossed[k] = k & half ? panel<S> + k - half : k + half;
  }
  BPX_UNROLL
  for (int r = 0; r < rest; ++r) {
    const auto a = registers[r], b = registers[COUNT > 1 ? r + rest : r];
    registers[r] = (upper ? b : a) + permute(a, b, crossed);
  }
  if constexpr (half > 1) merge<half, rest, S>(registers);
}
#endif
/// sums[k] = the numbers of register k added up, halves first, in the same order for each.
template <int COUNT, class S> BPX_FN void add_up(const Pack<S, 1> (&registers)[COUNT], S* sums) {
  constexpr int V = panel<S>;
#if BPX_VECTOR_BYTES == 64 && defined(__AVX512F__)
  constexpr int most = COUNT >= V ? V : COUNT > V / 2 ? V : COUNT > V / 4 ? V / 2 : COUNT > V / 8 ? V / 4 : 1;
  typename Register<S>::V some[most];
  BPX_UNROLL
  for (int k = 0; k < most; ++k) some[k] = registers[k < COUNT ? k : 0].v;
  merge<V, most, S>(some);
  S places[V];
  store<Pack<S, 1>>(places, {some[0]});
  BPX_UNROLL
  for (int k = 0; k < most && k < COUNT; ++k) sums[k] = places[k * (V / most)];
  if constexpr (COUNT > most) {
    Pack<S, 1> others[COUNT - most];
    BPX_UNROLL
    for (int k = most; k < COUNT; ++k) others[k - most] = registers[k];
    add_up<COUNT - most>(others, sums + most);
  }
#else
  for (int k = 0; k < COUNT; ++k) {
    S parts[V];
    store<Pack<S, 1>>(parts, registers[k]);
    for (int step = V / 2; step; step /= 2)
      for (int j = 0; j < step; ++j) parts[j] += parts[j + step];
    sums[k] = parts[0];
  }
#endif
}

/// to[s][o] = sum over k of z[s][k] * w[o][k] (+ bias[o]), for SB samples and OB outputs; z and w lie row by row.
template <int SB, int OB, class S>
BPX_BLOCK void dot_block(i64 depth, const S* z, i64 z_row, const S* w, i64 w_row, const S* bias, S* to, i64 to_row) {
  using T = Pack<S, 1>;
  constexpr int V = panel<S>;
  T sums[OB * SB];
  for (T& sum : sums) sum = T{};
  auto step = [&](i64 k, auto load_at) __attribute__((always_inline)) {
    T x[SB];
    BPX_UNROLL
    for (int s = 0; s < SB; ++s) x[s] = load_at(z + s * z_row + k);
    BPX_UNROLL
    for (int o = 0; o < OB; ++o) {
      const T y = load_at(w + o * w_row + k);
      BPX_UNROLL
      for (int s = 0; s < SB; ++s) sums[o * SB + s] = fma(y, x[s], sums[o * SB + s]);
    }
  };
  i64 k = 0;
  for (; k + V <= depth; k += V) step(k, [](const S* from) __attribute__((always_inline)) { return load<T>(from); });
  if (k < depth) step(k, [&](const S* from) __attribute__((always_inline)) { return load_part<S>(from, int(depth - k)); });
  S totals[OB * SB];
  add_up<OB * SB>(sums, totals);
  for (int o = 0; o < OB; ++o)
    for (int s = 0; s < SB; ++s) to[s * to_row + o] = bias ? totals[o * SB + s] + bias[o] : totals[o * SB + s];
}
/// Numbers of a row of which a processor reads only a few at once well.
constexpr i64 long_row = 512;
/// The same for any number of samples, in which a row of w is read once for each four of them.
template <class S>
static void dots(i64 samples, i64 outputs, i64 depth, const S* z, i64 z_row, const S* w, const S* bias, S* to, i64 to_row) {
  constexpr int most = 4;
  auto all = [&](auto at_once) __attribute__((always_inline)) {
    constexpr int OB = decltype(at_once)::value;
    row_blocks<OB>(outputs, [&](i64 o, auto rows) __attribute__((always_inline)) {
      row_blocks<dot_sums / OB>(samples, [&](i64 s, auto count) __attribute__((always_inline)) {
        dot_block<decltype(count)::value, decltype(rows)::value>(depth, z + s * z_row, z_row, w + o * depth, depth,
                                                                 bias ? bias + o : nullptr, to + s * to_row + o, to_row);
      });
    });
  };
  if (samples < 2) depth < long_row ? all(Index<dot_sums>()) : all(Index<4>());  // few streams of long rows
  else if (samples < 4) all(Index<dot_sums / 2>());
  else all(Index<dot_sums / most>());
}

}  // namespace bpx
