// Sixteen numbers at a time: reading them from whatever they are kept in, sums, exponentials; and instructions.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#if defined(__AVX512BF16__) && defined(__AVX512VL__)
#define DOT_BF16 1
#endif
#endif

namespace {

#define UNROLLED _Pragma("GCC unroll 8")

constexpr int LANES = 16;
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef int8_t Bytes __attribute__((vector_size(LANES)));
typedef uint8_t Octets __attribute__((vector_size(LANES)));

struct bf16 {
  uint16_t bits;
};

enum Type : int64_t { F32, BF16, INT8, INT4 };
enum Op : int64_t { LINEAR, RMS_NORM, LAYER_NORM, ROTATE, STORE, ATTEND, ADD, MUL, SILU, GELU, GELU_TANH, RELU, CAST, EMBED };

struct Instruction {
  int64_t op, type, weight_type;
  void *p[10];
  int64_t n[20];
  double f[4];
};

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float out;
  memcpy(&out, &bits, 4);
  return out;
}
inline void put(float *at, float x) { *at = x; }
inline void put(bf16 *at, float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  at->bits = x != x ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <typename V, typename T> inline V read(const T *at) {
  V out;
  memcpy(&out, at, sizeof(V));
  return out;
}
inline Floats load(const float *at) { return read<Floats>(at); }
inline Floats load(const bf16 *at) { return (Floats)(__builtin_convertvector(read<Halves>(at), Words) << 16); }
#ifdef __AVX512F__
inline Floats widened(Bytes x) { return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)x)); }
inline Floats widened(Octets x) { return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32((__m128i)x)); }
#else
inline Floats widened(Bytes x) { return __builtin_convertvector(__builtin_convertvector(x, Ints), Floats); }
inline Floats widened(Octets x) { return __builtin_convertvector(__builtin_convertvector(x, Ints), Floats); }
#endif
inline Floats load(const int8_t *at) { return widened(read<Bytes>(at)); }
inline void save(float *at, Floats x) { memcpy(at, &x, sizeof x); }
inline void save(bf16 *at, Floats x) {
#ifdef DOT_BF16
  __m256bh rounded = _mm512_cvtneps_pbh((__m512)x);
  memcpy(at, &rounded, 32);
#else
  for (int i = 0; i < LANES; i++) put(at + i, x[i]);
#endif
}
inline Floats all(float x) { return Floats{} + x; }

// The sum of all lanes: those 8 apart first, then 4, 2 and 1 apart. `sums` takes several at once, in the same order.
#ifdef __AVX512F__
inline float sum(Floats x) { return _mm512_reduce_add_ps((__m512)x); }

inline __m512 halved8(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}
inline __m512 halved4(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
inline __m512 halved2(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
}
inline __m512 halved1(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}
inline __m512 quarters(const Floats x[4]) {
  return halved4(halved8((__m512)x[0], (__m512)x[1]), halved8((__m512)x[2], (__m512)x[3]));
}

template <int COUNT> inline void sums(const Floats x[COUNT], float out[COUNT]) {
  if constexpr (COUNT == 16) {
    const __m512 low = halved2(quarters(x), quarters(x + 4)), high = halved2(quarters(x + 8), quarters(x + 12));
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    _mm512_storeu_ps(out, _mm512_permutexvar_ps(order, halved1(low, high)));
  } else if constexpr (COUNT == 4) {
    __m512 all = quarters(x);
    all = halved2(all, all);
    all = halved1(all, all);
    alignas(64) float mixed[16];
    _mm512_store_ps(mixed, all);
    for (int i = 0; i < 4; i++) out[i] = mixed[i * 4];
  } else {
    for (int i = 0; i < COUNT; i++) out[i] = sum(x[i]);
  }
}
#else
inline float sum(Floats x) {
  for (int step = LANES / 2; step; step /= 2)
    for (int i = 0; i < step; i++) x[i] += x[i + step];
  return x[0];
}
template <int COUNT> inline void sums(const Floats x[COUNT], float out[COUNT]) {
  for (int i = 0; i < COUNT; i++) out[i] = sum(x[i]);
}
#endif

// exp by a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes); relative error below 2e-7
inline Floats exp_(Floats x) {
  const Floats low = all(-87.3f), high = all(88.3f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  Floats n = x * 1.44269504088896341f;
  Ints whole = __builtin_convertvector(n + (n < all(0) ? all(-0.5f) : all(0.5f)), Ints);
  n = __builtin_convertvector(whole, Floats);
  x = x - n * 0.693359375f + n * 2.12194440e-4f;
  Floats y = all(1.9875691500e-4f);
  y = y * x + 1.3981999507e-3f;
  y = y * x + 8.3334519073e-3f;
  y = y * x + 4.1665795894e-2f;
  y = y * x + 1.6666665459e-1f;
  y = y * x + 5.0000001201e-1f;
  y = y * x * x + x + 1.0f;
  return y * (Floats)((whole + 127) << 23);
}

inline Floats silu(Floats x) { return x / (1.0f + exp_(-x)); }
inline Floats relu(Floats x) { return x > all(0) ? x : all(0); }
inline Floats tanh_(Floats x) { return 1.0f - 2.0f / (exp_(2.0f * x) + 1.0f); }
inline Floats gelu_tanh(Floats x) { return 0.5f * x * (1.0f + tanh_(0.7978845608028654f * (x + 0.044715f * x * x * x))); }
inline Floats gelu(Floats x) {  // erf after Abramowitz and Stegun 7.1.26: absolute error below 2e-7
  Floats z = x * 0.70710678118654752f, a = z < all(0) ? -z : z, t = 1.0f / (1.0f + 0.3275911f * a);
  Floats poly = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
  Floats erf = 1.0f - poly * exp_(-a * a);
  return 0.5f * x * (1.0f + (z < all(0) ? -erf : erf));
}

struct Share {
  int64_t begin, end;
};
inline Share share(int64_t count, int thread, int threads) {
  return {count * thread / threads, count * (thread + 1) / threads};
}

inline float *scratch(size_t size, int which = 0) {
  static thread_local std::vector<float> kept[3];
  if (kept[which].size() < size) kept[which].resize(size);
  return kept[which].data();
}

}  // namespace
