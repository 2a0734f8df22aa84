#include <algorithm>
#include <limits>

#include "kernels.h"
#include "maths.h"

// Likelihoods that are sums of probabilities: of an answer over all places where it can be chosen, and of masked words over the
// documents that may have told them. Each is one operation, where composed ones take dozens for few numbers.

namespace realm {
namespace {

constexpr float NOTHING = -std::numeric_limits<float>::infinity();
/** Numbers that are summed as floats; their sums are added up as doubles. */
constexpr int64_t RUN = 1024;

struct AnswerMarginal {
  void attributes(Attributes&) {}
  /**
   * scores [B, n], correct [B, n] (1 or 0) → −log of the correct ones' share of the softmax [B], 0 where none is correct; and the
   * log-sum-exp of all and of the correct ones [B, 2].
   */
  void run(Call& call) {
    const auto scores = call.in(0), correct = call.in(1);
    const int64_t B = scores.dim(0), n = scores.dim(1);
    expect(correct.size() == scores.size(), "answer marginal: shapes do not fit");
    const auto loss = call.out(0, {B}), logs = call.out(1, {B, 2});
    parallelRanges(B, std::max<long>(1, 16384 / std::max<int64_t>(1, n)), [&](long from, long to) {
      for (long b = from; b < to; b++) {
        const float *s = scores.data + b * n, *c = correct.data + b * n;
        float top = NOTHING, best = NOTHING;
        double sum = 0, right = 0;
#pragma omp simd reduction(max : top, best)
        for (int64_t i = 0; i < n; i++) {
          const float own = c[i] > 0 ? s[i] : NOTHING;
          top = top > s[i] ? top : s[i];
          best = best > own ? best : own;
        }
        for (int64_t first = 0; first < n; first += RUN) {
          const int64_t end = std::min(n, first + RUN);
          float some = 0, correctOnes = 0;
#pragma omp simd reduction(+ : some, correctOnes)
          for (int64_t i = first; i < end; i++) {
            some += fastExp(s[i] - top);
            correctOnes += c[i] > 0 ? fastExp(s[i] - best) : 0.0f;
          }
          sum += some;
          right += correctOnes;
        }
        logs.data[2 * b] = top + std::log(static_cast<float>(sum));
        logs.data[2 * b + 1] = best + std::log(static_cast<float>(right));
        loss.data[b] = right > 0 ? logs.data[2 * b] - logs.data[2 * b + 1] : 0;
      }
    });
  }
};

struct AnswerMarginalGrad {
  void attributes(Attributes&) {}
  /** dy [B], scores, correct [B, n], logs [B, 2] → the gradient of the scores. */
  void run(Call& call) {
    const auto dy = call.in(0), scores = call.in(1), correct = call.in(2), logs = call.in(3);
    const int64_t B = scores.dim(0), n = scores.dim(1);
    expect(correct.size() == scores.size() && dy.size() == B && logs.size() == 2 * B,
           "answer marginal gradient: shapes do not fit");
    const auto out = call.out(0, {B, n});
    parallelRanges(B, std::max<long>(1, 16384 / std::max<int64_t>(1, n)), [&](long from, long to) {
      for (long b = from; b < to; b++) {
        const float *s = scores.data + b * n, *c = correct.data + b * n;
        float* d = out.data + b * n;
        const float all = logs.data[2 * b], right = logs.data[2 * b + 1], weight = dy.data[b];
        if (!(right > NOTHING)) {
          std::fill(d, d + n, 0.0f);
          continue;
        }
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
          d[i] = weight * (fastExp(s[i] - all) - (c[i] > 0 ? fastExp(s[i] - right) : 0.0f));
      }
    });
  }
};

/** log Σ exp(x_k + y_k) over k < K, the y_k `stride` apart. */
float logSumExp(const float* x, const float* y, int64_t K, int64_t stride) {
  float top = NOTHING, sum = 0;
  for (int64_t k = 0; k < K; k++) top = std::max(top, x[k] + y[k * stride]);
  for (int64_t k = 0; k < K; k++) sum += std::exp(x[k] + y[k * stride] - top);
  return top + std::log(sum);
}

/** What both directions of the likelihood over documents share. */
struct OverDocuments {
  float temperature;
  int each;
  void attributes(Attributes& a) {
    temperature = a.number("temperature");
    each = a.integer("each");
  }

 protected:
  int64_t B, K, M, U, n;
  void measure(const Tensor<const float>& products, const Tensor<const float>& tokens,
               const Tensor<const int32_t>& candidates, const Tensor<const int32_t>& order,
               const Tensor<const float>& masks) {
    B = candidates.dim(0), K = candidates.dim(1), M = masks.dim(1), U = products.dim(1), n = tokens.size();
    expect(products.dim(0) == B && masks.dim(0) == B && order.size() == B * K * M,
           "document marginal: shapes do not fit");
    expectWithin(candidates, 0, U, "document marginal: a candidate is not a document");
    expectWithin(order, 0, n + 1, "document marginal: a mask has no word piece");
  }
  /**
   * Calls use(scores, stride, first, end) for the masked pieces [first, end) that share a document: each piece, or all at once.
   * Document k's log p of them is scores[k * stride]. @param told [K, M], mask [M]; room for K sums
   */
  template <class Use>
  void shared(const float* told, const float* mask, float* sums, const Use& use) const {
    if (each) {
      for (int64_t m = 0; m < M; m++)
        if (mask[m] > 0) use(told + m, M, m, m + 1);
      return;
    }
    for (int64_t k = 0; k < K; k++) {
      sums[k] = 0;
      for (int64_t m = 0; m < M; m++) sums[k] += mask[m] * told[k * M + m];
    }
    use(sums, 1, 0, M);
  }
};

struct DocumentMarginal : OverDocuments {
  /**
   * products [B, U], tokens [n] (log p of each masked word piece), candidates [B, K] (columns of the products), present [B, K],
   * order [B*K*M] (which token, counted from 1; 0: none), masks [B, M] → log p(y|x) [B], log p(z|x) [B, K], log p(y_j|z,x)
   * [B, K, M]. `each`: every masked piece has documents of its own; otherwise they share one.
   */
  void run(Call& call) {
    const auto products = call.in(0), tokens = call.in(1);
    const auto candidates = call.in<int32_t>(2);
    const auto present = call.in(3);
    const auto order = call.in<int32_t>(4);
    const auto masks = call.in(5);
    measure(products, tokens, candidates, order, masks);
    expect(present.size() == B * K, "document marginal: shapes do not fit");
    const auto marginal = call.out(0, {B}), prior = call.out(1, {B, K}), read = call.out(2, {B, K, M});
    const auto zeros = room(K), sums = room(K);
    std::fill(zeros.get(), zeros.get() + K, 0.0f);
    for (int64_t b = 0; b < B; b++) {
      float *log = prior.data + b * K, *told = read.data + b * K * M;
      for (int64_t k = 0; k < K; k++)
        log[k] = present.data[b * K + k] > 0 ? products.data[b * U + candidates.data[b * K + k]] / temperature : NOTHING;
      const float all = logSumExp(log, zeros.get(), K, 1);
      for (int64_t k = 0; k < K; k++) log[k] -= all;
      for (int64_t i = 0; i < K * M; i++) {
        const int32_t at = order.data[b * K * M + i];
        told[i] = at > 0 ? tokens.data[at - 1] : 0;
      }
      float likelihood = 0;
      shared(told, masks.data + b * M, sums.get(), [&](const float* scores, int64_t stride, int64_t, int64_t) {
        likelihood += logSumExp(log, scores, K, stride);
      });
      marginal.data[b] = likelihood;
    }
  }
};

struct DocumentMarginalGrad : OverDocuments {
  /** dy [B]; products and tokens, for their sizes; candidates, order, masks; log p(z|x), log p(y_j|z,x) → their gradients. */
  void run(Call& call) {
    const auto dy = call.in(0), products = call.in(1), tokens = call.in(2);
    const auto candidates = call.in<int32_t>(3), order = call.in<int32_t>(4);
    const auto masks = call.in(5), prior = call.in(6), read = call.in(7);
    measure(products, tokens, candidates, order, masks);
    expect(dy.size() == B && prior.size() == B * K && read.size() == B * K * M,
           "document marginal gradient: shapes do not fit");
    const auto dproducts = call.out(0, {B, U}), dtokens = call.out(1, {n});
    std::fill(dproducts.data, dproducts.data + B * U, 0.0f);
    std::fill(dtokens.data, dtokens.data + n, 0.0f);
    const auto sums = room(K), slope = room(K);
    for (int64_t b = 0; b < B; b++) {
      const float *log = prior.data + b * K, *told = read.data + b * K * M, *mask = masks.data + b * M;
      const int32_t* at = order.data + b * K * M;
      std::fill(slope.get(), slope.get() + K, 0.0f);
      shared(told, mask, sums.get(), [&](const float* scores, int64_t stride, int64_t first, int64_t end) {
        const float all = logSumExp(log, scores, K, stride);
        for (int64_t k = 0; k < K; k++) {
          const float posterior = std::exp(log[k] + scores[k * stride] - all);
          slope[k] += posterior - std::exp(log[k]);
          for (int64_t m = first; m < end; m++)
            if (at[k * M + m] > 0) dtokens.data[at[k * M + m] - 1] += dy.data[b] * mask[m] * posterior;
        }
      });
      for (int64_t k = 0; k < K; k++)
        dproducts.data[b * U + candidates.data[b * K + k]] += dy.data[b] * slope[k] / temperature;
    }
  }
};

}  // namespace

void registerMarginal() {
  registerOp<AnswerMarginal>("RealmAnswerMarginal", {"scores: float", "correct: float"}, {"loss: float", "logs: float"},
                             {});
  registerOp<AnswerMarginalGrad>("RealmAnswerMarginalGrad",
                                 {"dy: float", "scores: float", "correct: float", "logs: float"}, {"dscores: float"}, {});
  registerOp<DocumentMarginal>("RealmDocumentMarginal",
                               {"products: float", "tokens: float", "candidates: int32", "present: float",
                                "order: int32", "masks: float"},
                               {"marginal: float", "prior: float", "read: float"}, {"temperature: float", "each: int"});
  registerOp<DocumentMarginalGrad>("RealmDocumentMarginalGrad",
                                   {"dy: float", "products: float", "tokens: float", "candidates: int32",
                                    "order: int32", "masks: float", "prior: float", "read: float"},
                                   {"dproducts: float", "dtokens: float"}, {"temperature: float", "each: int"});
}

}  // namespace realm
