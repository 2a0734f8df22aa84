#include "kernels.h"
#include "tile.h"

// softmax(Q Kᵀ / √D) V of packed sequences of any lengths: nothing is padded, and no attention weights are kept; the
// gradient recomputes them from each row's log-sum-exp (Dao et al. 2022, arXiv 2205.14135).

namespace realm {
namespace {

// QUERIES at a time, each in a lane: their weights, a row for each key, stay in the first caches, and a softmax adds rows. One query
// alone, such as that of [CLS] in the last layer, would leave the other lanes empty: its numbers are the lanes.

constexpr int64_t QUERIES = 32;
/** Lanes, of whole vectors, for so many queries. */
constexpr int64_t lanesFor(int64_t queries) { return (queries + LANES - 1) / LANES * LANES; }

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
    for (int64_t b = 0; b < B; b++)
      expect(qBounds[b] == qBounds[b + 1] || kBounds[b] < kBounds[b + 1], "attention: a sequence has queries and no keys");
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

/** One head of one sequence: its first column, the sequence's queries and its keys. */
struct Head {
  int64_t head, at, query, queries, key, T;
};

/** Calls work(head) for every head of every sequence, on all threads. */
template <class Work>
void parallelHeads(const Layout& a, const Work& work) {
  parallel(static_cast<int>(a.B * a.N), [&](int task) {
    const int64_t b = task / a.N, head = task % a.N, query = a.qBounds[b], key = a.kBounds[b];
    work(Head{head, head * a.D, query, a.qBounds[b + 1] - query, key, a.kBounds[b + 1] - key});
  });
}

/** Dropout's numbers for some queries of a head. */
struct DropoutRows {
  uint32_t of[QUERIES];
  DropoutRows(const Dropout& drop, const Layout& a, int64_t head, int64_t query, int64_t count) {
    for (int64_t c = 0; c < QUERIES; c++) of[c] = c < count ? drop.row((query + c) * a.N + head) : 0;
  }
};

/** s [T, WIDTH vectors], with rows of `ld`, → e^(s - most), with the largest and the sum of each column. */
template <int64_t WIDTH>
void exponentials(float* s, int64_t T, int64_t ld, float* most, float* sums) {
  Vector top[WIDTH], sum[WIDTH] = {};
  for (int64_t v = 0; v < WIDTH; v++) top[v] = load(s + v * LANES);
  for (int64_t t = 1; t < T; t++)
    for (int64_t v = 0; v < WIDTH; v++) {
      const Vector x = load(s + t * ld + v * LANES);
      top[v] = top[v] > x ? top[v] : x;
    }
  for (int64_t v = 0; v < WIDTH; v++) store(most + v * LANES, top[v]);
  for (int64_t t = 0; t < T; t++) {
    float* row = s + t * ld;
#pragma omp simd
    for (int64_t c = 0; c < WIDTH * LANES; c++) row[c] = fastExp(row[c] - most[c]);
    for (int64_t v = 0; v < WIDTH; v++) sum[v] += load(row + v * LANES);
  }
  for (int64_t v = 0; v < WIDTH; v++) store(sums + v * LANES, sum[v]);
}

/** Σ a b. */
inline float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

/** y + a x → y. */
inline void addTimes(float a, const float* x, float* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) y[i] += a * x[i];
}

/** y a → y. */
inline void times(float a, float* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) y[i] *= a;
}

struct Attention : Settings {
  /** q, kv, bounds of both [B + 1], seed → context [queries, H], log-sum-exp [queries, N]. */
  void run(Call& call) {
    const Layout a(call, heads, joint);
    const Dropout drop(rate, call.in<int32_t>(4).data[0]);
    const auto context = call.out(0, {a.queries, a.H}), logSums = call.out(1, {a.queries, a.N});
    const float scale = 1 / std::sqrt(static_cast<float>(a.D));
    parallelHeads(a, [&](const Head& h) {
      if (h.queries == 1) return one(a, h, drop, scale, context.data, logSums.data);
      if (h.queries == 0) return;
      float* const values = scratch<THREADS_OWN>(panelsSize(a.D, h.T) + QUERIES * (a.D + h.T));
      float *const queries = values + panelsSize(a.D, h.T), *const s = queries + QUERIES * a.D;
      packPanels(a.v + h.key * a.ldk + h.at, a.ldk, h.T, a.D, values);
      for (int64_t q = h.query; q < h.query + h.queries; q += QUERIES) {
        const int64_t count = std::min(QUERIES, h.query + h.queries - q), lanes = lanesFor(count);
        packTransposed(a.q + q * a.ldq + h.at, a.ldq, count, a.D, scale, queries);
        timesPanels(a.k + h.key * a.ldk + h.at, a.ldk, 1, h.T, a.D, queries, lanes, nullptr, 0, s, lanes);
        float most[QUERIES], sums[QUERIES];
        for (int64_t c = 0; c < lanes; c += COLUMNS)
          (lanes - c > LANES ? exponentials<VECTORS> : exponentials<1>)(s + c, h.T, lanes, most + c, sums + c);
        if (drop.on()) {
          const DropoutRows random(drop, a, h.head, q, count);
          for (int64_t t = 0; t < h.T; t++)
#pragma omp simd
            for (int64_t c = 0; c < lanes; c++) s[t * lanes + c] *= drop.factor(random.of[c], t);
        }
        timesPanels(s, 1, lanes, count, h.T, values, a.D, nullptr, 0, context.data + q * a.H + h.at, a.H);
        for (int64_t c = 0; c < count; c++) {
          times(1 / sums[c], context.data + (q + c) * a.H + h.at, a.D);
          logSums.data[(q + c) * a.N + h.head] = most[c] + std::log(sums[c]);
        }
      }
    });
  }

  /** The same for a sequence with one query. */
  static void one(const Layout& a, const Head& h, const Dropout& drop, float scale, float* context, float* logSums) {
    float* const s = scratch<THREADS_OWN>(h.T);
    for (int64_t t = 0; t < h.T; t++)
      s[t] = scale * dot(a.q + h.query * a.ldq + h.at, a.k + (h.key + t) * a.ldk + h.at, a.D);
    float most = s[0], sum = 0;
    for (int64_t t = 1; t < h.T; t++) most = most > s[t] ? most : s[t];
#pragma omp simd reduction(+ : sum)
    for (int64_t t = 0; t < h.T; t++) {
      s[t] = fastExp(s[t] - most);
      sum += s[t];
    }
    float* const out = context + h.query * a.H + h.at;
    std::fill(out, out + a.D, 0.0f);
    const uint32_t key = drop.row(h.query * a.N + h.head);
    for (int64_t t = 0; t < h.T; t++)
      addTimes(drop.on() ? s[t] * drop.factor(key, t) : s[t], a.v + (h.key + t) * a.ldk + h.at, out, a.D);
    times(1 / sum, out, a.D);
    logSums[h.query * a.N + h.head] = most + std::log(sum);
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
      const int64_t keyAt = h.key * a.ldk + h.at;
      if (h.queries == 0) {
        for (int64_t t = 0; t < h.T; t++) {
          std::fill(dk + keyAt + t * a.ldk, dk + keyAt + t * a.ldk + a.D, 0.0f);
          std::fill(dv + keyAt + t * a.ldk, dv + keyAt + t * a.ldk + a.D, 0.0f);
        }
        return;
      }
      if (h.queries == 1) {
        const float *const query = a.q + h.query * a.ldq + h.at, *const d = dy.data + h.query * a.H + h.at;
        const float along = dot(d, context.data + h.query * a.H + h.at, a.D);
        const float logSum = logSums.data[h.query * a.N + h.head];
        float* const slopes = dq.data + h.query * a.ldq + h.at;
        std::fill(slopes, slopes + a.D, 0.0f);
        const uint32_t random = drop.row(h.query * a.N + h.head);
        for (int64_t t = 0, at = keyAt; t < h.T; t++, at += a.ldk) {
          const float p = fastExp(scale * dot(query, a.k + at, a.D) - logSum);
          const float factor = drop.on() ? drop.factor(random, t) : 1;
          const float slope = p * (dot(d, a.v + at, a.D) * factor - along) * scale;
          addTimes(slope, a.k + at, slopes, a.D);
#pragma omp simd
          for (int64_t i = 0; i < a.D; i++) {
            dk[at + i] = slope * query[i];
            dv[at + i] = p * factor * d[i];
          }
        }
        return;
      }
      const int64_t block = panelsSize(a.D, QUERIES);
      float* const keys = scratch<THREADS_OWN>(panelsSize(a.D, h.T) + QUERIES * 2 * h.T + block);
      float *const weights = keys + panelsSize(a.D, h.T), *const slopes = weights + QUERIES * h.T,
                   *const packed = slopes + QUERIES * h.T;
      packPanels(a.k + keyAt, a.ldk, h.T, a.D, keys);
      for (int64_t q = h.query; q < h.query + h.queries; q += QUERIES) {
        const int64_t count = std::min(QUERIES, h.query + h.queries - q), lanes = lanesFor(count);
        const float *const queries = a.q + q * a.ldq + h.at, *const d = dy.data + q * a.H + h.at;
        packTransposed(queries, a.ldq, count, a.D, scale, packed);
        timesPanels(a.k + keyAt, a.ldk, 1, h.T, a.D, packed, lanes, nullptr, 0, weights, lanes);
        packTransposed(d, a.H, count, a.D, 1, packed);
        timesPanels(a.v + keyAt, a.ldk, 1, h.T, a.D, packed, lanes, nullptr, 0, slopes, lanes);
        float logSum[QUERIES] = {}, along[QUERIES] = {};
        for (int64_t c = 0; c < count; c++) {
          along[c] = dot(d + c * a.H, context.data + (q + c) * a.H + h.at, a.D);
          logSum[c] = logSums.data[(q + c) * a.N + h.head];
        }
        const DropoutRows random(drop, a, h.head, q, count);
        for (int64_t t = 0; t < h.T; t++) {
          float *weight = weights + t * lanes, *slope = slopes + t * lanes;
          if (drop.on()) {
#pragma omp simd
            for (int64_t c = 0; c < lanes; c++) {
              const float p = fastExp(weight[c] - logSum[c]), factor = drop.factor(random.of[c], t);
              slope[c] = p * (slope[c] * factor - along[c]) * scale;
              weight[c] = p * factor;
            }
          } else {
#pragma omp simd
            for (int64_t c = 0; c < lanes; c++) {
              const float p = fastExp(weight[c] - logSum[c]);
              slope[c] = p * (slope[c] - along[c]) * scale;
              weight[c] = p;
            }
          }
        }
        const bool more = q > h.query;
        timesPanels(slopes, 1, lanes, count, h.T, keys, a.D, nullptr, 0, dq.data + q * a.ldq + h.at, a.ldq);
        packPanels(queries, a.ldq, count, a.D, packed);
        timesPanels(slopes, lanes, 1, h.T, count, packed, a.D, more ? dk + keyAt : nullptr, a.ldk, dk + keyAt, a.ldk);
        packPanels(d, a.H, count, a.D, packed);
        timesPanels(weights, lanes, 1, h.T, count, packed, a.D, more ? dv + keyAt : nullptr, a.ldk, dv + keyAt, a.ldk);
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
