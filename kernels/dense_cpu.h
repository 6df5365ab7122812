#pragma once
// What of a net the narrow pass (narrow_cpu.h) has compiled for it alone: the products of its layers, one of each size.

#ifndef __clang__
// These loops are written for registers: g++ makes them as fast as with -O3 (Zen 4), in two thirds of the time.
#pragma GCC optimize("O1")
#endif
#include "dense.h"

/// The entry points for layer K, S = float or double.
#define BPX_DENSE(S, K, IN, OUT, BIAS)                                                                       \
  BPX_ENTRY void bpx_linear_##K(const S* w, const S* b, const S* z_in, S* t) {                               \
    bpx::linear<bpx::Dense<IN, OUT, BIAS>, bpx::Shape<S>::samples>(w, b, z_in, t);                           \
  }                                                                                                          \
  BPX_ENTRY void bpx_backward_##K(const S* w, const S* grad_t, const S* df, S* below) {                      \
    bpx::backward<bpx::Dense<IN, OUT, BIAS>, bpx::Shape<S>::samples>(w, grad_t, df, below);                  \
  }                                                                                                          \
  BPX_ENTRY void bpx_outer_##K(const S* grad_t, const S* z, S* grads) {                                      \
    bpx::outer<bpx::Dense<IN, OUT, BIAS>, bpx::Shape<S>::samples>(grad_t, z, grads);                         \
  }

BPX_VECTOR_BYTES_ENTRY
