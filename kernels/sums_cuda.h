#pragma once
#include "lane.h"
// The second pass on the GPU: partial sums of chunks, added in a tree that depends on their number alone.
//
// As in Tree of tree_cpu.h, number k of a level is added to number k ^ 1, left + right, to give number k / 2 of the next
// level; a number without a neighbour goes up as it is. One launch takes `tree_rows` numbers together, eight levels.

namespace bpx {

constexpr int tree_rows = 256, tree_columns = 32, tree_parts = 8;  // a block has tree_columns x tree_parts threads

/// The sum of N consecutive numbers, `left` of which exist. -0 is the number that changes none, not even -0.
template <int N, class S> BPX_FN S branch(const S* from, i64 step, i64 left) {
  if constexpr (N == 1) {
    return left > 0 ? *from : S(-0.0f);
  } else {
    const S a = branch<N / 2>(from, step, left), b = branch<N / 2>(from + N / 2 * step, step, left - N / 2);
    return a + b;
  }
}

/// to[group][column] = the sum of the block's group of rows; the sum is also returned, to the block's first threads.
template <class S> BPX_FN S add_rows(i64 group, i64 column, i64 rows, i64 columns, const S* from, S* to, S* shared) {
  constexpr int part_rows = tree_rows / tree_parts;
  const i64 first = group * tree_rows + threadIdx.y * part_rows;
  const bool mine = column < columns;
  const S part = branch<part_rows>(from + first * columns + column, columns, mine ? rows - first : 0);
  shared[threadIdx.y * tree_columns + threadIdx.x] = part;
  __syncthreads();
  const S sum = branch<tree_parts>(shared + threadIdx.x, tree_columns, tree_parts);
  if (threadIdx.y == 0 && mine) to[group * columns + column] = sum;
  return sum;
}

/// Of several nets, a layer of the grid each, block (g, b) adds rows 256 g ... 256 g + 255 of columns 32 b ... 32 b + 31; the last b, their losses. Where `loss`
/// is no null pointer there is one group, and it becomes the sum of all losses times scale, one a net.
template <class S>
BPX_FN void tree_step(i64 rows, i64 columns, const S* sums, const double* losses, S* to, double* losses_to, S* loss, double scale) {
  __shared__ double shared[tree_columns * tree_parts];
  const i64 group = blockIdx.x, net = blockIdx.z;
  sums += net * rows * columns;
  losses += net * rows;
  to += net * gridDim.x * columns;
  losses_to += net * gridDim.x;
  if (blockIdx.y + 1 < gridDim.y) {
    add_rows(group, i64(blockIdx.y) * tree_columns + threadIdx.x, rows, columns, sums, to, (S*)shared);
  } else {
    const double sum = add_rows(group, threadIdx.x, rows, 1, losses, losses_to, shared);
    if (loss && threadIdx.x == 0 && threadIdx.y == 0) loss[net] = S(sum * scale);
  }
}

}  // namespace bpx

#define BPX_TREE_STEP(S, NAME)                                                                                       \
  BPX_ENTRY void NAME(bpx::i64 rows, bpx::i64 columns, const S* sums, const double* losses, S* to, double* losses_to, \
                      S* loss, double scale) {                                                                       \
    bpx::tree_step<S>(rows, columns, sums, losses, to, losses_to, loss, scale);                                      \
  }
BPX_TREE_STEP(float, bpx_tree_float)
BPX_TREE_STEP(double, bpx_tree_double)
