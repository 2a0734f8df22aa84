#include <algorithm>

#include "kernels.h"
#include "maths.h"

// softmax(Q Kᵀ / √D) V of packed sequences of any lengths: nothing is padded, and no attention weights are kept; the
// gradient recomputes them from each row's log-sum-exp (Dao et al. 2022, arXiv 2205.14135).

namespace realm {
namespace {

/** Query rows at a time: their attention weights stay in the second-level cache. */
constexpr int64_t ROWS = 128;

/** Where a batch's queries, keys and values are: [q k v] in one tensor, or q in one and [k v] in another. */
struct Layout {
  int64_t B, N, H, D, queries, keys, ldq, ldk;
  const float *q, *k, *v;
  const int32_t *qBounds, *kBounds;

  Layout(Call& call, int heads, bool joint) {
    const auto qt = call.in(0), kt = call.in(1);
    const auto qb = call.in<int32_t>(2), kb = call.in<int32_t>(3);
    N = heads;
    queries = qt.dim(0);
    keys = kt.dim(0);
    ldq = qt.dim(1);
    ldk = kt.dim(1);
    H = joint ? ldq / 3 : ldq;
    D = H / N;
    B = qb.size() - 1;
    expect(N > 0 && D * N == H && ldk == (joint ? 3 : 2) * H && (!joint || ldq == ldk) && B >= 0 &&
               kb.size() == B + 1,
           "attention: shapes do not fit");
    qBounds = qb.data;
    kBounds = kb.data;
    check(qBounds, queries);
    check(kBounds, keys);
    q = qt.data;
    k = kt.data + (joint ? H : 0);
    v = k + H;
  }

 private:
  void check(const int32_t* bounds, int64_t rows) const {
    expect(bounds[0] == 0 && bounds[B] == rows, "attention: the bounds do not cover the rows");
    for (int64_t b = 0; b < B; b++) expect(bounds[b] <= bounds[b + 1], "attention: the bounds do not rise");
  }
};

/** The attributes of both directions. */
struct Settings {
  int heads, joint;
  float rate;
  void attributes(Attributes& a) {
    heads = a.integer("heads");
    joint = a.integer("joint");
    rate = a.number("rate");
  }
};

/** One head of one sequence: its first column, and the sequence's keys. */
struct Head {
  int64_t b, head, at, first, T;
};

/** Calls work(head) for every head of every sequence, on all threads. */
template <class Work>
void parallelHeads(const Layout& a, const Work& work) {
  parallel(static_cast<int>(a.B * a.N), [&](int task) {
    const int64_t b = task / a.N, head = task % a.N, first = a.kBounds[b];
    work(Head{b, head, head * a.D, first, a.kBounds[b + 1] - first});
  });
}

/** Scores of `rows` queries, from row q on, with all keys of the sequence: [rows, T]. */
void scores(const Layout& a, const Head& h, int64_t q, int64_t rows, float* out) {
  product(false, true, rows, h.T, a.D, 1 / std::sqrt(static_cast<float>(a.D)), a.q + q * a.ldq + h.at, a.ldq,
          a.k + h.first * a.ldk + h.at, a.ldk, 0, out, h.T);
}

struct Attention : Settings {
  /** q, kv, bounds of both [B + 1], seed → context [queries, H], log-sum-exp [queries, N]. */
  void run(Call& call) {
    const Layout a(call, heads, joint);
    const Dropout drop(rate, call.in<int32_t>(4).data[0]);
    const auto context = call.out(0, {a.queries, a.H}), logSums = call.out(1, {a.queries, a.N});
    parallelHeads(a, [&](const Head& h) {
      const int64_t b = h.b, head = h.head, at = h.at, first = h.first, T = h.T;
      auto p = room(ROWS * T);
      for (int64_t q = a.qBounds[b]; q < a.qBounds[b + 1]; q += ROWS) {
        const int64_t rows = std::min(ROWS, a.qBounds[b + 1] - q);
        scores(a, h, q, rows, p.get());
        for (int64_t r = 0; r < rows; r++) {
          float* row = p.get() + r * T;
          float most = row[0], sum = 0;
#pragma omp simd reduction(max : most)
          for (int64_t t = 0; t < T; t++) most = most > row[t] ? most : row[t];
#pragma omp simd reduction(+ : sum)
          for (int64_t t = 0; t < T; t++) {
            row[t] = fastExp(row[t] - most);
            sum += row[t];
          }
          const float share = 1 / sum;
          if (drop.on()) {
            const uint32_t key = drop.row((q + r) * a.N + head);
#pragma omp simd
            for (int64_t t = 0; t < T; t++) row[t] *= share * drop.factor(key, t);
          } else {
#pragma omp simd
            for (int64_t t = 0; t < T; t++) row[t] *= share;
          }
          logSums.data[(q + r) * a.N + head] = most + std::log(sum);
        }
        product(false, false, rows, a.D, T, 1, p.get(), T, a.v + first * a.ldk + at, a.ldk, 0,
                context.data + q * a.H + at, a.H);
      }
    });
  }
};

struct AttentionGrad : Settings {
  /** As above, then context, log-sum-exp and the context's gradient → gradients of q and kv (empty if q holds all three). */
  void run(Call& call) {
    const Layout a(call, heads, joint);
    const Dropout drop(rate, call.in<int32_t>(4).data[0]);
    const auto context = call.in(5), logSums = call.in(6), dy = call.in(7);
    expect(context.size() == a.queries * a.H && logSums.size() == a.queries * a.N && dy.size() == context.size(),
           "attention gradient: shapes do not fit");
    const auto dq = call.out(0, {a.queries, a.ldq});
    const auto dkv = call.out(1, joint ? std::vector<int64_t>{0} : std::vector<int64_t>{a.keys, a.ldk});
    float* dk = joint ? dq.data + a.H : dkv.data;
    float* dv = dk + a.H;
    const float scale = 1 / std::sqrt(static_cast<float>(a.D));
    parallelHeads(a, [&](const Head& h) {
      const int64_t b = h.b, head = h.head, at = h.at, first = h.first, T = h.T;
      auto p = room(ROWS * T), ds = room(ROWS * T);
      if (a.qBounds[b] == a.qBounds[b + 1]) {
        for (int64_t t = first; t < first + T; t++) {
          std::fill(dk + t * a.ldk + at, dk + t * a.ldk + at + a.D, 0.0f);
          std::fill(dv + t * a.ldk + at, dv + t * a.ldk + at + a.D, 0.0f);
        }
      }
      for (int64_t q = a.qBounds[b]; q < a.qBounds[b + 1]; q += ROWS) {
        const int64_t rows = std::min(ROWS, a.qBounds[b + 1] - q);
        const float more = q == a.qBounds[b] ? 0 : 1;
        scores(a, h, q, rows, p.get());
        product(false, true, rows, T, a.D, 1, dy.data + q * a.H + at, a.H, a.v + first * a.ldk + at, a.ldk, 0,
                ds.get(), T);
        for (int64_t r = 0; r < rows; r++) {
          float *weights = p.get() + r * T, *slope = ds.get() + r * T;
          const float* d = dy.data + (q + r) * a.H + at;
          const float* o = context.data + (q + r) * a.H + at;
          float along = 0;
#pragma omp simd reduction(+ : along)
          for (int64_t i = 0; i < a.D; i++) along += d[i] * o[i];
          const float logSum = logSums.data[(q + r) * a.N + head];
          if (drop.on()) {
            const uint32_t key = drop.row((q + r) * a.N + head);
#pragma omp simd
            for (int64_t t = 0; t < T; t++) {
              const float weight = fastExp(weights[t] - logSum), factor = drop.factor(key, t);
              slope[t] = weight * (slope[t] * factor - along) * scale;
              weights[t] = weight * factor;
            }
          } else {
#pragma omp simd
            for (int64_t t = 0; t < T; t++) {
              const float weight = fastExp(weights[t] - logSum);
              slope[t] = weight * (slope[t] - along) * scale;
              weights[t] = weight;
            }
          }
        }
        product(false, false, rows, a.D, T, 1, ds.get(), T, a.k + first * a.ldk + at, a.ldk, 0,
                dq.data + q * a.ldq + at, a.ldq);
        product(true, false, T, a.D, rows, 1, ds.get(), T, a.q + q * a.ldq + at, a.ldq, more,
                dk + first * a.ldk + at, a.ldk);
        product(true, false, T, a.D, rows, 1, p.get(), T, dy.data + q * a.H + at, a.H, more,
                dv + first * a.ldk + at, a.ldk);
      }
    });
  }
};

}  // namespace

void registerAttention() {
  registerOp<Attention>("RealmAttention",
                        {"q: float", "kv: float", "q_bounds: int32", "k_bounds: int32", "seed: int32"},
                        {"context: float", "log_sums: float"}, {"heads: int", "joint: int", "rate: float"});
  registerOp<AttentionGrad>("RealmAttentionGrad",
                            {"q: float", "kv: float", "q_bounds: int32", "k_bounds: int32", "seed: int32",
                             "context: float", "log_sums: float", "dy: float"},
                            {"dq: float", "dkv: float"}, {"heads: int", "joint: int", "rate: float"});
}

}  // namespace realm
