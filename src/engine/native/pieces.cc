#include <algorithm>
#include <limits>

#include "kernels.h"
#include "tile.h"

// log p of target word pieces under the masked language model's softmax over the vocabulary.

namespace realm {
namespace {

/** Pieces of the vocabulary that one task processes at a time: their part of the logits stays in the second-level cache. */
constexpr int64_t BLOCK = 512;
/** Of these, those whose rows are packed at a time. */
constexpr int64_t PANEL = 128;

void check(const Tensor<const float>& x, const Tensor<const float>& word, const Tensor<const int32_t>& targets) {
  expect(x.dim(1) == word.dim(1) && targets.size() == x.dim(0), "log likelihood: shapes do not fit");
  expectWithin(targets, 0, word.dim(0), "log likelihood: a target is not a word piece");
}

struct LogLikelihood {
  void attributes(Attributes&) {}
  /** x [n, H], word [V, H], bias [V], targets [n] → log p(target) [n], logits [V, n], their log-sum-exp [n]. */
  void run(Call& call) {
    const auto x = call.in(0), word = call.in(1), bias = call.in(2);
    const auto targets = call.in<int32_t>(3);
    check(x, word, targets);
    const int64_t n = x.dim(0), H = x.dim(1), V = word.dim(0), blocks = (V + BLOCK - 1) / BLOCK;
    expect(bias.size() == V, "log likelihood: shapes do not fit");
    const auto result = call.out(0, {n}), logits = call.out(1, {V, n}), logSums = call.out(2, {n});
    if (n == 0) return;
    float* const panels = scratch<SHARED>(panelsSize(n, H));
    packTransposed(x.data, H, n, H, 1, panels);
    auto most = room(blocks * n), sums = room(blocks * n);
    parallel(static_cast<int>(blocks), [&](int i) {
      const int64_t from = i * BLOCK, pieces = std::min(BLOCK, V - from);
      float *const block = logits.data + from * n, *const top = most.get() + i * n, *const sum = sums.get() + i * n;
      timesPanels(word.data + from * H, H, 1, pieces, H, panels, n, nullptr, 0, block, n);
      std::fill(top, top + n, -std::numeric_limits<float>::infinity());
      std::fill(sum, sum + n, 0.0f);
      for (int64_t v = 0; v < pieces; v++) {
        float* row = block + v * n;
        const float own = bias.data[from + v];
#pragma omp simd
        for (int64_t r = 0; r < n; r++) {
          row[r] += own;
          top[r] = top[r] > row[r] ? top[r] : row[r];
        }
      }
      for (int64_t v = 0; v < pieces; v++) {
        const float* row = block + v * n;
#pragma omp simd
        for (int64_t r = 0; r < n; r++) sum[r] += fastExp(row[r] - top[r]);
      }
    });
    for (int64_t r = 0; r < n; r++) {
      float top = -std::numeric_limits<float>::infinity(), sum = 0;
      for (int64_t i = 0; i < blocks; i++) top = top > most[i * n + r] ? top : most[i * n + r];
      for (int64_t i = 0; i < blocks; i++) sum += sums[i * n + r] * std::exp(most[i * n + r] - top);
      logSums.data[r] = top + std::log(sum);
      result.data[r] = logits.data[targets.data[r] * n + r] - logSums.data[r];
    }
  }
};

struct LogLikelihoodGrad {
  void attributes(Attributes&) {}
  /** dy [n], x, word, targets, logits, log-sum-exp → dx [n, H], dword [V, H], dbias [V]. */
  void run(Call& call) {
    const auto dy = call.in(0), x = call.in(1), word = call.in(2);
    const auto targets = call.in<int32_t>(3);
    const auto logits = call.in(4), logSums = call.in(5);
    check(x, word, targets);
    const int64_t n = x.dim(0), H = x.dim(1), V = word.dim(0), blocks = (V + BLOCK - 1) / BLOCK;
    expect(dy.size() == n && logits.size() == n * V && logSums.size() == n,
           "log likelihood gradient: shapes do not fit");
    const auto dx = call.out(0, {n, H}), dword = call.out(1, {V, H}), dbias = call.out(2, {V});
    float* const panels = scratch<SHARED>(panelsSize(H, n));
    packPanels(x.data, H, n, H, panels);
    // As many runs of blocks as tasks, each with its own sum for dx.
    const int tasks = static_cast<int>(std::min<int64_t>(blocks, 2 * threads()));
    auto partial = room(tasks * n * H);
    parallel(tasks, [&](int task) {
      float* const mine = partial.get() + task * n * H;
      float* const slopes = scratch<THREADS_OWN>(BLOCK * n + panelsSize(H, PANEL));
      float* const words = slopes + BLOCK * n;
      std::fill(mine, mine + n * H, 0.0f);
      for (int64_t i = blocks * task / tasks; i < blocks * (task + 1) / tasks; i++) {
        const int64_t from = i * BLOCK, pieces = std::min(BLOCK, V - from);
        for (int64_t v = 0; v < pieces; v++) {
          const float* row = logits.data + (from + v) * n;
          float* slope = slopes + v * n;
#pragma omp simd
          for (int64_t r = 0; r < n; r++) slope[r] = -dy.data[r] * fastExp(row[r] - logSums.data[r]);
        }
        for (int64_t r = 0; r < n; r++) {
          const int64_t target = targets.data[r] - from;
          if (target >= 0 && target < pieces) slopes[target * n + r] += dy.data[r];
        }
        for (int64_t v = 0; v < pieces; v++) {
          float sum = 0;
#pragma omp simd reduction(+ : sum)
          for (int64_t r = 0; r < n; r++) sum += slopes[v * n + r];
          dbias.data[from + v] = sum;
        }
        timesPanels(slopes, n, 1, pieces, n, panels, H, nullptr, 0, dword.data + from * H, H);
        for (int64_t first = 0; first < pieces; first += PANEL) {
          const int64_t depth = std::min(PANEL, pieces - first);
          packPanels(word.data + (from + first) * H, H, depth, H, words);
          timesPanels(slopes + first * n, 1, n, n, depth, words, H, mine, H, mine, H);
        }
      }
    });
    parallelRanges(n * H, 16384, [&](long from, long to) {
      std::copy(partial.get() + from, partial.get() + to, dx.data + from);
      for (int p = 1; p < tasks; p++) {
        const float* other = partial.get() + p * n * H;
#pragma omp simd
        for (long j = from; j < to; j++) dx.data[j] += other[j];
      }
    });
  }
};

}  // namespace

void registerPieces() {
  registerOp<LogLikelihood>("RealmLogLikelihood", {"x: float", "word: float", "bias: float", "targets: int32"},
                            {"y: float", "logits: float", "log_sums: float"}, {});
  registerOp<LogLikelihoodGrad>("RealmLogLikelihoodGrad",
                                {"dy: float", "x: float", "word: float", "targets: int32", "logits: float",
                                 "log_sums: float"},
                                {"dx: float", "dword: float", "dbias: float"}, {});
}

}  // namespace realm
