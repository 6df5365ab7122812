#pragma once
#include "lane.h"
// The sum of chunks on the CPU, in a tree that depends on their number alone.

namespace bpx {

/// A sum of chunks, taken in order, in a tree like a binary counter: a level holds the sum of 2^level chunks.
struct Tree {
  i64 params, count;
  void* levels;    // (levels, params), so many that 2^levels is more than the chunks
  double* losses;  // (levels,)
};
template <class S> void tree_add(Tree* tree, const void* sums, const double* losses, i64 chunks) {
  const i64 P = tree->params;
  for (i64 k = 0; k < chunks; ++k) {
    S* level = (S*)tree->levels;
    const S* const add = (const S*)sums + k * P;
    int l = 0;
    const i64 count = tree->count++;
    if (!(count & 1)) {
      for (i64 p = 0; p < P; ++p) level[p] = add[p];
      tree->losses[0] = losses[k];
      continue;
    }
    // the first carry adds the chunk to level 0 and goes on from there
    for (i64 p = 0; p < P; ++p) level[p] += add[p];
    tree->losses[0] += losses[k];
    for (; count >> l & 1; ++l, level += P) {
      const bool last = !(count >> (l + 1) & 1);
      S* const next = level + P;
      for (i64 p = 0; p < P; ++p) next[p] = last ? level[p] : next[p] + level[p];
      tree->losses[l + 1] = last ? tree->losses[l] : tree->losses[l + 1] + tree->losses[l];
    }
  }
}
/// The sum of all that was added, into `sums`; returns the loss. Low levels are added first.
template <class S> double tree_total(const Tree* tree, void* out) {
  const i64 P = tree->params;
  S* const sums = (S*)out;
  double loss = 0;
  for (i64 p = 0; p < P; ++p) sums[p] = S(0);
  bool any = false;
  for (int l = 0; tree->count >> l; ++l) {
    if (!(tree->count >> l & 1)) continue;
    const S* const level = (const S*)tree->levels + l * P;
    for (i64 p = 0; p < P; ++p) sums[p] = any ? level[p] + sums[p] : level[p];
    loss = any ? tree->losses[l] + loss : tree->losses[l];
    any = true;
  }
  return loss;
}

}  // namespace bpx

/// The entry points for S = float or double.
#define BPX_TREE(S)                                                                                             \
  BPX_ENTRY void bpx_tree_add(bpx::Tree* tree, const void* sums, const double* losses, bpx::i64 chunks) {       \
    bpx::tree_add<S>(tree, sums, losses, chunks);                                                               \
  }                                                                                                             \
  BPX_ENTRY double bpx_tree_total(const bpx::Tree* tree, void* sums) { return bpx::tree_total<S>(tree, sums); } \
  BPX_SIZE_OF(Tree)
