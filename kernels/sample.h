#pragma once
#include "graph.h"
// One sample through a compiled graph: a tile of one, where every value and every gradient stays in its place. What
// counts here is that a call is over soon.

namespace bpx {

/// What the caller hands over; the inputs stand in their places in `memory`.
struct SampleArgs {
  GraphArgs graph;
  i64 parameters;        // how many arrays are copied to graph.wide.params,
  const i64* copies;     // and of each its address, its place there and its size
  i64 sums;              // how many gradients are added to others, of parameters that stand in several places,
  const i64* additions;  // and of each the place of the other one, its own and its size
  void* memory;          // of the tile
  void* grads;
  void* loss;            // one number
};

template <class Graph> void graph_sample(const SampleArgs& args) {
  using S = typename Graph::S;
  const WideArgs& wide = args.graph.wide;
  copy_arrays(args.parameters, args.copies, (S*)wide.params);
  double loss = 0;
  const WideTile<S> tile{&wide, (const S*)wide.scalars, 0, 1, 1, false, &loss};
  Graph::tile(args.graph, tile, (S*)args.memory, (S*)args.grads);
  for (i64 k = 0; k < args.sums; ++k) {
    const i64* const sum = args.additions + 3 * k;
    add_times(int(sum[2]), S(1), (const S*)args.grads + sum[1], (S*)args.grads + sum[0]);
  }
  *(S*)args.loss = S(loss * wide.scale);
}

}  // namespace bpx

#define BPX_GRAPH_SAMPLE(GRAPH)                                                                                        \
  BPX_ENTRY void bpx_graph_sample(const bpx::SampleArgs* args) { bpx::graph_sample<GRAPH>(*args); }                    \
  BPX_SIZE_OF(SampleArgs)
