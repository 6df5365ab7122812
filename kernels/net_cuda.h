#pragma once
#include "batch_cuda.h"
#include "losses.h"
#include "net.h"
// The fused pass over a batch on the GPU: one sample a thread, its signals in registers, the weights in shared memory.
//
// A block works on one chunk of samples after the other. Sample s of a chunk belongs to thread s % threads, and the sums
// of threads and of warps are added in a fixed order, so a chunk's sums depend on its samples alone. Where the gradients'
// sums are is a type:
//
//   InRegisters   every thread has a sum for each parameter: the fastest, for nets of up to some 150 parameters in float
//   ReadingAhead  as well, and a sample's features are read while the one before it is at work
//   SharedOut     every warp has: its threads tell one another their signals, and each sums some of the parameters

namespace bpx {

constexpr int threads = 128, warps = threads / 32;  // of a block
constexpr unsigned everyone = 0xffffffffu;          // of a warp

/// The parameters of one layer, or its biases, to where the block keeps them.
template <int COUNT, class S> BPX_FN void copy_parameters(const S* from, S* to) {
  for (int i = threadIdx.x; i < COUNT; i += threads) to[i] = from[i];
}

template <int N, bool DENSE, class S> BPX_FN void load_row(const S* from, i64 column, bool valid, S* to) {
  BPX_UNROLL
  for (int i = 0; i < N; ++i) to[i] = valid ? from[DENSE ? i : i * column] : S(0);
}

/// The sums of N numbers over the threads of a warp: half of what a thread has is sent away in each step, and what is left,
/// v[0] ... v[Folded<N>::count - 1], are the sums of a few numbers, another few in each thread.
template <int N, int STEP = 16, class S> BPX_FN void fold(S* v) {
  if constexpr (STEP > 0) {
    constexpr int half = (N + 1) / 2;
    const bool upper = threadIdx.x & STEP;
    BPX_UNROLL
    for (int i = 0; i < half; ++i) {
      const S low = v[i], high = i + half < N ? v[i + half] : S(0);
      v[i] = (upper ? high : low) + __shfl_xor_sync(everyone, upper ? low : high, STEP);
    }
    fold<half, STEP / 2>(v);
  }
}
template <int N, int STEP = 16> struct Folded {
  static constexpr int half = (N + 1) / 2, count = Folded<half, STEP / 2>::count;
  /// Which number v[i] is the sum of, `none` if of no number.
  BPX_FN static int number(int i, int none) {
    const int k = Folded<half, STEP / 2>::number(i, none);
    const int mine = k + (threadIdx.x & STEP ? half : 0);
    return k < half && mine < N ? mine : none;
  }
};
template <int N> struct Folded<N, 0> {
  static constexpr int count = N;
  BPX_FN static int number(int i, int none) { return i < N ? i : none; }
};

/// Warp after warp adds its numbers to the block's.
template <class Op> BPX_FN void in_turns(Op op) {
  for (int w = 0; w < warps; ++w) {
    if (int(threadIdx.x / 32) == w) op(w == 0);
    __syncthreads();
  }
}

template <class NET> struct InRegisters {
  using Net = NET;
  using S = typename Net::S;
  static constexpr int P = Net::Layers::params;
  static constexpr bool together = false, ahead = false;  // every thread works at its own pace
  struct Memory {};
  S sums[P];

  BPX_FN explicit InRegisters(Memory&) {
    BPX_UNROLL
    for (int i = 0; i < P; ++i) sums[i] = S(0);
  }
  template <class L, int AT> BPX_FN void outer(const S* grad_t, const S* z) { bpx::outer<L, 1>(grad_t, z, sums + AT); }

  BPX_FN void add_to(S* total) {
    fold<P>(sums);
    in_turns([&](bool first) {
      BPX_UNROLL
      for (int i = 0; i < Folded<P>::count; ++i) {
        const int p = Folded<P>::number(i, P);
        if (p < P) total[p] = first ? sums[i] : total[p] + sums[i];
      }
    });
  }
};

template <class NET> struct ReadingAhead : InRegisters<NET> {
  static constexpr bool ahead = true;
  using InRegisters<NET>::InRegisters;
};

/// How the sums of an (OUT, IN) layer are shared out among a warp's threads: in tiles of rows x columns, tile t to thread
/// t % 32, as many rounds as it takes. Chosen so that reading signals and multiplying them take the least time together.
template <int OUT, int IN> struct Shares {
  BPX_FN static constexpr int tiles(int r, int k) { return ((OUT + r - 1) / r) * ((IN + k - 1) / k); }
  BPX_FN static constexpr int cost(int r, int k) { return (tiles(r, k) + 31) / 32 * (4 * r * k + 3 * (r + k) + 2); }
  BPX_FN static constexpr int best() {
    int at = 0;
    for (int i = 0; i < 64; ++i) {
      if (cost(i / 8 + 1, i % 8 + 1) < cost(at / 8 + 1, at % 8 + 1)) at = i;
    }
    return at;
  }
  static constexpr int rows = best() / 8 + 1, columns = best() % 8 + 1, across = (IN + columns - 1) / columns;
  static constexpr int count = tiles(rows, columns), rounds = (count + 31) / 32, sums = rounds * rows * columns;
};
/// Of all layers: signals that one of them exchanges at most, sums of a thread, and where those of a layer begin.
template <class LAYERS, int AT = 0> struct AllShares { static constexpr int signals = 0, sums = 0; };
template <int AT, class L, class... Rest> struct AllShares<Layers<L, Rest...>, AT> {
  using Mine = Shares<L::out, L::in + L::bias>;
  using Others = AllShares<Layers<Rest...>, AT + L::params>;
  static constexpr int own = L::out + L::in + L::bias;
  static constexpr int signals = own > Others::signals ? own : Others::signals, sums = Mine::sums + Others::sums;
  /// The first sum of the layer whose parameters begin at `at`.
  BPX_FN static constexpr int begin(int at) {
    if constexpr (sizeof...(Rest) == 0) return 0;
    else return at == AT ? 0 : Mine::sums + Others::begin(at);
  }
};

template <class NET> struct SharedOut {
  using Net = NET;
  using S = typename Net::S;
  using All = AllShares<typename Net::Layers>;
  static constexpr bool together = true, ahead = false;  // a warp's threads exchange signals
  static constexpr int vector = 16 / sizeof(S), row = 32 + vector;  // so that threads read different banks
  struct __align__(16) Vector { S v[vector]; };
  struct Memory { Vector signals[warps][All::signals][row / vector]; };
  S sums[All::sums];
  S* signals;

  BPX_FN explicit SharedOut(Memory& memory) : signals(memory.signals[threadIdx.x / 32][0][0].v) {
    BPX_UNROLL
    for (int i = 0; i < All::sums; ++i) sums[i] = S(0);
  }
  /// op(rows, columns, first sum, first row, first column) for each tile of this thread, whole or not, in the layer or not.
  template <class L, int AT, class Op> BPX_FN void each(Op op) {
    using Mine = Shares<L::out, L::in + L::bias>;
    BPX_UNROLL
    for (int round = 0; round < Mine::rounds; ++round) {
      const int tile = threadIdx.x % 32 + 32 * round;
      op(Index<Mine::rows>(), Index<Mine::columns>(), All::begin(AT) + round * Mine::rows * Mine::columns,
         tile / Mine::across * Mine::rows, tile % Mine::across * Mine::columns);
    }
  }
  template <class L, int AT> BPX_FN void outer(const S* grad_t, const S* z) {
    constexpr int out = L::out, in = L::in + L::bias;
    const int lane = threadIdx.x % 32;
    __syncwarp();
    BPX_UNROLL
    for (int j = 0; j < out; ++j) signals[j * row + lane] = grad_t[j];
    BPX_UNROLL
    for (int i = 0; i < in; ++i) signals[(out + i) * row + lane] = i < L::in ? z[i] : S(1);
    __syncwarp();
    each<L, AT>([&](auto rows, auto columns, int first, int j0, int i0) {
      constexpr int R = decltype(rows)::value, C = decltype(columns)::value;
      const S *g[R], *x[C];
      BPX_UNROLL
      for (int r = 0; r < R; ++r) g[r] = signals + (j0 + r < out ? j0 + r : 0) * row;
      BPX_UNROLL
      for (int k = 0; k < C; ++k) x[k] = signals + (out + (i0 + k < in ? i0 + k : 0)) * row;
      for (int s = 0; s < 32; s += vector) {
        Vector a[R], b[C];
        BPX_UNROLL
        for (int r = 0; r < R; ++r) a[r] = *(const Vector*)(g[r] + s);
        BPX_UNROLL
        for (int k = 0; k < C; ++k) b[k] = *(const Vector*)(x[k] + s);
        BPX_UNROLL
        for (int r = 0; r < R; ++r) {
          BPX_UNROLL
          for (int k = 0; k < C; ++k) {
            S& sum = sums[first + r * C + k];
            BPX_UNROLL
            for (int v = 0; v < vector; ++v) sum = fma(a[r].v[v], b[k].v[v], sum);
          }
        }
      }
    });
  }
  BPX_FN void add_to(S* total) { add_layers<0>(typename Net::Layers(), total); }

 private:
  template <int AT> BPX_FN void add_layers(Layers<>, S*) {}
  template <int AT, class L, class... Rest> BPX_FN void add_layers(Layers<L, Rest...>, S* total) {
    in_turns([&](bool first_warp) {
      each<L, AT>([&](auto rows, auto columns, int first, int j0, int i0) {
        constexpr int R = decltype(rows)::value, C = decltype(columns)::value;
        BPX_UNROLL
        for (int r = 0; r < R; ++r) {
          BPX_UNROLL
          for (int k = 0; k < C; ++k) {
            const int j = j0 + r, i = i0 + k, p = AT + (i < L::in ? j * L::in + i : L::weights + j);
            const S sum = sums[first + r * C + k];
            if (j < L::out && i < L::in + L::bias) total[p] = first_warp ? sum : total[p] + sum;
          }
        }
      });
    });
    add_layers<AT + L::params>(Layers<Rest...>(), total);
  }
};

/// What a sample's pass reads and adds to, besides x.
template <class S, class SUMS> struct Sample {
  const S* params;   // of all layers, one after another
  const S* scalars;  // of all activations, then of the loss
  const S* y;        // the target
  const S* factor;   // what its gradients are multiplied by, if Net::factors
  int valid;         // whether it is one
  SUMS* sums;
  S* loss;

  /// For the layer whose parameters begin at AT.
  template <class L, int AT> BPX_FN void outer(const S* grad_t, const S* z) const { sums->template outer<L, AT>(grad_t, z); }
};

/// z = f(t), df = f'(t), t = W z_in + b
template <class L, class S> BPX_FN void forward(const S* params, const S* scalars, const S* z_in, S* z, S* df) {
  linear<L, 1>(params, params + L::weights, z_in, z);
  if constexpr (!L::identity) {
    BPX_UNROLL
    for (int i = 0; i < L::out; ++i) {
      S value, slope;
      L::Act::both(z[i], scalars, value, slope);
      z[i] = value;
      df[i] = slope;
    }
  }
}
/// z = f(t) alone
template <class L, class S> BPX_FN void forward(const S* params, const S* scalars, const S* z_in, S* z) {
  linear<L, 1>(params, params + L::weights, z_in, z);
  if constexpr (!L::identity) {
    BPX_UNROLL
    for (int i = 0; i < L::out; ++i) z[i] = L::Act::value(z[i], scalars);
  }
}

/// One layer and, by recursion, those above it. z_in and df_in are the outputs and derivatives of the layer below;
/// z_in is overwritten by the layer below's grad_t, on the lowest level (where BELOW is void) by the gradient in x.
template <class Net, class BELOW, int AT, int SCALAR, class SAMPLE, class S>
BPX_FN void backprop(Layers<>, SAMPLE& sample, S* z, const S* df) {
  const S factor = Net::factors ? *sample.factor : S(1);
  *sample.loss = Net::Loss::template run<BELOW::out, 1>(z, sample.y, sample.scalars + SCALAR, factor, Net::factors);
  if constexpr (!BELOW::identity) {
    BPX_UNROLL
    for (int k = 0; k < BELOW::out; ++k) z[k] = z[k] * df[k];
  }
}
template <class Net, class BELOW, int AT, int SCALAR, class SAMPLE, class S, class L, class... Rest>
BPX_FN void backprop(Layers<L, Rest...>, SAMPLE& sample, S* z_in, const S* df_in) {
  constexpr bool lowest = AT == 0;
  S z[L::out], df[L::identity ? 1 : L::out];
  forward<L>(sample.params + AT, sample.scalars + SCALAR, z_in, z, df);
  backprop<Net, L, AT + L::params, SCALAR + L::Act::params>(Layers<Rest...>(), sample, z, df);
  S* const grad_t = z;
  if constexpr (sizeof...(Rest) > 0) forget_loads();  // or the weights would stay in registers from the way up
  clear_rest<L::out, 1>(grad_t, sample.valid);
  clear_rest<L::in, 1>(z_in, sample.valid);
  sample.template outer<L, AT>(grad_t, z_in);
  if constexpr (!lowest) {
    backward<L, 1>(sample.params + AT, grad_t, BELOW::identity ? nullptr : df_in, z_in);
  } else if constexpr (Net::input_grad) {
    backward<L, 1>(sample.params + AT, grad_t, (const S*)nullptr, z_in);
  }
}

/// The outputs z from z_in.
template <int AT, int SCALAR, class S, class L, class... Rest>
BPX_FN void infer(Layers<L, Rest...>, const S* params, const S* scalars, const S* z_in, S* out) {
  if constexpr (sizeof...(Rest) == 0) {
    forward<L>(params + AT, scalars + SCALAR, z_in, out);
  } else {
    S z[L::out];
    forward<L>(params + AT, scalars + SCALAR, z_in, z);
    infer<AT + L::params, SCALAR + L::Act::params>(Layers<Rest...>(), params, scalars, z, out);
  }
}

template <Target, class S> struct TargetNumber { using Type = S; };
template <class S> struct TargetNumber<Target::classes, S> { using Type = i64; };

/// Where the gradient of parameter p stands among a chunk's sums: a type has `at(p)`.
struct InOrder { BPX_FN static int at(int p) { return p; } };

/// Chunk after chunk. `params` are in shared memory, `scalars` in registers.
template <class SUMS, class S, class ORDER = InOrder>
BPX_FN void run_backprop(const Batch<S>& batch, const S* params, const S* scalars) {
  using Net = typename SUMS::Net;
  using Layers = typename Net::Layers;
  constexpr int in = First<Layers>::Type::in, out = Last<Layers>::Type::out, P = Layers::params;
  constexpr Target target = Net::Loss::target;
  constexpr int targets = target == Target::none ? 0 : target == Target::classes ? 1 : out;
  using Y = typename TargetNumber<target, S>::Type;
  __shared__ S total[P];
  __shared__ double warp_losses[warps];
  __shared__ typename SUMS::Memory memory;

  for (i64 chunk = blockIdx.x; chunk * batch.chunk < batch.n; chunk += gridDim.x) {
    const i64 begin = chunk * batch.chunk, at = begin + threadIdx.x;
    const S *x_at = batch.x + at * batch.x_row, *weight_at = batch.weight + at * batch.weight_row;
    const Y* y_at = (const Y*)batch.y + at * batch.y_row;
    S* x_grad_at = batch.x_grad + at * in;
    SUMS sums(memory);
    S sum = S(0);
    // of the chunk's samples, this one and those behind it
    int left = int(batch.n - begin < batch.chunk ? batch.n - begin : batch.chunk) - int(threadIdx.x);
    S next[in];
    if constexpr (SUMS::ahead) load_row<in, Net::dense>(x_at, batch.x_column, left > 0, next);
    for (; left > (SUMS::together ? -int(threadIdx.x % 32) : 0); left -= threads) {
      forget_loads();  // or all weights would stay in registers from one sample to the next: their place is the sums'
      const bool valid = !SUMS::together || left > 0;
      S x[in], y[targets ? targets : 1], weight = S(1), loss;
      if constexpr (SUMS::ahead) {
        BPX_UNROLL
        for (int i = 0; i < in; ++i) x[i] = next[i];
        if (left > threads) load_row<in, Net::dense>(x_at + threads * batch.x_row, batch.x_column, true, next);
      } else {
        load_row<in, Net::dense>(x_at, batch.x_column, valid, x);
      }
      if constexpr (target == Target::values) load_row<out, Net::dense>(y_at, batch.y_column, valid, y);
      if constexpr (target == Target::classes) y[0] = valid ? S(*y_at) : S(0);
      if constexpr (Net::factors) {
        if (batch.weight && valid) weight = *weight_at;
      }
      const S factor = weight * batch.scale;
      const Sample<S, SUMS> sample{params, scalars, y, &factor, valid, &sums, &loss};
      backprop<Net, void, 0, 0>(Layers(), sample, x, (const S*)nullptr);
      if constexpr (Net::factors) loss = loss * weight;
      if (valid) sum += loss;
      if constexpr (Net::input_grad) {
        BPX_UNROLL
        for (int i = 0; i < in; ++i) {
          if (valid) x_grad_at[i] = x[i];
        }
      }
      x_at += threads * batch.x_row;
      y_at += threads * batch.y_row;
      weight_at += threads * batch.weight_row;
      x_grad_at += threads * in;
    }
    sums.add_to(total);
    for (int p = threadIdx.x; p < P; p += threads) batch.sums[chunk * P + ORDER::at(p)] = total[p];
    double loss = sum;
    for (int step = 16; step > 0; step /= 2) loss += __shfl_xor_sync(everyone, loss, step);
    if (threadIdx.x % 32 == 0) warp_losses[threadIdx.x / 32] = loss;
    __syncthreads();
    if (threadIdx.x == 0) batch.losses[chunk] = (warp_losses[0] + warp_losses[1]) + (warp_losses[2] + warp_losses[3]);
  }
}

/// The batch of one of several nets, each with x_net numbers of x and y_net of y to itself: 0 if all have the same. Row k of
/// the grid, a block for each chunk, is for net k.
template <class Net, class S> BPX_FN Batch<S> of_net(Batch<S> batch, i64 x_net, i64 y_net) {
  using Y = typename TargetNumber<Net::Loss::target, S>::Type;
  const i64 chunks = gridDim.x, net = blockIdx.y;
  batch.x += net * x_net;
  batch.y = (const Y*)batch.y + net * y_net;
  batch.sums += net * chunks * Net::Layers::params;
  batch.losses += net * chunks;
  return batch;
}

/// The outputs (n, out), contiguous.
template <class Net, class S> BPX_FN void run_forward(const Batch<S>& batch, const S* params, const S* scalars) {
  using Layers = typename Net::Layers;
  constexpr int in = First<Layers>::Type::in, out = Last<Layers>::Type::out;
  for (i64 at = blockIdx.x * i64(threads) + threadIdx.x; at < batch.n; at += gridDim.x * i64(threads)) {
    forget_loads();
    S x[in], z[out];
    load_row<in, Net::dense>(batch.x + at * batch.x_row, batch.x_column, true, x);
    infer<0, 0>(Layers(), params, scalars, x, z);
    BPX_UNROLL
    for (int k = 0; k < out; ++k) batch.output[at * out + k] = z[k];
  }
}

}  // namespace bpx
