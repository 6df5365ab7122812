#pragma once
#include "math.h"
// tanh(a) by a table, for processors that look up 32 numbers in two registers at once: half the work of an exponential
// and a division.

#if !BPX_CUDA
namespace bpx {

#if BPX_VECTOR_BYTES == 64 && defined(__AVX512F__)

template <class T> constexpr bool has_tanh_table = false;
template <int U> constexpr bool has_tanh_table<Pack<float, U>> = true;

// Polynomials in a - j / 4 around j / 4 for |a - j / 4| <= 1/8, coefficients of one power in a row: of tanh(a) for j < 3
// and of 1 - tanh(a) from there on, each to 2^-24 of its value (minimax fits, coefficients rounded one by one).
alignas(64) constexpr float tanh_table[6][32] = {
    {0.0f, 2.4491866e-1f, 4.6211717e-1f, 3.6485106e-1f, 2.3840584e-1f, 1.5171637e-1f, 9.485175e-2f,
     5.862446e-2f, 3.597242e-2f, 2.1973886e-2f, 1.3385702e-2f, 8.140275e-3f, 4.9452465e-3f, 3.0023644e-3f,
     1.8221023e-3f, 1.1055573e-3f, 6.707003e-4f, 4.0685394e-4f, 2.4678916e-4f, 1.4969245e-4f, 9.079574e-5f,
     5.507138e-5f, 3.3402845e-5f, 2.0259982e-5f, 1.2288349e-5f, 7.4532786e-6f, 4.5206484e-6f, 2.7419144e-6f,
     1.6630561e-6f, 1.0086948e-6f, 6.1180447e-7f, 3.7107822e-7f},
    {1.0f, 9.40015e-1f, 7.8644776e-1f, -5.965858e-1f, -4.1997433e-1f, -2.8041488e-1f, -1.8070665e-1f,
     -1.138121e-1f, -7.065082e-2f, -4.3464918e-2f, -2.6592227e-2f, -1.6214287e-2f, -9.866037e-3f,
     -5.9957146e-3f, -3.6408845e-3f, -2.2098925e-3f, -1.3409507e-3f, -8.1354234e-4f, -4.9351744e-4f,
     -2.993625e-4f, -1.8158322e-4f, -1.1013973e-4f, -6.680457e-5f, -4.0519553e-5f, -2.4576548e-5f,
     -1.4906501e-5f, -9.041276e-6f, -5.483821e-6f, -3.3261092e-6f, -2.0173884e-6f, -1.2236085e-6f,
     -7.421563e-7f},
    {0.0f, -2.3021933e-1f, -3.634284e-1f, 3.789156e-1f, 3.1985253e-1f, 2.3787014e-1f, 1.6356675e-1f,
     1.0714019e-1f, 6.810922e-2f, 4.2509574e-2f, 2.623618e-2f, 1.6082313e-2f, 9.817121e-3f, 5.9777275e-3f,
     3.6342496e-3f, 2.2074194e-3f, 1.3400386e-3f, 8.1321376e-4f, 4.9338874e-4f, 2.993172e-4f, 1.8156621e-4f,
     1.101335e-4f, 6.680159e-5f, 4.051849e-5f, 2.4576095e-5f, 1.490631e-5f, 9.041274e-6f, 5.4837897e-6f,
     3.3260767e-6f, 2.0174004e-6f, 1.223596e-6f, 7.421466e-7f},
    {-3.333277e-1f, -2.5699377e-1f, -9.42192e-2f, -4.1801203e-2f, -1.035964e-1f, -1.08304776e-1f,
     -8.781385e-2f, -6.292152e-2f, -4.2109262e-2f, -2.7087498e-2f, -1.7021077e-2f, -1.0546718e-2f,
     -6.479691e-3f, -3.9613014e-3f, -2.4140587e-3f, -1.4683024e-3f, -8.9213916e-4f, -5.41716e-4f,
     -3.287527e-4f, -1.9948855e-4f, -1.2102492e-4f, -7.341559e-5f, -4.453205e-5f, -2.7011538e-5f,
     -1.6383727e-5f, -9.937614e-6f, -6.0276952e-6f, -3.6559247e-6f, -2.2174127e-6f, -1.3449917e-6f,
     -8.157427e-7f, -4.947505e-7f},
    {0.0f, 1.3814865e-1f, 1.637352e-1f, -9.939746e-2f, -2.8122818e-2f, 1.2428114e-2f, 2.4826996e-2f,
     2.3472978e-2f, 1.7901236e-2f, 1.2349785e-2f, 8.064095e-3f, 5.107529e-3f, 3.1895079e-3f, 1.9596089e-3f,
     1.2006334e-3f, 7.34332e-4f, 4.4660066e-4f, 2.7081376e-4f, 1.6500274e-4f, 9.991903e-5f, 6.0646766e-5f,
     3.6785612e-5f, 2.2357359e-5f, 1.3546293e-5f, 8.216956e-6f, 4.9835444e-6f, 3.0174715e-6f, 1.8327014e-6f,
     1.1127032e-6f, 6.7296446e-7f, 4.0947307e-7f, 2.4850394e-7f},
    {1.3216753e-1f, 7.427792e-2f, -2.5703296e-2f, 6.312502e-2f, 4.5654453e-2f, 1.8889442e-2f, 2.6052727e-3f,
     -3.6649513e-3f, -4.761378e-3f, -3.9881147e-3f, -2.8532983e-3f, -1.8967362e-3f, -1.2420886e-3f,
     -7.581452e-4f, -4.695728e-4f, -2.9449345e-4f, -1.7922962e-4f, -1.0697721e-4f, -6.655698e-5f,
     -3.968694e-5f, -2.4084158e-5f, -1.4620084e-5f, -8.9271425e-6f, -5.398617e-6f, -3.2807732e-6f,
     -1.9818365e-6f, -1.1925749e-6f, -7.282229e-7f, -4.4379544e-7f, -2.653812e-7f, -1.6339233e-7f,
     -1.0027231e-7f},
};
constexpr float tanh_table_end = 7.875f;  // where the 32 pieces end

/// The coefficients of this power for the pieces in the last five bits of `pieces`.
BPX_FN Pack<float, 1> tanh_coefficients(int power, Pack<float, 1> pieces) {
  const VF* const row = (const VF*)tanh_table[power];
  return {permute(row[0], row[1], reinterpret<IF>(pieces.v))};
}
template <int U> BPX_FN Pack<float, U> tanh_coefficients(int power, Pack<float, U> pieces) {
  return {tanh_coefficients(power, pieces.lo), tanh_coefficients(power, pieces.hi)};
}

/// z = tanh(a) and u = 1 - z, both within 2 ULP, for 0 <= a < tanh_table_end; anything for other a.
template <class T> BPX_FN void tanh_near(T a, T& z, T& u) {
  const T magic = c<T>(3145728.0f);  // 1.5 * 2^21: adding it rounds to quarters
  const T pieces = a + magic, center = pieces - magic, d = a - center;
  T sum = tanh_coefficients(5, pieces);
  BPX_UNROLL
  for (int power = 4; power >= 0; --power) sum = fma(sum, d, tanh_coefficients(power, pieces));
  const auto small = center < c<T>(0.625f);
  const T rest = c<T>(1.0f) - sum;
  z = where(small, sum, rest);
  u = where(small, rest, sum);
}

BPX_FN unsigned far_lanes(Pack<float, 1> a) {  // not less than the end: NaN is far too
  return __builtin_ia32_cmpps512_mask(a.v, VF{} + tanh_table_end, 5, -1, 4);
}
template <int U> BPX_FN unsigned far_lanes(Pack<float, U> a) { return far_lanes(a.lo) | far_lanes(a.hi); }

#else
template <class T> constexpr bool has_tanh_table = false;
constexpr float tanh_table_end = 0.0f;
#endif

template <class T> struct ValueAndSlope { T value, slope; };

/// F's value and slope by F::exact where a is far.
template <class F, class T>
static __attribute__((noinline, cold)) ValueAndSlope<T> with_far(T t, T a, ValueAndSlope<T> near) {
  ValueAndSlope<T> exact;
  F::exact(t, exact.value, exact.slope);
  const auto by_table = a < c<T>(tanh_table_end);
  return {where(by_table, near.value, exact.value), where(by_table, near.slope, exact.slope)};
}

}  // namespace bpx
#endif
