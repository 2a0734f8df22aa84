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
};

#if defined(__AVX2__)

// The rows are tall, and the weights are the same for all of them: they are packed once, in panels that stay in the first-level
// cache, and the rows are read where they lie.

/** Rows that one task multiplies with all panels, at most: with 1,536 numbers each they stay in the second-level cache. */
constexpr int64_t BLOCK = 8 * ROWS;
/** Rows that are added to a gradient of weights at a time: a panel of so many stays in the first-level cache. */
constexpr int64_t DEPTH = 256;

/**
 * y [R, n] = start + x [R, I] W [I, n], then done(first, rows) on each group of finished rows, on all threads.
 * A row of y does not depend on the others.
 */
template <class Done>
void timesWeights(const float* x, int64_t R, const Weights& w, const Start& start, float* y, const Done& done) {
  const int64_t I = w.rows, n = w.columns;
  float* const packed = scratch(panelsSize(n, I));
  parallelRanges((n + COLUMNS - 1) / COLUMNS, 8, [&](long from, long to) {
    const int64_t first = from * COLUMNS, columns = std::min(to * COLUMNS, n) - first;
    const float* const at = w.at + first * w.across;
    if (w.across == 1) packPanels(at, w.down, I, columns, packed + first * I);
    else packTransposed(at, w.across, columns, I, 1, packed + first * I);
  });
  const int64_t share = (R + 2 * threads() - 1) / (2 * threads());  // so that few rows keep all threads busy
  const int64_t height = std::min(BLOCK, (share + ROWS - 1) / ROWS * ROWS);
  parallel(static_cast<int>((R + height - 1) / height), [&](int block) {
    const int64_t first = block * height, rows = std::min(height, R - first);
    timesPanels(x + first * I, I, 1, rows, I, packed, n, start.at ? start.at + first * start.ld : nullptr, start.ld,
                y + first * n, n);
    done(first, rows);
  });
}

/** dW [I, n], with rows of ldw, = x^T du of x [R, I] and du [R, n], and db [n], the sums of du's columns, on all threads. */
inline void weightGradient(const float* x, int64_t I, const float* du, int64_t n, int64_t R, float* dw, int64_t ldw,
                           float* db) {
  parallelTiles(I, n, R, [&](const Tile& t) {
    float* const panel = scratch(panelsSize(COLUMNS, DEPTH));
    for (int64_t first = 0; first < R; first += DEPTH) {
      const int64_t depth = std::min(DEPTH, R - first);
      for (int64_t column = t.column; column < t.column + t.columns; column += COLUMNS) {
        const int64_t width = std::min(COLUMNS, t.column + t.columns - column), whole = vectorsFor(width) * LANES;
        packPanels(du + first * n + column, n, depth, width, panel);
        if (t.row == 0) {
          float sums[COLUMNS] = {};
          for (int64_t p = 0; p < depth; p++)
#pragma omp simd
            for (int64_t c = 0; c < whole; c++) sums[c] += panel[p * whole + c];
          for (int64_t c = 0; c < width; c++) db[column + c] = first == 0 ? sums[c] : db[column + c] + sums[c];
        }
        float* const out = dw + t.row * ldw + column;
        timesPanels(x + first * I + t.row, 1, I, t.rows, depth, panel, width, first == 0 ? nullptr : out, ldw, out, ldw);
      }
    }
  }, ROWS, COLUMNS);
}

#else

// On other processors the library of products is as fast: OpenBLAS's kernels for ARM, or sgemm.cc in WebAssembly.

/**
 * y [R, n] = start + x [R, I] W [I, n], then done(first, rows) on each group of finished rows, on all threads.
 */
template <class Done>
void timesWeights(const float* x, int64_t R, const Weights& w, const Start& start, float* y, const Done& done) {
  const int64_t I = w.rows, n = w.columns;
  const bool turned = w.across != 1;
  parallelTiles(R, 1, n * I, [&](const Tile& t) {
    float* const out = y + t.row * n;
    for (int64_t r = 0; r < t.rows && start.at; r++) std::copy_n(start.at + (t.row + r) * start.ld, n, out + r * n);
    product(false, turned, t.rows, n, I, 1, x + t.row * I, I, w.at, turned ? w.across : w.down, start.at ? 1 : 0, out,
            n);
    done(t.row, t.rows);
  });
}

/** dW [I, n], with rows of ldw, = x^T du of x [R, I] and du [R, n], and db [n], the sums of du's columns, on all threads. */
inline void weightGradient(const float* x, int64_t I, const float* du, int64_t n, int64_t R, float* dw, int64_t ldw,
                           float* db) {
  parallelProduct(true, false, I, n, R, 1, x, I, du, n, 0, dw, ldw);
  columnSums(du, R, n, n, db);
}

#endif

}  // namespace realm
