// What happens to each row or number by itself: norms, rotation, activations, sums, other types, looked-up rows.

#pragma once

#include "vectors.h"

namespace {

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

}  // namespace
