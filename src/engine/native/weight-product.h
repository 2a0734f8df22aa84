// Products of a tall matrix, a row for each token, with weights: most of the work of an encoder.
#pragma once
#include "tile.h"

namespace realm {

/** A matrix with its element (row, column) at row * down + column * across: also columns of a wider one, or a transposed one. `down` or `across` is 1. */
struct Weights {
  const float* at;
  int64_t rows, columns, down, across;
};

/** What a product is added to: rows `ld` apart, so one row for all if that is 0; null: nothing. */
struct Start {
  const float* at = nullptr;
  int64_t ld = 0;

  Start from(int64_t row) const { return {at ? at + row * ld : nullptr, ld}; }
};

/** Where the gradients of weights [I, n] go, in rows of ldw, and of a bias [n]. */
struct WeightGradient {
  int64_t I, n;
  float* dw;
  int64_t ldw;
  float* db;

  void clear() const {
    for (int64_t i = 0; i < I; i++) std::fill(dw + i * ldw, dw + i * ldw + n, 0.0f);
    std::fill(db, db + n, 0.0f);
  }
};

#if defined(__AVX2__)

// The rows are tall, and the weights are the same for all of them: they are packed once, in panels that stay in the first-level
// cache, and the rows are read where they lie.

/** Rows that one task multiplies with all panels, at most: with 1,536 numbers each they stay in the second-level cache. */
constexpr int64_t BLOCK = 8 * ROWS;
/** Rows that are added to a gradient of weights at a time: a panel of so many stays in the first-level cache. */
constexpr int64_t DEPTH = 192;

/** Weights that are ready for products: their panels. */
struct Packed {
  const float* panels;
  int64_t rows, columns;
};

/** Numbers of the packed weights. */
inline int64_t packedSize(const Weights& w) { return panelsSize(w.columns, w.rows); }

/** Packs weights into `to`, on all threads. */
inline Packed pack(const Weights& w, float* to) {
  const int64_t I = w.rows, n = w.columns;
  parallelRanges((n + COLUMNS - 1) / COLUMNS, 8, [&](long from, long end) {
    const int64_t first = from * COLUMNS, columns = std::min(end * COLUMNS, n) - first;
    const float* const at = w.at + first * w.across;
    if (w.across == 1) packPanels(at, w.down, I, columns, to + first * I);
    else packTransposed(at, w.across, columns, I, 1, to + first * I);
  });
  return {to, I, n};
}

/** y [rows, n] = start + x [rows, I] W [I, n], on this thread. A row of y does not depend on the others. */
inline void timesPacked(const float* x, int64_t rows, const Packed& w, const Start& start, float* y) {
  timesPanels(x, w.rows, 1, rows, w.rows, w.panels, w.columns, start.at, start.ld, y, w.columns);
}

/**
 * x^T du of x [R, I] and du [R, n], and the sums of du's columns, on all threads; with `more` they are added to what there is.
 */
inline void weightGradient(const float* x, const float* du, int64_t R, const WeightGradient& g, bool more = false) {
  if (R == 0 && !more) return g.clear();
  const auto [I, n, dw, ldw, db] = g;
  parallelTiles(I, n, R, [&](const Tile& t) {
    float* const panel = scratch<THREADS_OWN>(panelsSize(COLUMNS, DEPTH));
    for (int64_t first = 0; first < R; first += DEPTH) {
      const int64_t depth = std::min(DEPTH, R - first);
      const bool add = more || first > 0;
      for (int64_t column = t.column; column < t.column + t.columns; column += COLUMNS) {
        const int64_t width = std::min(COLUMNS, t.column + t.columns - column), whole = vectorsFor(width) * LANES;
        packPanels(du + first * n + column, n, depth, width, panel);
        if (t.row == 0) {
          float sums[COLUMNS] = {};
          for (int64_t p = 0; p < depth; p++)
#pragma omp simd
            for (int64_t c = 0; c < whole; c++) sums[c] += panel[p * whole + c];
          for (int64_t c = 0; c < width; c++) db[column + c] = add ? db[column + c] + sums[c] : sums[c];
        }
        float* const out = dw + t.row * ldw + column;
        timesPanels(x + first * I + t.row, 1, I, t.rows, depth, panel, width, add ? out : nullptr, ldw, out, ldw);
      }
    }
  }, ROWS, COLUMNS);
}

#else

// On other processors the library of products is as fast: OpenBLAS's kernels for ARM, or sgemm.cc in WebAssembly. It packs the
// weights for each block of rows.

constexpr int64_t BLOCK = 512;

/** Weights that are ready for products: where they lie. */
using Packed = Weights;

inline int64_t packedSize(const Weights&) { return 0; }
inline Packed pack(const Weights& w, float*) { return w; }

/** y [rows, n] = start + x [rows, I] W [I, n], on this thread. */
inline void timesPacked(const float* x, int64_t rows, const Packed& w, const Start& start, float* y) {
  const int64_t n = w.columns;
  const bool turned = w.across != 1;
  for (int64_t r = 0; r < rows && start.at; r++) std::copy_n(start.at + r * start.ld, n, y + r * n);
  product(false, turned, rows, n, w.rows, 1, x, w.rows, w.at, turned ? w.across : w.down, start.at ? 1 : 0, y, n);
}

/**
 * x^T du of x [R, I] and du [R, n], and the sums of du's columns, on all threads; with `more` they are added to what there is.
 */
inline void weightGradient(const float* x, const float* du, int64_t R, const WeightGradient& g, bool more = false) {
  if (R == 0 && !more) return g.clear();
  if (!more) std::fill_n(g.db, g.n, 0.0f);
  parallelProduct(true, false, g.I, g.n, R, 1, x, g.I, du, g.n, more ? 1 : 0, g.dw, g.ldw);
  addColumnSums(du, R, g.n, g.n, g.db);
}

#endif

/** Calls work(first, rows) on blocks of R rows, each of which takes so many operations, on all threads. */
template <class Work>
void parallelRows(int64_t R, double operations, const Work& work) {
  if (R == 0) return;
  const int64_t parts = tasksFor(R * operations);  // so that few rows keep all threads busy
  const int64_t share = (R + parts - 1) / parts, height = std::min(BLOCK, (share + ROWS - 1) / ROWS * ROWS);
  parallel(static_cast<int>((R + height - 1) / height), [&](int block) {
    const int64_t first = block * height;
    work(first, std::min(height, R - first));
  });
}

}  // namespace realm
