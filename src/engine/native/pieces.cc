#include <algorithm>
#include <limits>

#include "kernels.h"
#include "maths.h"

// log p of target word pieces under the masked language model's softmax over the vocabulary.

namespace realm {
namespace {

/** Pieces of the vocabulary that one task processes. */
constexpr int64_t BLOCK = 1024;

void check(const Tensor<const float>& x, const Tensor<const float>& word, const Tensor<const int32_t>& targets) {
  expect(x.dim(1) == word.dim(1) && targets.size() == x.dim(0), "log likelihood: shapes do not fit");
  expectWithin(targets, 0, word.dim(0), "log likelihood: a target is not a word piece");
}

struct LogLikelihood {
  void attributes(Attributes&) {}
  /** x [n, H], word [V, H], bias [V], targets [n] → log p(target) [n], logits [n, V], their log-sum-exp [n]. */
  void run(Call& call) {
    const auto x = call.in(0), word = call.in(1), bias = call.in(2);
    const auto targets = call.in<int32_t>(3);
    check(x, word, targets);
    const int64_t n = x.dim(0), H = x.dim(1), V = word.dim(0), blocks = (V + BLOCK - 1) / BLOCK;
    expect(bias.size() == V, "log likelihood: shapes do not fit");
    const auto result = call.out(0, {n}), logits = call.out(1, {n, V}), logSums = call.out(2, {n});
    if (n == 0) return;
    auto most = room(blocks * n), sums = room(blocks * n);
    parallel(static_cast<int>(blocks), [&](int i) {
      const int64_t from = i * BLOCK, width = std::min(BLOCK, V - from);
      for (int64_t r = 0; r < n; r++)
        std::copy(bias.data + from, bias.data + from + width, logits.data + r * V + from);
      product(false, true, n, width, H, 1, x.data, H, word.data + from * H, H, 1, logits.data + from, V);
      for (int64_t r = 0; r < n; r++) {
        const float* row = logits.data + r * V + from;
        float top = row[0], sum = 0;
#pragma omp simd reduction(max : top)
        for (int64_t v = 0; v < width; v++) top = top > row[v] ? top : row[v];
#pragma omp simd reduction(+ : sum)
        for (int64_t v = 0; v < width; v++) sum += fastExp(row[v] - top);
        most[i * n + r] = top;
        sums[i * n + r] = sum;
      }
    });
    for (int64_t r = 0; r < n; r++) {
      float top = -std::numeric_limits<float>::infinity(), sum = 0;
      for (int64_t i = 0; i < blocks; i++) top = top > most[i * n + r] ? top : most[i * n + r];
      for (int64_t i = 0; i < blocks; i++) sum += sums[i * n + r] * std::exp(most[i * n + r] - top);
      logSums.data[r] = top + std::log(sum);
      result.data[r] = logits.data[r * V + targets.data[r]] - logSums.data[r];
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
    // As many runs of blocks as threads, each with its own sum for dx.
    const int pieces = static_cast<int>(std::min<int64_t>(blocks, 2 * threads()));
    auto partial = room(pieces * n * H);
    parallel(pieces, [&](int piece) {
      float* mine = partial.get() + piece * n * H;
      auto slope = room(n * BLOCK);
      std::fill(mine, mine + n * H, 0.0f);
      for (int64_t i = blocks * piece / pieces; i < blocks * (piece + 1) / pieces; i++) {
        const int64_t from = i * BLOCK, width = std::min(BLOCK, V - from);
        float* db = dbias.data + from;
        std::fill(db, db + width, 0.0f);
        for (int64_t r = 0; r < n; r++) {
          const float* row = logits.data + r * V + from;
          float* out = slope.get() + r * width;
          const float weight = -dy.data[r], logSum = logSums.data[r];
#pragma omp simd
          for (int64_t v = 0; v < width; v++) out[v] = weight * fastExp(row[v] - logSum);
          const int64_t target = targets.data[r] - from;
          if (target >= 0 && target < width) out[target] += dy.data[r];
#pragma omp simd
          for (int64_t v = 0; v < width; v++) db[v] += out[v];
        }
        product(false, false, n, H, width, 1, slope.get(), width, word.data + from * H, H, 1, mine, H);
        product(true, false, width, H, n, 1, slope.get(), width, x.data, H, 0, dword.data + from * H, H);
      }
    });
    parallelRanges(n * H, 16384, [&](long from, long to) {
      std::copy(partial.get() + from, partial.get() + to, dx.data + from);
      for (int p = 1; p < pieces; p++) {
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
