#pragma once
#include "losses.h"
#include "net.h"
// A small batch in one call: parameters are taken from their arrays, and the only chunk's sums are the gradients.
//
// A form of the fused pass offers run_small<Net>(small, n, x, y, scale), which returns the loss without `scale` and leaves
// the gradients behind the first number of `out`, and run_small_forward<Net>(small, n, x, output); arrays are contiguous.

namespace bpx {

/// What stays the same from call to call.
struct SmallNet {
  const void* const* parameters;  // W and b of every layer, an array each
  const i64* sizes;               // how many numbers each of them holds
  i64 count;                      // of arrays
  void* params;                   // room for all of them, one after another
  const void* scalars;            // parameters of the activations, then of the loss
  void* memory;                   // bpx_small_memory() bytes, 64-byte aligned
  void* out;                      // the loss, then the gradients in the order of the parameters
};

template <class Net> double run_small(const SmallNet& net, i64 n, const void* x, const void* y, double scale);

template <class Net> void run_small_forward(const SmallNet& net, i64 n, const void* x, void* output);

/// Returns -1, or the number of the first sample whose class there is not.
template <class Net> i64 small_batch(const SmallNet& net, i64 n, const void* x, const void* y, double scale) {
  using S = typename Net::S;
  if constexpr (Net::Loss::target == Target::classes) {
    for (i64 k = 0; k < n; ++k)
      if ((unsigned long long)((const i64*)y)[k] >= Last<typename Net::Layers>::Type::out) return k;
  }
  *(S*)net.out = S(run_small<Net>(net, n, x, y, scale) * scale);
  return -1;
}

}  // namespace bpx

#define BPX_SMALL(NET)                                                                                               \
  BPX_ENTRY bpx::i64 bpx_small(const bpx::SmallNet* net, bpx::i64 n, const void* x, const void* y, double scale) {      \
    return bpx::small_batch<NET>(*net, n, x, y, scale);                                                              \
  }                                                                                                                  \
  BPX_SIZE_OF(SmallNet)                                                                                              \
  BPX_ENTRY bpx::i64 bpx_small_memory() { return bpx::small_memory<NET>(); }
#define BPX_SMALL_FORWARD(NET)                                                                                       \
  BPX_ENTRY void bpx_small_forward(const bpx::SmallNet* net, bpx::i64 n, const void* x, void* output) {                 \
    bpx::run_small_forward<NET>(*net, n, x, output);                                                                 \
  }                                                                                                                  \
  BPX_SIZE_OF(SmallNet)                                                                                              \
  BPX_ENTRY bpx::i64 bpx_small_memory() { return bpx::small_memory<NET>(); }
