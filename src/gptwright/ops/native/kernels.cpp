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

#include "cache.h"
#include "linear.h"
#include "pointwise.h"

#ifdef _OPENMP
#include <atomic>
#include <omp.h>
#include <sched.h>
#endif

namespace {

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
