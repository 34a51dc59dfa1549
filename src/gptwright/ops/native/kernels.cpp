// The kernels of decoding: a few rows against all weights, where time is bytes read from memory.
//
// A program is a list of instructions with fixed pointers. `gptwright_run` walks through it with a team of threads,
// which share the work of each instruction and wait for each other between two; so a token costs one call.
//
// Whatever a row is computed with, its sums are taken in one order: a row's result does not depend, not even in the
// last bit, on how many rows there are. Sums are fp32; bf16 is rounded to nearest even.
//
// Shapes: R rows, K inputs, N outputs, B sequences, H query heads, J key-value heads, T queries of a sequence,
// S keys, d and e widths.

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
#ifdef _OPENMP
#include <atomic>
#include <omp.h>
#include <sched.h>
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

// ---------------------------------------------------------------- y = x w' + b

// Weights are fetched into the second cache in good time: the processor by itself looks no further than a row, and has
// room for too few lines on their way to the first. One row of weights after the other is what memory likes best.
template <int OUTS> inline void fetch(const void *at, int64_t row_bytes) {
  __builtin_prefetch((const char *)at + (OUTS == 1 ? 4096 : OUTS * row_bytes), 0, 2);
}

// Sums of `OUTS` rows of w against `ROWS` rows of x, all over k in one order.
template <int OUTS, int ROWS, typename W> inline void dots(const W *w, const float *x, int64_t K, float out[OUTS][ROWS]) {
  constexpr int LINE = 64 / sizeof(W);
  Floats total[OUTS][ROWS] = {};
  const auto step = [&](int64_t k) {
    Floats right[ROWS];
    UNROLLED for (int r = 0; r < ROWS; r++) right[r] = load(x + r * K + k);
    UNROLLED for (int o = 0; o < OUTS; o++) {
      const Floats left = load(w + o * K + k);
      UNROLLED for (int r = 0; r < ROWS; r++) total[o][r] += left * right[r];
    }
  };
  int64_t k = 0;
  for (; k + LINE <= K; k += LINE) {
    UNROLLED for (int o = 0; o < OUTS; o++) fetch<OUTS>(w + o * K + k, K * sizeof(W));
    UNROLLED for (int i = 0; i < LINE; i += LANES) step(k + i);
  }
  for (; k + LANES <= K; k += LANES) step(k);
  sums<OUTS * ROWS>(&total[0][0], &out[0][0]);
  for (; k < K; k++)
    for (int o = 0; o < OUTS; o++)
      for (int r = 0; r < ROWS; r++) out[o][r] = std::fmaf(to_float(w[o * K + k]), x[r * K + k], out[o][r]);
}

#ifdef DOT_BF16
inline __m512bh pairs(const bf16 *at) { return (__m512bh)_mm512_loadu_si512(at); }
inline __m512bh pairs(const int8_t *at) {  // which bf16 holds exactly
  return _mm512_cvtne2ps_pbh((__m512)load(at + LANES), (__m512)load(at));
}

// As above with bf16 inputs: 32 weights at a time.
template <int OUTS, int ROWS, typename W> inline void dots(const W *w, const bf16 *x, int64_t K, float out[OUTS][ROWS]) {
  Floats total[OUTS][ROWS] = {};
  int64_t k = 0;
  for (; k + 32 <= K; k += 32) {
    __m512bh right[ROWS];
    UNROLLED for (int r = 0; r < ROWS; r++) right[r] = (__m512bh)_mm512_loadu_si512(x + r * K + k);
    UNROLLED for (int o = 0; o < OUTS; o++) {
      if (sizeof(W) == 2 || k % 64 == 0) fetch<OUTS>(w + o * K + k, K * sizeof(W));
      const __m512bh left = pairs(w + o * K + k);
      UNROLLED for (int r = 0; r < ROWS; r++)
        total[o][r] = (Floats)_mm512_dpbf16_ps((__m512)total[o][r], left, right[r]);
    }
  }
  sums<OUTS * ROWS>(&total[0][0], &out[0][0]);
  for (; k < K; k++)
    for (int o = 0; o < OUTS; o++)
      for (int r = 0; r < ROWS; r++) out[o][r] = std::fmaf(to_float(w[o * K + k]), to_float(x[r * K + k]), out[o][r]);
}
#endif

constexpr int GROUP = 32;  // weights that share a scale and an offset in int4

// The weights of a group by their nibbles: the low ones, then the high ones.
#ifdef __AVX512F__
inline void expand(Octets both, float scale, float offset, Floats &low, Floats &high) {
  const __m512 steps = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512 values = _mm512_fmadd_ps(steps, _mm512_set1_ps(scale), _mm512_set1_ps(offset));
  const __m512i nibbles = _mm512_cvtepu8_epi32((__m128i)both);
  low = (Floats)_mm512_permutexvar_ps(nibbles, values);  // which looks at the lowest four bits
  high = (Floats)_mm512_permutexvar_ps(_mm512_srli_epi32(nibbles, 4), values);
}
#else
inline void expand(Octets both, float scale, float offset, Floats &low, Floats &high) {
  low = widened(both & 15) * scale + offset;
  high = widened(both >> 4) * scale + offset;
}
#endif

template <int OUTS, int ROWS>
inline void dots4(const uint8_t *w, const bf16 *scale, const bf16 *offset, const float *x, int64_t K,
                  float out[OUTS][ROWS]) {
  const int64_t groups = K / GROUP;
  Floats total[OUTS][ROWS] = {};
  for (int64_t g = 0; g < groups; g++) {
    UNROLLED for (int o = 0; o < OUTS; o++) {
      Floats low, high;
      const int64_t at = o * groups + g;
      if (g % 4 == 0) fetch<OUTS>(w + at * (GROUP / 2), K / 2);
      expand(read<Octets>(w + at * (GROUP / 2)), to_float(scale[at]), to_float(offset[at]), low, high);
      UNROLLED for (int r = 0; r < ROWS; r++) {
        const float *from = x + r * K + g * GROUP;
        total[o][r] += low * load(from);
        total[o][r] += high * load(from + LANES);
      }
    }
  }
  sums<OUTS * ROWS>(&total[0][0], &out[0][0]);
}

#ifdef DOT_BF16
// As above with bf16 inputs: nibbles are exact in bf16, so that two groups are two products, one of all low nibbles and
// one of all high ones, for which `mingled` has brought the inputs into that order. Offsets come by `sums_of_x`.
template <int OUTS, int ROWS>
inline void dots4(const uint8_t *w, const bf16 *scale, const bf16 *offset, const bf16 *x, const float *sums_of_x,
                  int64_t K, float out[OUTS][ROWS]) {
  static const uint16_t NIBBLES[16] = {0,      0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
                                       0x4100, 0x4110, 0x4120, 0x4130, 0x4140, 0x4150, 0x4160, 0x4170};
  // twice: the fifth bit of an index is a neighbour's
  const __m512i table = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)NIBBLES));
  const int64_t groups = K / GROUP;
  Floats total[OUTS][ROWS] = {};
  for (int64_t first = 0; first < groups; first += LANES) {
    const int64_t count = groups - first < LANES ? groups - first : LANES;
    const __mmask16 there = __mmask16((1u << count) - 1);
    Floats scales[OUTS];
    UNROLLED for (int o = 0; o < OUTS; o++)
      scales[o] = (Floats)_mm512_slli_epi32(
          _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, scale + o * groups + first)), 16);
    __m512i which = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(1), 1);
    for (int64_t g = first; g < first + count; g += 2, which = _mm512_add_epi32(which, _mm512_set1_epi32(2))) {
      __m512bh low_x[ROWS], high_x[ROWS];
      UNROLLED for (int r = 0; r < ROWS; r++) {
        low_x[r] = pairs(x + r * K + g * GROUP);
        high_x[r] = pairs(x + r * K + (g + 1) * GROUP);
      }
      UNROLLED for (int o = 0; o < OUTS; o++) {
        const uint8_t *from = w + (o * groups + g) * (GROUP / 2);
        if (g % 4 == 0) fetch<OUTS>(from, K / 2);
        const __m512i both = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)from));
        const __m512bh low = (__m512bh)_mm512_permutexvar_epi16(both, table);
        const __m512bh high = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(both, 4), table);
        const Floats by = (Floats)_mm512_permutexvar_ps(which, (__m512)scales[o]);
        UNROLLED for (int r = 0; r < ROWS; r++)
          total[o][r] += (Floats)_mm512_dpbf16_ps(_mm512_dpbf16_ps(_mm512_setzero_ps(), low, low_x[r]), high, high_x[r]) * by;
      }
    }
  }
  int64_t g = 0;
  for (; g + LANES <= groups; g += LANES)
    for (int o = 0; o < OUTS; o++)
      for (int r = 0; r < ROWS; r++) total[o][r] += load(offset + o * groups + g) * load(sums_of_x + r * groups + g);
  sums<OUTS * ROWS>(&total[0][0], &out[0][0]);
  for (; g < groups; g++)
    for (int o = 0; o < OUTS; o++)
      for (int r = 0; r < ROWS; r++)
        out[o][r] = std::fmaf(to_float(offset[o * groups + g]), sums_of_x[r * groups + g], out[o][r]);
}

// The inputs (R, K) with the first halves of two groups side by side, and then their second halves.
inline const bf16 *mingled(const bf16 *x, int64_t R, int64_t K) {
  bf16 *out = (bf16 *)scratch(R * K / 2, 1);
  for (int64_t i = 0; i < R * K; i += 2 * GROUP)
    for (int quarter = 0; quarter < 4; quarter++)
      memcpy(out + i + (quarter % 2 * 2 + quarter / 2) * LANES, x + i + quarter * LANES, LANES * sizeof(bf16));
  return out;
}
#endif

// Calls `block<OUTS, ROWS>(first output, first row)` until all N outputs of this thread and all R rows are done.
template <int OUTS, int ROWS, typename F> inline int64_t tiles_of(Share mine, int64_t r, int64_t R, F block) {
  for (; r + ROWS <= R; r += ROWS) {
    int64_t n = mine.begin;
    for (; n + OUTS <= mine.end; n += OUTS) block.template operator()<OUTS, ROWS>(n, r);
    for (; n < mine.end; n++) block.template operator()<1, ROWS>(n, r);
  }
  return r;
}
template <int SINGLE, typename F> inline void tiles(int64_t N, int64_t R, int thread, int threads, F block) {
  constexpr int64_t PANEL = 32;  // outputs whose weights stay in the cache for all rows
  const Share mine = share(N, thread, threads);
  if (R == 1) {
    tiles_of<SINGLE, 1>(mine, 0, R, block);
    return;
  }
  for (int64_t n = mine.begin; n < mine.end; n += PANEL) {
    const Share panel = {n, n + PANEL < mine.end ? n + PANEL : mine.end};
    int64_t r = tiles_of<2, 8>(panel, 0, R, block);
    r = tiles_of<4, 4>(panel, r, R, block);
    r = tiles_of<4, 2>(panel, r, R, block);
    tiles_of<4, 1>(panel, r, R, block);
  }
}

template <typename X> inline const float *as_floats(const X *x, int64_t R, int64_t K, int64_t stride) {
  float *wide = scratch(R * K);
  for (int64_t r = 0; r < R; r++)
    for (int64_t k = 0; k < K; k++) wide[r * K + k] = to_float(x[r * stride + k]);
  return wide;
}

// p: x, w, y, bias, scale, offset; n: R, K, N, row strides of x and y
template <typename X> struct Linear {
  const Instruction &in;
  int64_t R = in.n[0], K = in.n[1], N = in.n[2], x_stride = in.n[3], y_stride = in.n[4];
  X *y = (X *)in.p[2];
  const X *bias = (const X *)in.p[3];

  template <int OUTS, int ROWS> void write(int64_t n, int64_t r, float out[OUTS][ROWS], const float *scale) const {
#ifdef DOT_BF16
    if constexpr (OUTS == 2 && ROWS == 8 && sizeof(X) == 2) {  // most of the work: sixteen at once
      __m512 value = _mm512_loadu_ps(&out[0][0]);
      const auto both = [](float low, float high) {
        return _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(low), _mm512_set1_ps(high));
      };
      if (scale || bias)
        value = _mm512_fmadd_ps(value, scale ? both(scale[n], scale[n + 1]) : _mm512_set1_ps(1),
                                bias ? both(to_float(bias[n]), to_float(bias[n + 1])) : _mm512_setzero_ps());
      const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(value);
      const __m128i low = _mm256_castsi256_si128(rounded), high = _mm256_extracti128_si256(rounded, 1);
      alignas(16) uint32_t pairs[8];
      _mm_store_si128((__m128i *)pairs, _mm_unpacklo_epi16(low, high));
      _mm_store_si128((__m128i *)pairs + 1, _mm_unpackhi_epi16(low, high));
      for (int i = 0; i < 8; i++) memcpy(y + (r + i) * y_stride + n, pairs + i, 4);
      return;
    }
#endif
    for (int o = 0; o < OUTS; o++)
      for (int i = 0; i < ROWS; i++) {
        float value = out[o][i];
        if (scale || bias) value = std::fmaf(value, scale ? scale[n + o] : 1, bias ? to_float(bias[n + o]) : 0);
        put(y + (r + i) * y_stride + n + o, value);
      }
  }

  template <typename W> void rows(const W *w, const float *scale, int thread, int threads) const {
    constexpr int SINGLE = sizeof(W) == 1 ? 4 : 1;  // narrow weights wait for sums, wide ones for memory
    const auto with = [&](auto *x) {
      tiles<SINGLE>(N, R, thread, threads, [&]<int OUTS, int ROWS>(int64_t n, int64_t r) {
        float out[OUTS][ROWS];
        dots<OUTS, ROWS, W>(w + n * K, x + r * K, K, out);
        write<OUTS, ROWS>(n, r, out, scale);
      });
    };
#ifdef DOT_BF16
    if constexpr (sizeof(X) == 2 && sizeof(W) < 4)
      if (x_stride == K) return with((const X *)in.p[0]);
#endif
    with(as_floats((const X *)in.p[0], R, K, x_stride));
  }

  void rows4(int thread, int threads) const {
#ifdef DOT_BF16
    if constexpr (sizeof(X) == 2)
      if (x_stride == K && K % (2 * GROUP) == 0) return rows4_bf16(thread, threads);
#endif
    const float *x = as_floats((const X *)in.p[0], R, K, x_stride);
    const int64_t groups = K / GROUP;
    const bf16 *scale = (const bf16 *)in.p[4], *offset = (const bf16 *)in.p[5];
    tiles<4>(N, R, thread, threads, [&]<int OUTS, int ROWS>(int64_t n, int64_t r) {
      float out[OUTS][ROWS];
      dots4<OUTS, ROWS>((const uint8_t *)in.p[1] + n * (K / 2), scale + n * groups, offset + n * groups, x + r * K, K, out);
      write<OUTS, ROWS>(n, r, out, nullptr);
    });
  }

#ifdef DOT_BF16
  void rows4_bf16(int thread, int threads) const {
    const int64_t groups = K / GROUP;
    const bf16 *x = (const bf16 *)in.p[0], *scale = (const bf16 *)in.p[4], *offset = (const bf16 *)in.p[5];
    float *sums = scratch(R * groups);
    for (int64_t i = 0; i < R * groups; i++) sums[i] = sum(load(x + i * GROUP) + load(x + i * GROUP + LANES));
    x = mingled(x, R, K);
    tiles<4>(N, R, thread, threads, [&]<int OUTS, int ROWS>(int64_t n, int64_t r) {
      float out[OUTS][ROWS];
      dots4<OUTS, ROWS>((const uint8_t *)in.p[1] + n * (K / 2), scale + n * groups, offset + n * groups, x + r * K,
                        sums + r * groups, K, out);
      write<OUTS, ROWS>(n, r, out, nullptr);
    });
  }
#endif

  void run(int thread, int threads) const {
    switch (in.weight_type) {
      case F32: return rows((const float *)in.p[1], nullptr, thread, threads);
      case INT8: return rows((const int8_t *)in.p[1], (const float *)in.p[4], thread, threads);
      case INT4: return rows4(thread, threads);
    }
    rows((const bf16 *)in.p[1], nullptr, thread, threads);
  }
};

// ---------------------------------------------------------------- norms, rotation, elementwise

// p: x, weight, bias, y; n: R, D; f: eps
template <typename X, bool CENTRED> void norm(const Instruction &in, int thread, int threads) {
  const int64_t R = in.n[0], D = in.n[1];
  const X *weight = (const X *)in.p[1], *bias = (const X *)in.p[2];
  Share mine = share(R, thread, threads);
  float *row = scratch(D);
  for (int64_t r = mine.begin; r < mine.end; r++) {
    const X *x = (const X *)in.p[0] + r * D;
    X *y = (X *)in.p[3] + r * D;
    Floats squares = {}, total = {};
    int64_t i = 0;
    float rest = 0, rest_squares = 0;
    for (; i + LANES <= D; i += LANES) {
      Floats part = load(x + i);
      save(row + i, part);
      total += part;
    }
    for (int64_t j = i; j < D; j++) rest += row[j] = to_float(x[j]);
    const float mean = CENTRED ? (sum(total) + rest) / D : 0;
    for (i = 0; i + LANES <= D; i += LANES) {
      Floats part = load(row + i) - mean;
      squares += part * part;
    }
    for (int64_t j = i; j < D; j++) rest_squares += (row[j] - mean) * (row[j] - mean);
    const float by = 1.0f / std::sqrt((sum(squares) + rest_squares) / D + float(in.f[0]));
    int64_t j = 0;
    for (; j + LANES <= D; j += LANES) {
      Floats value = (load(row + j) - mean) * by;
      if (weight) value *= load(weight + j);
      if (bias) value += load(bias + j);
      save(y + j, value);
    }
    for (; j < D; j++) {
      float value = (row[j] - mean) * by;
      if (weight) value *= to_float(weight[j]);
      put(y + j, bias ? value + to_float(bias[j]) : value);
    }
  }
}

// p: x (B, H, T, d), cos, sin (B or 1, T, r), y (B, H, T, d) contiguous; n: B, H, T, d, r, strides of x: B, H, T; stride of cos and sin: B, T
template <typename X> void rotate(const Instruction &in, int thread, int threads) {
  const int64_t B = in.n[0], H = in.n[1], T = in.n[2], d = in.n[3], r = in.n[4], half = r / 2;
  Share mine = share(B * H * T, thread, threads);
  for (int64_t i = mine.begin; i < mine.end; i++) {
    const int64_t t = i % T, h = i / T % H, b = i / (T * H);
    const X *x = (const X *)in.p[0] + b * in.n[5] + h * in.n[6] + t * in.n[7];
    const X *cos = (const X *)in.p[1] + b * in.n[8] + t * in.n[9], *sin = (const X *)in.p[2] + b * in.n[8] + t * in.n[9];
    X *y = (X *)in.p[3] + i * d;
    for (int64_t j = 0; j < half; j++) {
      const float low = to_float(x[j]), high = to_float(x[half + j]);
      put(y + j, low * to_float(cos[j]) - high * to_float(sin[j]));
      put(y + half + j, high * to_float(cos[half + j]) + low * to_float(sin[half + j]));
    }
    for (int64_t j = r; j < d; j++) y[j] = x[j];
  }
}

inline Floats apply(int64_t op, Floats x) {
  switch (op) {
    case SILU: return silu(x);
    case GELU: return gelu(x);
    case GELU_TANH: return gelu_tanh(x);
    default: return relu(x);
  }
}

// p: x, y or none, out; n: elements; f: factor of y
template <typename X, typename F> void pointwise(const Instruction &in, int thread, int threads, F work) {
  const X *x = (const X *)in.p[0], *y = (const X *)in.p[1];
  X *out = (X *)in.p[2];
  Share mine = share((in.n[0] + LANES - 1) / LANES, thread, threads);
  for (int64_t i = mine.begin * LANES; i < mine.end * LANES && i < in.n[0]; i += LANES) {
    if (i + LANES <= in.n[0]) {
      save(out + i, work(load(x + i), y ? load(y + i) : Floats{}));
      continue;
    }
    X one[LANES] = {}, two[LANES] = {}, three[LANES];
    const int64_t left = in.n[0] - i;
    memcpy(one, x + i, left * sizeof(X));
    if (y) memcpy(two, y + i, left * sizeof(X));
    save(three, work(load(one), load(two)));
    memcpy(out + i, three, left * sizeof(X));
  }
}

// p: x, -, out; n: elements
template <typename X, typename Y> void cast(const Instruction &in, int thread, int threads) {
  Share mine = share(in.n[0], thread, threads);
  for (int64_t i = mine.begin; i < mine.end; i++) put((Y *)in.p[2] + i, to_float(((const X *)in.p[0])[i]));
}

// p: ids int64 (R), table (N, D), out (R, D), -, scale (N) of an int8 table; n: R, D
template <typename X> void embed(const Instruction &in, int thread, int threads) {
  Share mine = share(in.n[0], thread, threads);
  const int64_t D = in.n[1], *ids = (const int64_t *)in.p[0];
  for (int64_t r = mine.begin; r < mine.end && in.weight_type == INT8; r++)
    for (int64_t i = 0; i < D; i++)
      put((X *)in.p[2] + r * D + i, ((const int8_t *)in.p[1])[ids[r] * D + i] * ((const float *)in.p[4])[ids[r]]);
  for (int64_t r = mine.begin; r < mine.end && in.weight_type != INT8; r++)
    memcpy((X *)in.p[2] + r * D, (const X *)in.p[1] + ids[r] * D, D * sizeof(X));
}

// ---------------------------------------------------------------- caches

// p: x (B, J, T, d), cache (B, J, L, d) contiguous, positions int64 (B, T)
// n: B, J, T, d, strides of x: B, J, T; of the cache: B, J; places before the ring begins anew; stride of positions; stride of
//    the cache from one place to the next
template <typename X> void store(const Instruction &in, int thread, int threads) {
  const int64_t B = in.n[0], J = in.n[1], T = in.n[2], d = in.n[3];
  Share mine = share(B * J * T, thread, threads);
  for (int64_t i = mine.begin; i < mine.end; i++) {
    const int64_t t = i % T, j = i / T % J, b = i / (T * J);
    const int64_t place = ((const int64_t *)in.p[2])[b * in.n[10] + t] % in.n[9];
    memcpy((X *)in.p[1] + b * in.n[7] + j * in.n[8] + place * in.n[11],
           (const X *)in.p[0] + b * in.n[4] + j * in.n[5] + t * in.n[6], d * sizeof(X));
  }
}

// Each query sees the keys up to its own position, or the latest `window` of them.
// p: q (B, H, T, d), k (B, J, L, d), v (B, J, L, e), out (B, H, T, e) contiguous, positions int64 (B, T), slopes (H) fp32 or
//    none, sinks (H) or none
// n: B, H, T, J, d, e, strides of q: B, H, T; of k: B, J; of v: B, J; places of the ring; window or 0; stride of positions;
//    strides of k and v from one place to the next
// f: scale, softcap or 0
template <typename X> struct Attend {
  const Instruction &in;
  int64_t B = in.n[0], H = in.n[1], T = in.n[2], J = in.n[3], d = in.n[4], e = in.n[5], ring = in.n[13], window = in.n[14];
  int64_t k_step = in.n[16], v_step = in.n[17];

  // The products of a query (d) with `COUNT` keys.
  template <int COUNT> static void products(const float *q, const X *const k[COUNT], int64_t d, float out[COUNT]) {
    Floats total[COUNT] = {};
    int64_t i = 0;
    for (; i + LANES <= d; i += LANES) {
      const Floats part = load(q + i);
      UNROLLED for (int s = 0; s < COUNT; s++) total[s] += part * load(k[s] + i);
    }
    sums<COUNT>(total, out);
    for (; i < d; i++)
      for (int s = 0; s < COUNT; s++) out[s] = std::fmaf(q[i], to_float(k[s][i]), out[s]);
  }

  // Sums of values by their weights: `PARTS` vectors of features from `from` on.
  template <int PARTS> void mix(const X *v, const float *weights, int64_t first, int64_t S, int64_t from, float *out) const {
    Floats total[PARTS] = {};
    int64_t place = first % ring;
    for (int64_t s = 0; s < S; s++) {
      const X *value = v + place * v_step + from;
      UNROLLED for (int i = 0; i < PARTS; i++) total[i] += load(value + i * LANES) * weights[s];
      if (++place == ring) place = 0;
    }
    for (int i = 0; i < PARTS; i++) save(out + from + i * LANES, total[i]);
  }

  void one(int64_t b, int64_t h, int64_t t) const {
    const int64_t at = ((const int64_t *)in.p[4])[b * in.n[15] + t], j = h / (H / J);
    const int64_t first = window && at + 1 > window ? at + 1 - window : 0, S = at + 1 - first;
    const X *q = (const X *)in.p[0] + b * in.n[6] + h * in.n[7] + t * in.n[8];
    const X *k = (const X *)in.p[1] + b * in.n[9] + j * in.n[10], *v = (const X *)in.p[2] + b * in.n[11] + j * in.n[12];
    const float scale = float(in.f[0]), softcap = float(in.f[1]);
    const float slope = in.p[5] ? ((const float *)in.p[5])[h] : 0;
    const int64_t padded = (S + LANES - 1) / LANES * LANES;
    float *scores = scratch(padded), *query = scratch(d, 1);
    int64_t i = 0;
    for (; i + LANES <= d; i += LANES) save(query + i, load(q + i) * scale);
    for (; i < d; i++) query[i] = to_float(q[i]) * scale;
    int64_t place = first % ring, s = 0;
    const auto next = [&] {
      const X *key = k + place * k_step;
      if (++place == ring) place = 0;
      return key;
    };
    for (; s + 4 <= S; s += 4) {
      const X *keys[4] = {next(), next(), next(), next()};
      products<4>(query, keys, d, scores + s);
    }
    for (; s < S; s++) {
      const X *keys[1] = {next()};
      products<1>(query, keys, d, scores + s);
    }
    float top = in.p[6] ? to_float(((const X *)in.p[6])[h]) : -INFINITY;
    if (softcap != 0)
      for (s = 0; s < S; s++) scores[s] = softcap * std::tanh(scores[s] / softcap);
    if (slope != 0)
      for (s = 0; s < S; s++) scores[s] -= slope * float(S - 1 - s);
    for (s = 0; s < S; s++) top = scores[s] > top ? scores[s] : top;
    for (s = S; s < padded; s++) scores[s] = -INFINITY;
    Floats total = {};
    for (s = 0; s < padded; s += LANES) {
      const Floats score = load(scores + s);
      const Floats weight = score == all(-INFINITY) ? all(0) : exp_(score - top);
      save(scores + s, weight);
      total += weight;
    }
    float below = sum(total);
    if (in.p[6]) below += std::exp(to_float(((const X *)in.p[6])[h]) - top);
    float *mixed = scratch(e, 2);
    int64_t from = 0;
    for (; from + 4 * LANES <= e; from += 4 * LANES) mix<4>(v, scores, first, S, from, mixed);
    for (; from + LANES <= e; from += LANES) mix<1>(v, scores, first, S, from, mixed);
    for (; from < e; from++) {
      mixed[from] = 0;
      for (s = 0; s < S; s++) mixed[from] = std::fmaf(to_float(v[(first + s) % ring * v_step + from]), scores[s], mixed[from]);
    }
    X *out = (X *)in.p[3] + ((b * H + h) * T + t) * e;
    for (i = 0; i + LANES <= e; i += LANES) save(out + i, load(mixed + i) / below);
    for (; i < e; i++) put(out + i, mixed[i] / below);
  }

  // Fetches the first places of what another query will read: short caches lie all over the memory.
  void fetch(int64_t b, int64_t h) const {
    const int64_t at = ((const int64_t *)in.p[4])[b * in.n[15]] + 1, j = h / (H / J);
    const int64_t places = at < ring ? at : ring;
    const char *k = (const char *)((const X *)in.p[1] + b * in.n[9] + j * in.n[10]);
    const char *v = (const char *)((const X *)in.p[2] + b * in.n[11] + j * in.n[12]);
    const int64_t of_k = places * k_step * sizeof(X), of_v = places * v_step * sizeof(X);
    for (int64_t i = 0; i < of_k && i < 4096; i += 64) __builtin_prefetch(k + i, 0, 2);
    for (int64_t i = 0; i < of_v && i < 4096; i += 64) __builtin_prefetch(v + i, 0, 2);
  }

  void run(int thread, int threads) const {
    Share mine = share(B * H * T, thread, threads);
    for (int64_t i = mine.begin; i < mine.end; i++) {
      if (i + 1 < mine.end) fetch((i + 1) / (H * T), (i + 1) / T % H);
      one(i / (H * T), i / T % H, i % T);
    }
  }
};

template <typename X> void execute(const Instruction &in, int thread, int threads) {
  switch (in.op) {
    case LINEAR: return Linear<X>{in}.run(thread, threads);
    case RMS_NORM: return norm<X, false>(in, thread, threads);
    case LAYER_NORM: return norm<X, true>(in, thread, threads);
    case ROTATE: return rotate<X>(in, thread, threads);
    case STORE: return store<X>(in, thread, threads);
    case ATTEND: return Attend<X>{in}.run(thread, threads);
    case ADD: {
      const float by = float(in.f[0]);
      return pointwise<X>(in, thread, threads, [by](Floats x, Floats y) { return x + y * by; });
    }
    case MUL: return pointwise<X>(in, thread, threads, [](Floats x, Floats y) { return x * y; });
    case CAST: return in.weight_type == F32 ? cast<X, float>(in, thread, threads) : cast<X, bf16>(in, thread, threads);
    case EMBED: return embed<X>(in, thread, threads);
    default: return pointwise<X>(in, thread, threads, [op = in.op](Floats x, Floats) { return apply(op, x); });
  }
}

void execute_any(const Instruction &in, int thread, int threads) {
  in.type == F32 ? execute<float>(in, thread, threads) : execute<bf16>(in, thread, threads);
}

// Fetches the weights that a thread will read next while others, or none, have work: memory should never rest.
class Ahead {
 public:
  Ahead(const Instruction *program, int64_t count, int thread, int threads)
      : program_(program), count_(count), thread_(thread), threads_(threads) {}

  void fetch(int64_t done) {
    if (next_ <= done) {
      for (next_ = done + 1; next_ < count_ && program_[next_].op != LINEAR; next_++) {}
      begun_ = 0;
    }
    if (next_ >= count_ || begun_ >= MOST) return;
    const Instruction &in = program_[next_];
    const int64_t row = in.n[1] * (in.weight_type == F32 ? 8 : in.weight_type == BF16 ? 4 : in.weight_type == INT8 ? 2 : 1) / 2;
    const Share mine = share(in.n[2], thread_, threads_);
    const int64_t size = (mine.end - mine.begin) * row, stop = begun_ + STEP < size ? begun_ + STEP : size;
    for (const char *at = (const char *)in.p[1] + mine.begin * row; begun_ < stop; begun_ += 64) __builtin_prefetch(at + begun_, 0, 2);
  }

 private:
  static constexpr int64_t STEP = 8192, MOST = 65536;
  const Instruction *program_;
  int64_t count_;
  int thread_, threads_;
  int64_t next_ = 0, begun_ = 0;
};

}  // namespace

extern "C" int64_t gptwright_instruction_size() { return sizeof(Instruction); }

extern "C" void gptwright_run(const Instruction *program, int64_t count, int threads) {
#ifdef _OPENMP
  if (threads > 1) {
    std::atomic<int64_t> arrived{0};
#pragma omp parallel num_threads(threads)
    {
      const int thread = omp_get_thread_num(), team = omp_get_num_threads();
      Ahead ahead(program, count, thread, team);
      for (int64_t i = 0; i < count; i++) {
        execute_any(program[i], thread, team);
        ahead.fetch(i);
        arrived.fetch_add(1, std::memory_order_acq_rel);
        for (int64_t spins = 0; arrived.load(std::memory_order_acquire) < (i + 1) * team; spins++)
          if (spins > 20000) sched_yield();  // somebody else needs the core
      }
    }
    return;
  }
#endif
  for (int64_t i = 0; i < count; i++) execute_any(program[i], 0, 1);
}
