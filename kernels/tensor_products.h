#pragma once
#include "block_products.h"
#include "mma.h"
// Products of matrices by the tensor cores of a block's warps, for tensor_cuda.h.
//
// A tile's signals lie in shared memory feature by feature, each feature's samples as words (mma.h). The gap behind them
// makes `pitch` 8 or 24 modulo 32, so that both ways of reading them, features t and t + 4 of samples that stand side by
// side (matrix_product), and samples side by side of feature g (weight_gradient), are free of bank conflicts where a
// warp's threads are 4 g + t. There are whole(features, 16) rows; those of no feature hold zeros.
//
// Which sample a column of a fragment is, and which feature a row, is free as long as both factors agree: a thread's
// words are side by side in memory, on the way in and on the way out.
//
// Net's constants rows, threads and sums are explained in block_cuda.h. Net::Precision is one of mma.h.

namespace bpx {

template <class Net> constexpr int each = Net::Precision::each;
template <class Net> constexpr int words = Net::rows / each<Net>;        // of a feature's samples
template <class Net> constexpr int pitch = words<Net> + 8;               // from one feature to the next
template <class Net> constexpr int across = words<Net> < 32 ? words<Net> / 8 : 4;  // words that a thread reads at once
template <class Net> constexpr int samples = across<Net> * each<Net>;    // in them
BPX_FN constexpr int full(int n) { return whole(n, 16) * 16; }

template <int N> struct alignas(4 * N) Words { Word w[N]; };

/// Words of a weight matrix as matrix_product reads it: of 16 outputs and the depth of one product, a thread's part[][4].
template <class Precision> BPX_FN constexpr int weight_words(int outputs, int inputs) {
  return full(outputs) * full(inputs) / Precision::each * Precision::parts;
}

/// The word at `at` of them: `from(o, i)` is the number of output o and input i.
template <class Precision, class From> BPX_FN Word weight_word(int at, int inputs, From from) {
  constexpr int parts = Precision::parts, depth = Precision::depth;
  const int r = at % 4, lane = at / 4 % 32, tile = at / (128 * parts), steps = full(inputs) / depth;
  const int o = tile / steps * 16 + lane / 4 + r % 2 * 8, i = tile % steps * depth + lane % 4 + r / 2 * (depth / 2);
  float numbers[Precision::each];
  BPX_UNROLL
  for (int k = 0; k < Precision::each; ++k) numbers[k] = from(o, i + 4 * k);
  Word part[parts];
  Precision::split(Precision::word(numbers), part);
  return part[at / 128 % parts];
}

/// How many tiles, downwards and across, a warp has at once.
struct Share { int tall, wide; };

/// How to cut tall x wide tiles of which `unit` go together among the warps: least time for all rounds, where a product
/// takes as long as one wavefront of shared memory, of which a tile downwards needs 4, and one across 2.
BPX_FN constexpr Share share(int tall, int wide, int warps, int most, int unit) {
  Share best = {1, unit};
  i64 least = -1;
  for (int r = 1; r <= 4 && r <= tall; r *= 2) {
    for (int c = unit; c <= 8 && c <= wide; c *= 2) {
      if (4 * r * c > most) continue;
      const i64 rounds = whole(whole(tall, r) * whole(wide, c), warps);
      const i64 time = rounds * (r * c + 4 * r + 2 * c);
      if (least < 0 || time < least) least = time, best = {r, c};
    }
  }
  return best;
}

/// A power of two, and what undoes it.
struct Powers { float up, down; };
BPX_FN float infinity() { return __uint_as_float(0x7f800000u); }
/// What brings `largest`, which is finite, to between 2^7 and 2^8; of 0 nothing.
BPX_FN Powers powers_for(float largest) {
  const int exponent = int(__float_as_uint(largest) >> 23) - 127;
  if (exponent == -127) return {1.0f, 1.0f};
  const int up = 7 - exponent < -126 ? -126 : 7 - exponent > 126 ? 126 : 7 - exponent;
  return {__uint_as_float(Word(127 + up) << 23), __uint_as_float(Word(127 - up) << 23)};
}

template <class Precision> struct Left { Word part[Precision::parts][4]; };
template <class Precision> struct Right { Word part[Precision::parts][2]; };

/// The fragment of four, or two, words.
template <class Precision, int N> BPX_FN void split(const Word (&from)[N], Word (&to)[Precision::parts][N]) {
  BPX_UNROLL
  for (int i = 0; i < N; ++i) {
    Word part[Precision::parts];
    Precision::split(from[i], part);
    BPX_UNROLL
    for (int p = 0; p < Precision::parts; ++p) to[p][i] = part[p];
  }
}

/// done(o, s, t) for every row o < full(OUT) and every few samples from s on: t[k] = bias[o] + the sum over i < IN of
/// w[o][i] z[i][s + k], of samples<Net> sums. With a DEPTH of less than IN, load(from, depth) brings so many features from
/// `from` on to z, again and again; all threads do it together.
template <class Net, int OUT, int IN, int DEPTH, class Load, class Done>
BPX_FN void matrix_product(const Word* w, const float* bias, const Word* z, Load load, Done done) {
  using P = typename Net::Precision;
  constexpr int tiles = whole(OUT, 16), steps = full(IN) / P::depth, wide = samples<Net>, warps = Net::threads / 32;
  constexpr int groups = words<Net> / (8 * across<Net>);
  constexpr int tall = share(tiles, wide * groups, warps, Net::sums, wide).tall, items = groups * whole(tiles, tall);
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  for (int round = 0; round < whole(items, warps); ++round) {
    const int item = round * warps + int(threadIdx.x / 32), first = item / groups * tall, group = item % groups;
    float d[tall][wide][4];
    BPX_UNROLL
    for (int m = 0; m < tall; ++m) {
      BPX_UNROLL
      for (int r = 0; r < 4; ++r) {
        const int o = (first + m) * 16 + g + r / 2 * 8;
        const float start = bias && o < OUT ? bias[o] : 0.0f;
        BPX_UNROLL
        for (int q = 0; q < wide; ++q) d[m][q][r] = start;
      }
    }
    for (int from = 0; from < IN; from += DEPTH) {
      const int depth = IN - from < DEPTH ? IN - from : DEPTH;
      if constexpr (DEPTH < IN) load(from, depth);
      if (item >= items) continue;
      const int last = (from + full(depth)) / P::depth;
#pragma unroll 2
      for (int step = from / P::depth; step < last; ++step) {
        Left<P> a[tall];
        BPX_UNROLL
        for (int m = 0; m < tall; ++m) {
          const int tile = tiles % tall == 0 || first + m < tiles ? first + m : tiles - 1;
          BPX_UNROLL
          for (int p = 0; p < P::parts; ++p) {
            const Word* const at = w + ((tile * steps + step) * P::parts + p) * 128 + threadIdx.x % 32 * 4;
            const Words<4> four = *(const Words<4>*)at;
            BPX_UNROLL
            for (int i = 0; i < 4; ++i) a[m].part[p][i] = four.w[i];
          }
        }
        Words<across<Net>> row[2 * P::each];
        BPX_UNROLL
        for (int i = 0; i < 2 * P::each; ++i) {
          const int feature = step * P::depth - from + t + 4 * i;
          row[i] = *(const Words<across<Net>>*)(z + feature * pitch<Net> + (group * 8 + g) * across<Net>);
        }
        BPX_UNROLL
        for (int q = 0; q < wide; ++q) {
          const int k = q / P::each;
          Word two[2] = {row[0].w[k], row[1].w[k]};
          if constexpr (P::each == 2) {
            two[0] = q % 2 ? highs(row[0].w[k], row[1].w[k]) : lows(row[0].w[k], row[1].w[k]);
            two[1] = q % 2 ? highs(row[2].w[k], row[3].w[k]) : lows(row[2].w[k], row[3].w[k]);
          }
          Right<P> b;
          split<P>(two, b.part);
          BPX_UNROLL
          for (int m = 0; m < tall; ++m) P::add(d[m][q], a[m].part, b.part);
        }
      }
    }
    if (item >= items) continue;
    BPX_UNROLL
    for (int m = 0; m < tall; ++m) {
      if (first + m >= tiles) break;
      BPX_UNROLL
      for (int r = 0; r < 2; ++r) {
        BPX_UNROLL
        for (int c = 0; c < 2; ++c) {
          float sums[wide];
          BPX_UNROLL
          for (int q = 0; q < wide; ++q) sums[q] = d[m][q][2 * r + c];
          done((first + m) * 16 + g + 8 * r, (group * 8 + 2 * t + c) * wide, sums);
        }
      }
    }
  }
}

/// sums[o][i] (+)= factor times the sum over the tile of g[o][s] z[i][s], i < width <= IN; the rows of `sums` are `step`
/// apart. Unless it is null, bias[o] (+)= factor times the sum of g[o][s], which is a product with ones.
template <class Net, int OUT, int IN>
BPX_FN void tensor_gradient(const Word* g, const Word* z, int width, float factor, float* sums, int step, float* bias,
                            bool add) {
  using P = typename Net::Precision;
  constexpr int warps = Net::threads / 32, rows = whole(OUT, 16), columns = whole(IN, 8);
  constexpr Share c = share(rows, columns, warps, Net::sums, 1);
  constexpr int over = whole(columns, c.wide), items = whole(rows, c.tall) * over;
  const int lane = threadIdx.x % 32, row = lane / 4, two = lane % 4 * 2;
  const auto load = [&](const Word* from, int feature, int word) {
    return *(const Words<2>*)(from + feature * pitch<Net> + word + two);
  };
  const float units[] = {1.0f, 1.0f};
  const Word unit = P::word(units), two_units[] = {unit, unit};
  Right<P> ones;
  split<P>(two_units, ones.part);
  const auto store = [&](float* at, float sum) { *at = add ? *at + sum * factor : sum * factor; };
  for (int round = 0; round < whole(items, warps); ++round) {
    const int item = round * warps + int(threadIdx.x / 32);
    if (item >= items) break;
    const int o = item / over * c.tall * 16, i = item % over * c.wide * 8;
    float d[c.tall][c.wide][4] = {}, of_bias[c.tall][4] = {};
#pragma unroll 2
    for (int word = 0; word < words<Net>; word += 8) {
      Left<P> a[c.tall];
      BPX_UNROLL
      for (int m = 0; m < c.tall; ++m) {
        const int at = rows % c.tall == 0 || o + 16 * m < OUT ? o + 16 * m : 0;
        const Words<2> upper = load(g, at + row, word), lower = load(g, at + row + 8, word);
        const Word four[4] = {upper.w[0], lower.w[0], upper.w[1], lower.w[1]};
        split<P>(four, a[m].part);
        if (bias && i == 0) P::add(of_bias[m], a[m].part, ones.part);
      }
      BPX_UNROLL
      for (int n = 0; n < c.wide; ++n) {
        const int at = columns % c.wide == 0 || i + 8 * n < IN ? i + 8 * n : 0;
        const Words<2> both = load(z, at + row, word);
        Right<P> b;
        split<P>(both.w, b.part);
        BPX_UNROLL
        for (int m = 0; m < c.tall; ++m) P::add(d[m][n], a[m].part, b.part);
      }
    }
    float* const corner = sums + i64(o + row) * step + i + two;
    BPX_UNROLL
    for (int m = 0; m < c.tall; ++m) {
      BPX_UNROLL
      for (int r = 0; r < 4; ++r) {
        const int output = o + 16 * m + row + r / 2 * 8;
        if (output >= OUT) continue;
        if (bias && i == 0 && two == 0 && r % 2 == 0) store(bias + output, of_bias[m][r]);
        BPX_UNROLL
        for (int n = 0; n < c.wide; ++n) {
          if (i + 8 * n + two + r % 2 < width) store(corner + (16 * m + r / 2 * 8) * step + 8 * n + r % 2, d[m][n][r]);
        }
      }
    }
  }
}

}  // namespace bpx
