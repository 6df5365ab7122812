#pragma once
#include "lane.h"
// Products of matrices by all threads of a block, for block_cuda.h: the second factor lies in shared memory, feature by
// feature, and each thread has a small matrix of sums in its registers.
//
// Net's constants rows, gap, threads and sums are explained in block_cuda.h.

namespace bpx {

/// As many numbers as one instruction loads.
template <class S> constexpr int vector = 16 / int(sizeof(S));
template <class S> struct alignas(16) Vector { S v[vector<S>]; };
template <class Net> constexpr int stride = Net::rows + Net::gap;

BPX_FN constexpr int whole(int n, int unit) { return (n + unit - 1) / unit; }
BPX_FN constexpr int padded(int n) { return whole(n, 8) * 8; }

/// op(0) ... op(count - 1), each in one of the block's threads: neighbours in neighbours.
template <class Net, class Op> BPX_FN void each_of(int count, Op op) {
#pragma unroll 4
  for (int k = 0; k < whole(count, Net::threads); ++k) {
    const int at = k * Net::threads + int(threadIdx.x);
    if (at < count) op(at);
  }
}

/// The shape of a thread's block of sums.
struct Cut { int rows, columns; };

/// How to cut rows x columns of sums among the threads: least time for all rounds, where a load costs some
/// multiplications. A block has at most `most` sums and whole units of columns.
BPX_FN constexpr Cut cut(int rows, int columns, int threads, int most, int unit) {
  Cut best = {1, unit};
  i64 least = -1;
  for (int r = 1; r <= 8; r *= 2) {
    for (int c = unit; c <= 8 && c <= columns; c *= 2) {
      if (r * c > most) continue;
      const i64 rounds = whole(whole(rows, r) * whole(columns, c), threads);
      const i64 time = rounds * (r * c + 2 * (r + c));
      if (least < 0 || time < least) least = time, best = {r, c};
    }
  }
  return best;
}

template <int N, class S> BPX_FN void load_row(const S* from, S (&to)[N]) {
  if constexpr (N % vector<S> == 0) {
    BPX_UNROLL
    for (int i = 0; i < N; i += vector<S>) {
      const Vector<S> four = *(const Vector<S>*)(from + i);
      BPX_UNROLL
      for (int v = 0; v < vector<S>; ++v) to[i + v] = four.v[v];
    }
  } else {
    BPX_UNROLL
    for (int i = 0; i < N; ++i) to[i] = from[i];
  }
}

/// done(o, s, vector of sums) for every row o < out and vector of samples s: start(o, s) + sum over k of w[k][o] z[k][s],
/// each thread ROWS x COLUMNS sums at a time.
template <class Net, int ROWS, int COLUMNS, class S, class Start, class Done>
BPX_FN void product_in_blocks(int out, int depth, const S* w, int w_step, const S* z, Start start, Done done) {
  constexpr int V = vector<S>;
  constexpr int groups = Net::rows / COLUMNS, vectors = COLUMNS / V;
  for (int item = threadIdx.x; item < groups * whole(out, ROWS); item += Net::threads) {
    const int o = item / groups * ROWS, s = item % groups * V;  // neighbours' vectors stand side by side
    S sums[ROWS][COLUMNS];
    BPX_UNROLL
    for (int r = 0; r < ROWS; ++r) {
      BPX_UNROLL
      for (int v = 0; v < vectors; ++v) {
        BPX_UNROLL
        for (int k = 0; k < V; ++k) sums[r][v * V + k] = start(o + r, s + v * groups * V + k);
      }
    }
#pragma unroll 8
    for (int k = 0; k < depth; ++k) {
      S a[ROWS];
      load_row(w + k * w_step + o, a);
      BPX_UNROLL
      for (int v = 0; v < vectors; ++v) {
        S b[V];
        load_row(z + k * stride<Net> + s + v * groups * V, b);
        BPX_UNROLL
        for (int r = 0; r < ROWS; ++r) {
          BPX_UNROLL
          for (int j = 0; j < V; ++j) sums[r][v * V + j] = fma(a[r], b[j], sums[r][v * V + j]);
        }
      }
    }
    BPX_UNROLL
    for (int r = 0; r < ROWS; ++r) {
      if (o + r >= out) break;
      BPX_UNROLL
      for (int v = 0; v < vectors; ++v) done(o + r, s + v * groups * V, sums[r] + v * V);
    }
  }
}
/// The same with the blocks of sums that take the least time for OUT rows.
template <class Net, int OUT, class S, class Start, class Done>
BPX_FN void product(int depth, const S* w, int w_step, const S* z, Start start, Done done) {
  constexpr Cut c = cut(OUT, Net::rows, Net::threads, Net::sums, vector<S>);
  product_in_blocks<Net, c.rows, c.columns>(OUT, depth, w, w_step, z, start, done);
}

/// sums[o][i] (+)= sum over the tile of g[o][s] z[i][s], o < out, i < width <= in; the rows of `sums` are `step` apart.
/// Each thread has ROWS x COLUMNS of them at a time.
template <class Net, int ROWS, int COLUMNS, class S>
BPX_FN void weight_gradient_in_blocks(int out, int in, const S* g, const S* z, int width, S* sums, int step, bool add) {
  constexpr int V = vector<S>;
  const int rows = whole(out, ROWS), columns = whole(in, COLUMNS);
  for (int item = threadIdx.x; item < rows * columns; item += Net::threads) {
    // a thread's rows and columns are spread, so that neighbours read and write side by side
    const int o = item / columns, i = item % columns;
    S total[ROWS][COLUMNS] = {};
#pragma unroll 4
    for (int s = 0; s < Net::rows; s += V) {
      S a[ROWS][V];
      BPX_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        const int row = o + r * rows;
        load_row(g + (out % ROWS == 0 || row < out ? row : out - 1) * stride<Net> + s, a[r]);
      }
      BPX_UNROLL
      for (int k = 0; k < COLUMNS; ++k) {
        const int column = i + k * columns;
        S b[V];
        load_row(z + (in % COLUMNS == 0 || column < in ? column : in - 1) * stride<Net> + s, b);
        BPX_UNROLL
        for (int r = 0; r < ROWS; ++r) {
          BPX_UNROLL
          for (int v = 0; v < V; ++v) total[r][k] = fma(a[r][v], b[v], total[r][k]);
        }
      }
    }
    BPX_UNROLL
    for (int r = 0; r < ROWS; ++r) {
      BPX_UNROLL
      for (int k = 0; k < COLUMNS; ++k) {
        if (o + r * rows >= out || i + k * columns >= width) continue;
        S* const at = sums + i64(o + r * rows) * step + i + k * columns;
        *at = add ? *at + total[r][k] : total[r][k];
      }
    }
  }
}
template <class Net, int OUT, int IN, class S>
BPX_FN void weight_gradient(const S* g, const S* z, int width, S* sums, int step, bool add) {
  constexpr Cut c = cut(OUT, IN, Net::threads, Net::sums, 1);
  weight_gradient_in_blocks<Net, c.rows, c.columns>(OUT, IN, g, z, width, sums, step, add);
}

template <class Net, int OUT, class S> BPX_FN void bias_gradient(const S* g, S* sums, bool add) {
  // the last threads: the first have more to do elsewhere
  for (int o = Net::threads - 1 - int(threadIdx.x); o < OUT; o += Net::threads) {
    S parts[vector<S>] = {}, total = S(0);
    BPX_UNROLL
    for (int s = 0; s < Net::rows; s += vector<S>) {
      S row[vector<S>];
      load_row(g + o * stride<Net> + s, row);
      BPX_UNROLL
      for (int v = 0; v < vector<S>; ++v) parts[v] = parts[v] + row[v];
    }
    BPX_UNROLL
    for (int v = 0; v < vector<S>; ++v) total = total + parts[v];
    sums[o] = add ? sums[o] + total : total;
  }
}

}  // namespace bpx
