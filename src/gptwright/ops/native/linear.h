// Products of a few rows with a matrix: y = x w' + b, with weights of 32, 16, 8 or 4 bits.

#pragma once

#include "vectors.h"

namespace {

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

}  // namespace
