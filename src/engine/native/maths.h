// Functions that the compiler can vectorise, matrix products, and dropout's random numbers.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

#include "pool.h"

#if defined(__x86_64__) || defined(__aarch64__)
extern "C" void scipy_cblas_sgemm(int order, int transA, int transB, int m, int n, int k, float alpha, const float* a,
                                  int lda, const float* b, int ldb, float beta, float* c, int ldc);
#endif

namespace realm {

/** An uninitialised buffer of n numbers. */
inline std::unique_ptr<float[]> room(int64_t n) { return std::unique_ptr<float[]>(new float[n > 0 ? n : 1]); }

/** e^x within 2 units in the last place, after the Cephes library's expf; NaN stays NaN. */
inline float fastExp(float x) {
  x = x > 88.3f ? 88.3f : x;
  x = x < -87.3f ? -87.3f : x;
  const float n = std::rint(x * 1.44269504088896341f);
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return y * scale;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + fastExp(-x)); }

/** Standard normal distribution function within 1e-7 (Abramowitz and Stegun, 7.1.26). @param bell e^(-x²/2) */
inline float normalCdf(float x, float bell) {
  const float t = 1.0f / (1.0f + 0.23164190f * std::fabs(x));
  const float p =
      ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
  const float tail = 0.5f * p * bell;
  return x < 0 ? tail : 1.0f - tail;
}

/** C = alpha A B + beta C on the current thread; ta and tb transpose. */
inline void product(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
                    const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  scipy_cblas_sgemm(101, ta ? 112 : 111, tb ? 112 : 111, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

/** A rectangle of a product's result. */
struct Tile {
  int64_t row, rows, column, columns;
};

/** Into how many tasks to divide so many operations: enough to keep all threads busy, but none too small to be worth a task. */
inline int64_t tasksFor(double operations) {
  if (operations < 2e5 || threads() == 1) return 1;
  return operations < 4e6 ? threads() : 2 * threads();
}

/**
 * Calls work(tile) on tiles that cover m by n, in as many tasks as are worth it. They start at multiples of `height` and `width`.
 */
template <class Work>
void parallelTiles(int64_t m, int64_t n, int64_t k, const Work& work, int64_t height = 1, int64_t width = 1) {
  const int64_t tasks = tasksFor(2.0 * m * n * k);
  int64_t down = 1, across = 1;
  while (down * across < tasks) {  // halve the longer side of the tiles
    if (m / down >= n / across) down *= 2;
    else across *= 2;
  }
  const int64_t strips = (m + height - 1) / height, panels = (n + width - 1) / width;
  if (down > strips) down = strips;
  if (across > panels) across = panels;
  const auto start = [](int64_t count, int64_t i, int64_t parts, int64_t unit, int64_t end) {
    const int64_t at = count * i / parts * unit;
    return at < end ? at : end;
  };
  parallel(static_cast<int>(down * across), [&](int i) {
    const int64_t r = i / across, c = i % across;
    const int64_t row = start(strips, r, down, height, m), column = start(panels, c, across, width, n);
    work(Tile{row, start(strips, r + 1, down, height, m) - row, column,
              start(panels, c + 1, across, width, n) - column});
  });
}

/** C = alpha A B + beta C on all threads. */
inline void parallelProduct(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
                            int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  parallelTiles(m, n, k, [&](const Tile& t) {
    product(ta, tb, t.rows, t.columns, k, alpha, ta ? a + t.row : a + t.row * lda, lda,
            tb ? b + t.column * ldb : b + t.column, ldb, beta, c + t.row * ldc + t.column, ldc);
  });
}

/** Adds the column sums of x [rows, columns] with row length ld to `sums`, on all threads. */
inline void addColumnSums(const float* x, int64_t rows, int64_t columns, int64_t ld, float* sums) {
  parallelRanges(columns, 32, [&](long from, long to) {
    for (int64_t r = 0; r < rows; r++) {
      const float* row = x + r * ld;
#pragma omp simd
      for (long c = from; c < to; c++) sums[c] += row[c];
    }
  });
}

/** Mixes the bits of a number (the finaliser of MurmurHash3). */
inline uint32_t mix(uint32_t h) {
  h ^= h >> 16;
  h *= 0x85ebca6bu;
  h ^= h >> 13;
  h *= 0xc2b2ae35u;
  return h ^ (h >> 16);
}

/** Dropout without a stored mask: the seed determines whether unit (row, column) is kept, both forwards and backwards. */
struct Dropout {
  uint32_t seed = 0;
  uint32_t threshold = 0;
  float kept = 1;

  Dropout(float rate, int32_t seed)
      : seed(static_cast<uint32_t>(seed)),
        threshold(static_cast<uint32_t>(static_cast<double>(rate) * 4294967295.0)),
        kept(1 / (1 - rate)) {}
  bool on() const { return threshold > 0; }
  uint32_t row(int64_t r) const { return mix(seed ^ mix(static_cast<uint32_t>(r) * 0x9e3779b9u + 1)); }
  /** 0 or 1 / (1 - rate). */
  float factor(uint32_t row, uint32_t column) const {
    return mix(row ^ (column * 0x9e3779b9u)) < threshold ? 0.0f : kept;
  }
};

}  // namespace realm
