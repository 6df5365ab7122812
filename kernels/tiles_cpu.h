#pragma once
#include "transpose_cpu.h"
// Samples, a row each, to tiles that stand feature by feature, and back; and the sum of a tile's lanes.
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
template <int W, class S> BPX_FN void load_rows(const S* from, i64 row, int features, S* to) {
  constexpr int lanes = 64 / sizeof(S);
  for (int f = 0; f < features; f += lanes) {
    const int count = features - f < lanes ? features - f : lanes;
    typename Register<S>::V rows[lanes];
    BPX_UNROLL
    for (int s = 0; s < lanes; ++s) rows[s] = load_first(from + s * row + f, count);
    transpose<S>(rows);
    BPX_UNROLL
    for (int k = 0; k < lanes; ++k)
      if (k < count) store<Pack<S, 1>>(to + (f + k) * W, {rows[k]});
  }
}
/// to[s * features + f] = from[f * W + s] for a register of samples.
template <int W, class S> BPX_FN void store_rows(const S* from, int features, S* to) {
  constexpr int lanes = 64 / sizeof(S);
  for (int f = 0; f < features; f += lanes) {
    const int count = features - f < lanes ? features - f : lanes;
    typename Register<S>::V rows[lanes];
    BPX_UNROLL
    for (int k = 0; k < lanes; ++k) rows[k] = load<Pack<S, 1>>(from + (f + (k < count ? k : 0)) * W).v;
    transpose<S>(rows);
    BPX_UNROLL
    for (int s = 0; s < lanes; ++s) store_first(to + s * features + f, rows[s], count);
  }
}
#else
template <int N, int W, class S> BPX_FN void load_dense(const S*, S*) {}
template <int W, class S> BPX_FN void load_rows(const S*, i64, int, S*) {}
template <int W, class S> BPX_FN void store_rows(const S*, int, S*) {}
#endif

/// Whole registers of samples that lie one after another, if they have at most N features; returns how many samples.
template <int N, int W, class S> BPX_FN int load_adjacent(const S* from, int features, int samples, S* to) {
  constexpr int lanes = Lane<Pack<S, 1>>::width;
  int s = 0;
  if constexpr (N > 0) {
    if (features < N) return load_adjacent<N - 1, W>(from, features, samples, to);
    for (; s + lanes <= samples; s += lanes) load_dense<N, W>(from + s * N, to + s);
  }
  return s;
}

/// to[f * W + s] = from[s * row + f * column]; zeros beyond `valid` samples. Then asks for the `next` samples, which will
/// be loaded next: between two tiles so much is computed that the processor forgets the stream.
template <class S> void load_tile(const S* from, i64 row, i64 column, int features, int valid, int next, S* to) {
  constexpr int W = Shape<S>::samples, lanes = Lane<Pack<S, 1>>::width, line = 64 / sizeof(S);
  int s = 0;
  if (have_permute && column == 1) {
    if (features <= 8 && row == features) {
      s = load_adjacent<8, W>(from, features, valid, to);
    } else {
      for (; s + lanes <= valid; s += lanes) load_rows<W>(from + s * row, row, features, to + s);
    }
  }
  for (int f = 0; f < features; ++f)
    for (int k = s; k < W; ++k) to[f * W + k] = k < valid ? from[k * row + f * column] : S(0);
  const int step = row > 0 && row < line ? int(line / row) : 1;
  for (int k = 0; k < next; k += step)
    for (int f = 0; f < features; f += line) __builtin_prefetch(from + (W + k) * row + f);
}
/// to[s * features + f] = from[f * W + s] for the valid samples
template <class S> void store_tile(const S* from, int features, int valid, S* to) {
  constexpr int W = Shape<S>::samples, lanes = Lane<Pack<S, 1>>::width;
  int s = 0;
  if (have_permute)
    for (; s + lanes <= valid; s += lanes) store_rows<W>(from + s, features, to + i64(s) * features);
  for (; s < valid; ++s)
    for (int f = 0; f < features; ++f) to[i64(s) * features + f] = from[f * W + s];
}

/// sums[p] = what the lanes of parameter p hold together; `grads` is filled up to whole registers of parameters.
template <class S> void add_lanes(const S* grads, int params, S* sums) {
  using T = Pack<S, 1>;
  constexpr int lanes = Lane<T>::width;
  for (int p = 0; p < params; p += lanes) {
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
    for (int k = 0; k < lanes && p + k < params; ++k) sums[p + k] = buffer[k];
  }
}

}  // namespace bpx
