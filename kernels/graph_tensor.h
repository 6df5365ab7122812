#pragma once
#include "graph_cuda.h"
#include "tensor_products.h"
// Linear nodes of a graph by the tensor cores of a block's warps, in float32. Values and gradients stay float; the factors of a
// product become what Graph::Precision (mma.h) keeps of them as they are read. Weights are packed as matrix_product reads
// them, of each piece of the input for itself, both ways.
//
// Which feature is which row of a fragment, and which sample which column, is free as long as both factors agree: a thread
// reads samples that stand side by side. With the gap of 8 behind a feature's samples, no two threads of a wavefront meet in
// a bank of shared memory.

namespace bpx {

/// W, or W^T where `row` is 1, of outputs x inputs numbers `row` and `column` apart. All blocks do it together.
template <class Precision> BPX_FN void pack_words(int outputs, int inputs, const float* from, int row, int column, float* to) {
  const int words = weight_words<Precision>(outputs, inputs);
  for (int at = blockIdx.x * blockDim.x + threadIdx.x; at < words; at += gridDim.x * blockDim.x) {
    ((Word*)to)[at] = weight_word<Precision>(at, inputs, [&](int o, int i) {
      return o < outputs && i < inputs ? from[i64(o) * row + i64(i) * column] : 0.0f;
    });
  }
}

/// What the block's gradients are multiplied by where they become factors, and what of them is multiplied by.
template <class R> BPX_FN Powers powers_of(int features, const float* grad) {
  if constexpr (R::Precision::scaled) {
    extern __shared__ __align__(16) unsigned char memory[];  // begins with the tile's parts
    float* const parts = (float*)memory;
    float largest = 0.0f;
    each_of<R>(features * R::rows, [&](int at) {
      const float size = abs(grad[at / R::rows * stride<R> + at % R::rows]);
      if (size > largest && size < infinity()) largest = size;
    });
    const auto most = [](float a, float b) { return a > b ? a : b; };
    largest = together<32>(largest, most);
    __syncthreads();  // others may still read what stood there
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = largest;
    __syncthreads();
    for (int warp = 0; warp < R::threads / 32; ++warp) largest = most(largest, parts[warp]);
    return powers_for(largest);
  }
  return {1.0f, 1.0f};
}

/// Numbers that stand side by side, of a thread's samples<R>.
template <class R> constexpr int adjacent = samples<R> < 4 ? samples<R> : 4;
/// Where the k-th vector of numbers begins that thread g of eight has of a group's samples.
template <class R> BPX_FN constexpr int sample_of(int group, int g, int k) {
  return (group * samples<R> + k * adjacent<R>) * 8 + g * adjacent<R>;
}

template <int TALL, int WIDE> struct Tall { static constexpr int tall = TALL, wide = WIDE; };

/// done(o, s, sums) for every o < out and every few samples from s on: sums[k] = factor times the sum over i < in of
/// w[o][i] z[i][s + k]. A warp has TALL tiles of 16 outputs at once.
template <class R, int TALL, class Done>
BPX_FN void tensor_product_in_tiles(int out, int in, const Word* w, const float* z, Powers powers, Done done) {
  using P = typename R::Precision;
  constexpr int wide = samples<R>, warps = R::threads / 32, groups = words<R> / (8 * across<R>), vectors = wide / adjacent<R>;
  const int tiles = whole(out, 16), steps = full(in) / P::depth, items = groups * whole(tiles, TALL);
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (int item = threadIdx.x / 32; item < items; item += warps) {
    const int first = item / groups * TALL, group = item % groups;
    float d[TALL][wide][4] = {};
#pragma unroll 2
    for (int step = 0; step < steps; ++step) {
      Left<P> a[TALL];
      BPX_UNROLL
      for (int m = 0; m < TALL; ++m) {
        const int tile = tiles % TALL == 0 || first + m < tiles ? first + m : tiles - 1;
        BPX_UNROLL
        for (int p = 0; p < P::parts; ++p) {
          const Words<4> four = *(const Words<4>*)(w + ((tile * steps + step) * P::parts + p) * 128 + lane * 4);
          BPX_UNROLL
          for (int i = 0; i < 4; ++i) a[m].part[p][i] = four.w[i];
        }
      }
      float row[2 * P::each][wide];
      BPX_UNROLL
      for (int i = 0; i < 2 * P::each; ++i) {
        const int feature = step * P::depth + t + 4 * i;
        BPX_UNROLL
        for (int v = 0; v < vectors; ++v) {
          Words<adjacent<R>> numbers = {};
          if (in % 16 == 0 || feature < in) numbers = *(const Words<adjacent<R>>*)(z + feature * stride<R> + sample_of<R>(group, g, v));
          BPX_UNROLL
          for (int k = 0; k < adjacent<R>; ++k) row[i][v * adjacent<R> + k] = __uint_as_float(numbers.w[k]) * powers.up;
        }
      }
      BPX_UNROLL
      for (int q = 0; q < wide; ++q) {
        Word two[2];
        BPX_UNROLL
        for (int h = 0; h < 2; ++h) {
          float numbers[P::each];
          BPX_UNROLL
          for (int k = 0; k < P::each; ++k) numbers[k] = row[h * P::each + k][q];
          two[h] = P::word(numbers);
        }
        Right<P> b;
        split<P>(two, b.part);
        BPX_UNROLL
        for (int m = 0; m < TALL; ++m) P::add(d[m][q], a[m].part, b.part);
      }
    }
    BPX_UNROLL
    for (int m = 0; m < TALL; ++m) {
      BPX_UNROLL
      for (int r = 0; r < 4; ++r) {
        const int o = (first + m) * 16 + g + r / 2 * 8;
        if (o >= out) continue;
        BPX_UNROLL
        for (int v = 0; v < vectors; ++v) {
          float sums[adjacent<R>];
          BPX_UNROLL
          for (int k = 0; k < adjacent<R>; ++k) sums[k] = d[m][v * adjacent<R> + k][r] * powers.down;
          done(o, sample_of<R>(group, 2 * t + r % 2, v), sums);
        }
      }
    }
  }
}

/// to[o] = start(o, s) + factor times the sum over i < in of w[o][i] z[i], for every sample.
template <class R, class Start>
BPX_FN void tensor_product(int out, int in, const float* w, const float* z, Powers powers, float* to, int used, Start start) {
  constexpr int groups = words<R> / (8 * across<R>);
  const auto done = [&](int o, int s, const float* sums) {
    Words<adjacent<R>> row;
    BPX_UNROLL
    for (int k = 0; k < adjacent<R>; ++k) row.w[k] = __float_as_uint(s + k < used ? sums[k] + start(o, s + k) : 0.0f);
    *(Words<adjacent<R>>*)(to + o * stride<R> + s) = row;
  };
  const Word* const words_of = (const Word*)w;
  if (8 * samples<R> <= R::sums && groups * whole(whole(out, 16), 2) >= R::threads / 32) {
    tensor_product_in_tiles<R, 8 * samples<R> <= R::sums ? 2 : 1>(out, in, words_of, z, powers, done);
  } else {
    tensor_product_in_tiles<R, 1>(out, in, words_of, z, powers, done);
  }
}
template <class R, class S>
BPX_FN void graph_linear(int, int from, int features, int out, const S* weight, const S* bias, const S* z, S* t, int used) {
  tensor_product<R>(out, features, weight, z, {1.0f, 1.0f}, t, used, [&](int o, int s) {
    return from > 0 ? t[o * stride<R> + s] : bias ? bias[o] : 0.0f;
  });
}
template <class R, class S>
BPX_FN void graph_linear_below(int features, int out, const S* weight, const S* grad_t, S* grad_z, int used, bool add) {
  tensor_product<R>(features, out, weight, grad_t, powers_of<R>(out, grad_t), grad_z, used, [&](int i, int s) {
    return add ? grad_z[i * stride<R> + s] : 0.0f;
  });
}

/// The two words of a feature that a thread has of the samples of one product, of which there are P::depth from `row` on.
template <class R> BPX_FN void sample_words(const float* row, float factor, Word (&two)[2]) {
  using P = typename R::Precision;
  float numbers[2 * P::each];
  BPX_UNROLL
  for (int h = 0; h < P::each; ++h) {
    const Words<2> pair = *(const Words<2>*)(row + 8 * h + threadIdx.x % 4 * 2);
    BPX_UNROLL
    for (int k = 0; k < 2; ++k) numbers[2 * h + k] = __uint_as_float(pair.w[k]) * factor;
  }
  two[0] = P::word(numbers);
  two[1] = P::word(numbers + P::each);
}
/// dw[o][i] (+)= sum over the tile of g[o][s] z[i][s], i < in; its rows are `step` apart. A warp has TALL x WIDE tiles of
/// 16 x 8 at once.
template <class R, int TALL, int WIDE>
BPX_FN void tensor_gradient_in_tiles(int out, int in, const float* g, const float* z, Powers powers, float* dw, int step, bool add) {
  using P = typename R::Precision;
  constexpr int warps = R::threads / 32;
  const int over = whole(in, 8 * WIDE), items = whole(out, 16 * TALL) * over;
  const int row = threadIdx.x % 32 / 4, two = threadIdx.x % 4 * 2;
  // of rows that are none, what is computed is not stored
  const auto feature = [](const float* from, int f, int features, int at_once) {
    return from + (features % at_once == 0 || f < features ? f : features - 1) * stride<R>;
  };
  for (int item = threadIdx.x / 32; item < items; item += warps) {
    const int o = item / over * TALL * 16, i = item % over * WIDE * 8;
    float d[TALL][WIDE][4] = {};
#pragma unroll 2
    for (int s = 0; s < R::rows; s += P::depth) {
      Left<P> a[TALL];
      BPX_UNROLL
      for (int m = 0; m < TALL; ++m) {
        Word upper[2], lower[2];
        sample_words<R>(feature(g, o + 16 * m + row, out, 16 * TALL) + s, powers.up, upper);
        sample_words<R>(feature(g, o + 16 * m + row + 8, out, 16 * TALL) + s, powers.up, lower);
        const Word four[4] = {upper[0], lower[0], upper[1], lower[1]};
        split<P>(four, a[m].part);
      }
      BPX_UNROLL
      for (int n = 0; n < WIDE; ++n) {
        Word both[2];
        sample_words<R>(feature(z, i + 8 * n + row, in, 8 * WIDE) + s, 1.0f, both);
        Right<P> b;
        split<P>(both, b.part);
        BPX_UNROLL
        for (int m = 0; m < TALL; ++m) P::add(d[m][n], a[m].part, b.part);
      }
    }
    BPX_UNROLL
    for (int m = 0; m < TALL; ++m) {
      BPX_UNROLL
      for (int n = 0; n < WIDE; ++n) {
        BPX_UNROLL
        for (int r = 0; r < 4; ++r) {
          const int output = o + 16 * m + row + r / 2 * 8, input = i + 8 * n + two + r % 2;
          if (output >= out || input >= in) continue;
          float* const at = dw + i64(output) * step + input;
          *at = add ? *at + d[m][n][r] * powers.down : d[m][n][r] * powers.down;
        }
      }
    }
  }
}
template <class R, class S>
BPX_FN void graph_outer(int in, int features, int out, const S* grad_t, const S* z, S* dw, int, bool add) {
  constexpr int warps = R::threads / 32, tall = R::sums >= 32 ? 2 : 1;
  const Powers powers = powers_of<R>(out, grad_t);
  if (whole(out, 16 * tall) * whole(features, 32) >= warps)
    tensor_gradient_in_tiles<R, tall, 4>(out, features, grad_t, z, powers, dw, in, add);
  else if (whole(out, 16) * whole(features, 32) >= warps)
    tensor_gradient_in_tiles<R, 1, 4>(out, features, grad_t, z, powers, dw, in, add);
  else
    tensor_gradient_in_tiles<R, 1, 1>(out, features, grad_t, z, powers, dw, in, add);
}

}  // namespace bpx
