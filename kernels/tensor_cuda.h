#pragma once
#include "block.h"
#include "tensor_products.h"
// The pass of block_cuda.h in float32 with products by tensor cores: sums, losses and functions are float, the factors of
// products what Net::Precision (mma.h) keeps of them. That is how signals and their derivatives are stored; only the
// outputs stay float until the loss has seen them.
//
// Net has the constants of block_cuda.h. `slice` is a multiple of 16, unless it is the whole input; `packed` and `shared`
// are in words. What stands for no sample, or for no feature, is 0 everywhere, whatever the weights are.
//
// Float16 can't hold every gradient. In each tile the outputs' gradients are multiplied by the power of two that brings the
// largest finite one to between 2^7 and 2^8, and what is computed from them is divided by it in float (scaled_gradients).

namespace bpx {

// ---- parameters -------------------------------------------------------------------------------------------------

/// W, W^T where gradients go down through it, both as matrix_product reads them, and b, float and with zeros.
template <class Net, class L, bool LOWEST> struct TensorPacked {
  using P = typename Net::Precision;
  static constexpr bool down = Net::backward && (!LOWEST || Net::input_grad);
  static constexpr int plain = weight_words<P>(L::out, L::in);
  static constexpr int bias = plain + (down ? weight_words<P>(L::in, L::out) : 0);
  static constexpr int params = bias + (L::bias ? full(L::out) : 0);
};

template <class Net, bool LOWEST> BPX_FN constexpr int tensor_packed(Layers<>) { return 0; }
template <class Net, bool LOWEST, class L, class... Rest> BPX_FN constexpr int tensor_packed(Layers<L, Rest...>) {
  return TensorPacked<Net, L, LOWEST>::params + tensor_packed<Net, false>(Layers<Rest...>());
}

/// `from` holds W and b of every layer, contiguous.
template <class Net, bool LOWEST> BPX_FN void tensor_pack(Layers<>, const float* const*, Word*) {}
template <class Net, bool LOWEST, class L, class... Rest>
BPX_FN void tensor_pack(Layers<L, Rest...>, const float* const* from, Word* to) {
  using P = TensorPacked<Net, L, LOWEST>;
  using Precision = typename Net::Precision;
  const auto weight = [&](int o, int i) { return o < L::out && i < L::in ? from[0][o * L::in + i] : 0.0f; };
  for (int at = blockIdx.x * blockDim.x + threadIdx.x; at < P::params; at += gridDim.x * blockDim.x) {
    if (at >= P::bias) to[at] = __float_as_uint(at - P::bias < L::out ? from[1][at - P::bias] : 0.0f);
    else if (at < P::plain) to[at] = weight_word<Precision>(at, L::in, weight);
    else to[at] = weight_word<Precision>(at - P::plain, L::out, [&](int i, int o) { return weight(o, i); });
  }
  tensor_pack<Net, false>(Layers<Rest...>(), from + 2, to + P::params);
}

// ---- signals ----------------------------------------------------------------------------------------------------

template <class Net> BPX_FN constexpr int signal(int features) { return full(features) * pitch<Net>; }

/// Where feature f of sample s stands, which begins a word.
template <class Net> BPX_FN constexpr int place(int f, int s) { return f * pitch<Net> + s / each<Net>; }

/// So many numbers as a thread has words for, to and from memory.
template <class Net> BPX_FN void put(const float (&numbers)[samples<Net>], Word* to) {
  Words<across<Net>> words;
  BPX_UNROLL
  for (int k = 0; k < across<Net>; ++k) words.w[k] = Net::Precision::word(numbers + k * each<Net>);
  *(Words<across<Net>>*)to = words;
}
template <class Net> BPX_FN void get(const Word* from, float (&numbers)[samples<Net>]) {
  const Words<across<Net>> words = *(const Words<across<Net>>*)from;
  BPX_UNROLL
  for (int k = 0; k < across<Net>; ++k) Net::Precision::numbers(words.w[k], numbers + k * each<Net>);
}

/// Zeros for what is no feature or no sample.
template <class Net, int FEATURES>
BPX_FN void clear_rest(const BlockTile<float>& tile, int f, int s, float (&numbers)[samples<Net>]) {
  BPX_UNROLL
  for (int k = 0; k < samples<Net>; ++k) {
    if ((FEATURES % 16 && f >= FEATURES) || s + k >= tile.valid) numbers[k] = 0.0f;
  }
}

/// to[f][s] = x[s][first + f] for f < width
template <class Net> BPX_FN void load_words(const BlockTile<float>& tile, int first, int width, Word* to) {
  const BlockArgs<float>& args = *tile.args;
  const float* const from = args.x + tile.first * args.x_row + first * args.x_column;
  const int features = full(width);
  each_of<Net>(features * words<Net>, [&](int at) {
    // eight features of some samples in a warp: whole sectors of memory, and few conflicts in shared memory
    const int s = at / 8 % words<Net> * each<Net>, f = at / (8 * words<Net>) * 8 + at % 8;
    float numbers[each<Net>];
    BPX_UNROLL
    for (int k = 0; k < each<Net>; ++k) {
      numbers[k] = f < width && s + k < tile.valid ? from[(s + k) * args.x_row + f * args.x_column] : 0.0f;
    }
    to[place<Net>(f, s)] = Net::Precision::word(numbers);
  });
}

/// The gradients z (OUT, samples) as words, times a power of two; returns what undoes it.
template <class Net, int OUT> BPX_FN float scaled_gradients(const BlockTile<float>& tile, const float* z, Word* g) {
  Powers powers = {1.0f, 1.0f};
  if constexpr (Net::Precision::scaled) {
    float largest = 0.0f;
    each_of<Net>(OUT * Net::rows, [&](int at) {
      const float size = abs(z[at / Net::rows * stride<Net> + at % Net::rows]);
      if (size > largest && size < infinity()) largest = size;
    });
    tile.parts[threadIdx.x] = largest;
    for (int step = Net::threads / 2; step > 0; step /= 2) {
      __syncthreads();
      if (threadIdx.x < step && largest < tile.parts[threadIdx.x + step]) {
        largest = tile.parts[threadIdx.x] = tile.parts[threadIdx.x + step];
      }
    }
    __syncthreads();
    powers = powers_for(tile.parts[0]);
  }
  each_of<Net>(full(OUT) * words<Net>, [&](int at) {
    const int f = at / words<Net>, s = at % words<Net> * each<Net>;
    float numbers[each<Net>];
    BPX_UNROLL
    for (int k = 0; k < each<Net>; ++k) numbers[k] = f < OUT ? z[f * stride<Net> + s + k] * powers.up : 0.0f;
    g[place<Net>(f, s)] = Net::Precision::word(numbers);
  });
  return powers.down;
}

// ---- one tile -----------------------------------------------------------------------------------------------------

/// store(o, s, t) for what a layer makes of its inputs, t = W z + b; z is brought if they are x.
template <class Net, class L, bool LOWEST, class Store>
BPX_FN void tensor_forward(const BlockTile<float>& tile, const Word* params, Word* z, Store store) {
  constexpr int depth = LOWEST && Net::slice < L::in ? Net::slice : L::in;
  const float* const bias = L::bias ? (const float*)(params + TensorPacked<Net, L, LOWEST>::bias) : nullptr;
  const auto load = [&](int from, int width) {
    if (from > 0 || depth < L::in) __syncthreads();
    load_words<Net>(tile, from, width, z);
    __syncthreads();
  };
  if constexpr (LOWEST && depth == L::in) load(0, L::in);
  matrix_product<Net, L::out, L::in, depth>(params, bias, z, load, store);
}

/// f(t) in words, with f' if Net::backward.
template <class Net, class L, bool LOWEST>
BPX_FN void tensor_hidden(const BlockTile<float>& tile, const Word* params, const float* scalars, Word* z_in, Word* z,
                          Word* slope) {
  tensor_forward<Net, L, LOWEST>(tile, params, z_in, [&](int o, int s, float (&t)[samples<Net>]) {
    float grad[samples<Net>];
    BPX_UNROLL
    for (int k = 0; k < samples<Net>; ++k) {
      grad[k] = 1.0f;
      if constexpr (!L::identity) {
        const float sum = t[k];
        if constexpr (Net::backward) L::Act::both(sum, scalars, t[k], grad[k]);
        else t[k] = L::Act::value(sum, scalars);
      }
    }
    clear_rest<Net, L::out>(tile, o, s, t);
    put<Net>(t, z + place<Net>(o, s));
    if constexpr (Net::backward && !L::identity) put<Net>(grad, slope + place<Net>(o, s));
  });
}

/// f(t) in float, with f' if Net::backward: of the last layer.
template <class Net, class L, bool LOWEST>
BPX_FN void tensor_outputs(const BlockTile<float>& tile, const Word* params, const float* scalars, Word* z_in, float* z,
                           float* slope) {
  tensor_forward<Net, L, LOWEST>(tile, params, z_in, [&](int o, int s, const float (&t)[samples<Net>]) {
    if (o >= L::out) return;
    BPX_UNROLL
    for (int k = 0; k < samples<Net>; ++k) {
      float value = t[k], grad;
      if constexpr (!L::identity) {
        if constexpr (Net::backward) {
          L::Act::both(t[k], scalars, value, grad);
          slope[o * stride<Net> + s + k] = grad;
        } else {
          value = L::Act::value(t[k], scalars);
        }
      }
      z[o * stride<Net> + s + k] = s + k < tile.valid ? value : 0.0f;
    }
  });
}

/// Words of shared memory that a layer and those above it take: z and f', which becomes grad_t; of the last one grad_t,
/// and z and f' in float.
template <class Net> BPX_FN constexpr int tensor_numbers(Layers<>) { return 0; }
template <class Net, class L, class... Rest> BPX_FN constexpr int tensor_numbers(Layers<L, Rest...>) {
  constexpr int mine = signal<Net>(L::out);
  if constexpr (sizeof...(Rest) > 0) return (Net::backward ? 2 : 1) * mine + tensor_numbers<Net>(Layers<Rest...>());
  else return (Net::backward ? mine : 0) + (Net::backward && !L::identity ? 2 : 1) * L::out * stride<Net>;
}

/// Layers from L on: z_in is the output of the layer BELOW, whose f' in g_in becomes its grad_t. Returns the factor of all
/// that is computed from gradients.
template <class Net, class BELOW, class L, class... Rest>
BPX_FN float tensor_backprop(Layers<L, Rest...>, const BlockTile<float>& tile, const Word* params, const float* scalars,
                             float* sums, Word* z_in, Word* g_in, Word* memory) {
  constexpr bool lowest = IsVoid<BELOW>::value, top = sizeof...(Rest) == 0;
  using P = TensorPacked<Net, L, lowest>;
  Word* const g = top ? memory : memory + signal<Net>(L::out);
  float undo;
  if constexpr (top) {
    float *const z = (float*)(memory + signal<Net>(L::out)), *const slope = z + L::out * stride<Net>;
    tensor_outputs<Net, L, lowest>(tile, params, scalars, z_in, z, slope);
    __syncthreads();
    BlockLoss<Net, typename Net::Loss>::template run<L>(tile, scalars + L::Act::params, z, slope);
    __syncthreads();
    undo = scaled_gradients<Net, L::out>(tile, z, g);
    __syncthreads();
  } else {
    tensor_hidden<Net, L, lowest>(tile, params, scalars, z_in, memory, g);
    __syncthreads();
    undo = tensor_backprop<Net, L>(Layers<Rest...>(), tile, params + P::params, scalars + L::Act::params, sums + L::params,
                                   memory, g, g + signal<Net>(L::out));
  }
  float* const bias = L::bias ? sums + L::weights : nullptr;
  if constexpr (!lowest || L::in <= Net::slice) {
    tensor_gradient<Net, L::out, L::in>(g, z_in, L::in, undo, sums, L::in, bias, tile.add);
  } else {
    for (int from = 0; from < L::in; from += Net::slice) {
      const int width = L::in - from < Net::slice ? L::in - from : Net::slice;
      load_words<Net>(tile, from, width, z_in);
      __syncthreads();
      tensor_gradient<Net, L::out, Net::slice>(g, z_in, width, undo, sums + from, L::in, from == 0 ? bias : nullptr, tile.add);
      __syncthreads();
    }
  }
  if constexpr (!lowest || Net::input_grad) {
    const auto load = [](int, int) {};
    matrix_product<Net, L::in, L::out, L::out>(params + P::plain, nullptr, g, load, [&](int i, int s, float (&grad)[samples<Net>]) {
      if constexpr (lowest) {
        BPX_UNROLL
        for (int k = 0; k < samples<Net>; ++k) {
          if (i < L::in && s + k < tile.valid) tile.args->x_grad[(tile.first + s + k) * L::in + i] = grad[k] * undo;
        }
      } else {
        Word* const at = g_in + place<Net>(i, s);
        float slope[samples<Net>];
        if constexpr (!BELOW::identity) get<Net>(at, slope);
        BPX_UNROLL
        for (int k = 0; k < samples<Net>; ++k) {
          if constexpr (!BELOW::identity) grad[k] = grad[k] * slope[k];
        }
        clear_rest<Net, L::in>(tile, i, s, grad);
        put<Net>(grad, at);
      }
    });
  }
  __syncthreads();
  return undo;
}

/// The outputs: where they stand.
template <class Net, bool LOWEST, class L, class... Rest>
BPX_FN const float* tensor_infer(Layers<L, Rest...>, const BlockTile<float>& tile, const Word* params, const float* scalars,
                                 Word* z_in, Word* memory) {
  if constexpr (sizeof...(Rest) == 0) {
    tensor_outputs<Net, L, LOWEST>(tile, params, scalars, z_in, (float*)memory, nullptr);
    __syncthreads();
    return (const float*)memory;
  } else {
    tensor_hidden<Net, L, LOWEST>(tile, params, scalars, z_in, memory, nullptr);
    __syncthreads();
    return tensor_infer<Net, false>(Layers<Rest...>(), tile, params + TensorPacked<Net, L, LOWEST>::params,
                                    scalars + L::Act::params, memory, memory + signal<Net>(L::out));
  }
}

template <class NET> struct TensorPass {
  using Net = NET;
  using Layers = typename Net::Layers;
  static constexpr int x = signal<Net>(Net::slice);
  static constexpr int shared = x + tensor_numbers<Net>(Layers()), packed = tensor_packed<Net, true>(Layers());
  static constexpr int params = Layers::params, out = Last<Layers>::Type::out;
  BPX_FN static void pack(const float* const* from, float* to) { tensor_pack<Net, true>(Layers(), from, (Word*)to); }
  BPX_FN static void backprop(const BlockTile<float>& tile, float* sums, float* memory) {
    Word* const x_words = (Word*)memory;
    tensor_backprop<Net, void>(Layers(), tile, (const Word*)tile.args->params, tile.args->scalars, sums, x_words,
                               (Word*)nullptr, x_words + x);
  }
  BPX_FN static const float* infer(const BlockTile<float>& tile, float* memory) {
    Word* const x_words = (Word*)memory;
    return tensor_infer<Net, true>(Layers(), tile, (const Word*)tile.args->params, tile.args->scalars, x_words, x_words + x);
  }
};

}  // namespace bpx
