// Caches of keys and values: writing to them, and attention over them.

#pragma once

#include "vectors.h"

namespace {

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

}  // namespace
