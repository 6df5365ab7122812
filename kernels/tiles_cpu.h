#pragma once
#include "transpose_cpu.h"
// Samples, a row each, to tiles that stand feature by feature, and back.
//
// Where the processor can pick numbers from two registers at will, whole registers are read and transposed: gathering
// them number by number takes some processors ten times as long.

namespace bpx {

#if BPX_VECTOR_BYTES == 64 && defined(__AVX512F__)
/// A register of samples, each a few numbers that follow those of the sample before: to[f * W + s] = from[s * N + f].
template <int N, int W, class S> BPX_FN void load_dense(const S* from, S* to) {
  constexpr int lanes = 64 / sizeof(S);
  typename Register<S>::V parts[N];
  BPX_UNROLL
  for (int part = 0; part < N; ++part) parts[part] = load<Pack<S, 1>>(from + part * lanes).v;
  BPX_UNROLL
  for (int f = 0; f < N; ++f) {
    auto found = parts[0];
    BPX_UNROLL
    for (int part = 1; part < N; ++part) {
      typename Picks<S>::I pick;
      BPX_UNROLL
      for (int k = 0; k < lanes; ++k) {
        const int at = k * N + f;
        pick[k] = at / lanes == part ? lanes + at % lanes : part == 1 && at < lanes ? at : k;
      }
      found = permute(found, parts[part], pick);
    }
    store<Pack<S, 1>>(to + f * W, {found});
  }
}
/// A register of samples at any distance: to[f * W + s] = from[s * row + f].
template <int N, int W, class S> BPX_FN void load_rows(const S* from, i64 row, S* to) {
  constexpr int lanes = 64 / sizeof(S);
  for (int f = 0; f < N; f += lanes) {
    const int count = N - f < lanes ? N - f : lanes;
    typename Register<S>::V rows[lanes];
    BPX_UNROLL
    for (int s = 0; s < lanes; ++s) rows[s] = load_first(from + s * row + f, count);
    transpose<S>(rows);
    BPX_UNROLL
    for (int k = 0; k < lanes; ++k)
      if (k < count) store<Pack<S, 1>>(to + (f + k) * W, {rows[k]});
  }
}
/// to[s * N + f] = from[f * W + s] for a register of samples.
template <int N, int W, class S> BPX_FN void store_rows(const S* from, S* to) {
  constexpr int lanes = 64 / sizeof(S);
  for (int f = 0; f < N; f += lanes) {
    const int count = N - f < lanes ? N - f : lanes;
    typename Register<S>::V rows[lanes];
    BPX_UNROLL
    for (int k = 0; k < lanes; ++k) rows[k] = load<Pack<S, 1>>(from + (f + (k < count ? k : 0)) * W).v;
    transpose<S>(rows);
    BPX_UNROLL
    for (int s = 0; s < lanes; ++s) store_first(to + s * N + f, rows[s], count);
  }
}
#else
template <int N, int W, class S> BPX_FN void load_dense(const S*, S*) {}
template <int N, int W, class S> BPX_FN void load_rows(const S*, i64, S*) {}
template <int N, int W, class S> BPX_FN void store_rows(const S*, S*) {}
#endif

/// to[f * W + s] = from[s * row + f * column]; zeros beyond `valid` samples.
template <int N, int W, class S> BPX_KERNEL void load_tile(const S* from, i64 row, i64 column, int valid, S* to) {
  constexpr int lanes = Lane<Pack<S, 1>>::width;
  int s = 0;
  if (have_permute && column == 1) {
    if (N <= 8 && row == N) {
      for (; s + lanes <= valid; s += lanes) load_dense<N <= 8 ? N : 1, W>(from + s * row, to + s);
    } else {
      for (; s + lanes <= valid; s += lanes) load_rows<N, W>(from + s * row, row, to + s);
    }
  }
  for (int f = 0; f < N; ++f)
    for (int k = s; k < W; ++k) to[f * W + k] = k < valid ? from[k * row + f * column] : S(0);
}
/// Asks for a tile that will be loaded next: between two tiles so much is computed that the processor forgets the stream.
template <int N, class S> BPX_FN void prefetch_tile(const S* from, i64 row, int samples) {
  constexpr int line = 64 / sizeof(S);
  const int step = row > 0 && row < line ? int(line / row) : 1;
  for (int s = 0; s < samples; s += step)
    for (int f = 0; f < N; f += line) __builtin_prefetch(from + s * row + f);
}
/// to[s * N + f] = from[f * W + s] for the valid samples
template <int N, int W, class S> BPX_KERNEL void store_tile(const S* from, int valid, S* to) {
  constexpr int lanes = Lane<Pack<S, 1>>::width;
  int s = 0;
  if (have_permute)
    for (; s + lanes <= valid; s += lanes) store_rows<N, W>(from + s, to + i64(s) * N);
  for (; s < valid; ++s)
    for (int f = 0; f < N; ++f) to[i64(s) * N + f] = from[f * W + s];
}

/// sums[p] = what the lanes of parameter p hold together; `grads` is filled up to whole registers of parameters.
template <int P, class S> BPX_KERNEL void add_lanes(const S* grads, S* sums) {
  using T = Pack<S, 1>;
  constexpr int lanes = Lane<T>::width;
  for (int p = 0; p < P; p += lanes) {
    S buffer[lanes];
#if BPX_VECTOR_BYTES == 64 && defined(__AVX512F__)
    typename Register<S>::V rows[lanes];
    BPX_UNROLL
    for (int k = 0; k < lanes; ++k) rows[k] = load<T>(grads + (p + k) * lanes).v;
    transpose<S>(rows);
    for (int step = lanes / 2; step; step /= 2)
      for (int k = 0; k < step; ++k) rows[k] += rows[k + step];
    store<T>(buffer, {rows[0]});
#else
    for (int k = 0; k < lanes; ++k) {
      S parts[lanes];
      for (int l = 0; l < lanes; ++l) parts[l] = grads[(p + k) * lanes + l];
      for (int step = lanes / 2; step; step /= 2)
        for (int l = 0; l < step; ++l) parts[l] += parts[l + step];
      buffer[k] = parts[0];
    }
#endif
    for (int k = 0; k < lanes && p + k < P; ++k) sums[p + k] = buffer[k];
  }
}

}  // namespace bpx
