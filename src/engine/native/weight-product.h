// Products of a tall matrix, a row for each token, with weights: most of the work of an encoder.
#pragma once
#include "tile.h"

namespace realm {

/** A matrix with its element (row, column) at row * down + column * across: also columns of a wider one, or a transposed one. */
struct Weights {
  const float* at;
  int64_t rows, columns, down, across;
};

#if defined(__AVX2__)

// The rows are tall, and the weights are the same for all of them: they are packed once, in panels that stay in the first-level
// cache, and the rows are read where they lie.

/** Rows that one task multiplies with all panels, at most: with 1,536 numbers each they stay in the second-level cache. */
constexpr int64_t BLOCK = 8 * ROWS;
/** Rows that are added to a gradient of weights at a time: a panel of so many stays in the first-level cache. */
constexpr int64_t DEPTH = 256;

/** Packs `width` columns, from `first` on, and all rows of a matrix into a panel [rows, COLUMNS], with zeros beside them. */
inline void packPanel(const Weights& w, int64_t first, int64_t width, float* panel) {
  const float* from = w.at + first * w.across;
  if (width == COLUMNS && w.across == 1) {
    for (int64_t p = 0; p < w.rows; p++) std::memcpy(panel + p * COLUMNS, from + p * w.down, COLUMNS * sizeof(float));
  } else if (width == COLUMNS && w.down == 1) {
    packTransposed(from, w.across, COLUMNS, w.rows, 1, panel);
  } else {
    std::fill(panel, panel + w.rows * COLUMNS, 0.0f);
    for (int64_t p = 0; p < w.rows; p++)
      for (int64_t c = 0; c < width; c++) panel[p * COLUMNS + c] = from[c * w.across + p * w.down];
  }
}

/**
 * y [R, n] = x [R, I] W [I, n] + bias (null: none), then done(first, rows) on each group of finished rows, on all threads.
 * A row of y does not depend on the others.
 */
template <class Done>
void timesWeights(const float* x, int64_t R, const Weights& w, const float* bias, float* y, const Done& done) {
  const int64_t I = w.rows, n = w.columns, panels = (n + COLUMNS - 1) / COLUMNS;
  float* const packed = scratch(panels * (I + 1) * COLUMNS);
  float* const start = packed + panels * I * COLUMNS;
  std::fill(start, start + panels * COLUMNS, 0.0f);
  if (bias) std::copy(bias, bias + n, start);
  parallelRanges(panels, 8, [&](long from, long to) {
    for (long q = from; q < to; q++)
      packPanel(w, q * COLUMNS, std::min(COLUMNS, n - q * COLUMNS), packed + q * I * COLUMNS);
  });
  const int64_t share = (R + 2 * threads() - 1) / (2 * threads());  // so that few rows keep all threads busy
  const int64_t height = std::min(BLOCK, (share + ROWS - 1) / ROWS * ROWS);
  parallel(static_cast<int>((R + height - 1) / height), [&](int block) {
    const int64_t first = block * height, rows = std::min(height, R - first);
    float edge[ROWS * COLUMNS];
    for (int64_t q = 0; q < panels; q++) {
      const int64_t width = std::min(COLUMNS, n - q * COLUMNS);
      const float* const panel = packed + q * I * COLUMNS;
      for (int64_t r = 0; r < rows; r += ROWS) {
        const int64_t tall = std::min(ROWS, rows - r);
        const float* const in = x + (first + r) * I;
        float* const out = y + (first + r) * n + q * COLUMNS;
        const TileFunction multiply = TILES[VECTORS - 1][tall - 1];
        if (width == COLUMNS) {
          multiply(in, I, 1, I, panel, start + q * COLUMNS, 0, out, n);
        } else {
          multiply(in, I, 1, I, panel, start + q * COLUMNS, 0, edge, COLUMNS);
          for (int64_t i = 0; i < tall; i++) std::copy(edge + i * COLUMNS, edge + i * COLUMNS + width, out + i * n);
        }
      }
    }
    done(first, rows);
  });
}

/** dW [I, n], with rows of ldw, = x^T du of x [R, I] and du [R, n], and db [n], the sums of du's columns, on all threads. */
inline void weightGradient(const float* x, int64_t I, const float* du, int64_t n, int64_t R, float* dw, int64_t ldw,
                           float* db) {
  parallelTiles(I, n, R, [&](const Tile& t) {
    float* const panel = scratch(DEPTH * COLUMNS);
    float edge[ROWS * COLUMNS];
    for (int64_t first = 0; first < R; first += DEPTH) {
      const int64_t depth = std::min(DEPTH, R - first);
      for (int64_t column = t.column; column < t.column + t.columns; column += COLUMNS) {
        const int64_t width = std::min(COLUMNS, t.column + t.columns - column);
        packPanel({du + first * n, depth, n, n, 1}, column, width, panel);
        if (t.row == 0) {
          Vector sums[VECTORS] = {};
          for (int64_t p = 0; p < depth; p++)
            for (int64_t v = 0; v < VECTORS; v++) sums[v] += load(panel + p * COLUMNS + v * LANES);
          for (int64_t v = 0; v < VECTORS; v++) store(edge + v * LANES, sums[v]);
          for (int64_t c = 0; c < width; c++) db[column + c] = first == 0 ? edge[c] : db[column + c] + edge[c];
        }
        for (int64_t row = t.row; row < t.row + t.rows; row += ROWS) {
          const int64_t rows = std::min(ROWS, t.row + t.rows - row);
          float* const out = dw + row * ldw + column;
          const bool inside = width == COLUMNS;
          float* const sums = inside ? out : edge;
          const int64_t ld = inside ? ldw : COLUMNS;
          for (int64_t i = 0; i < rows; i++) {
            if (first == 0) std::fill(sums + i * ld, sums + i * ld + width, 0.0f);
            else if (!inside) std::copy(out + i * ldw, out + i * ldw + width, sums + i * ld);
          }
          TILES[VECTORS - 1][rows - 1](x + first * I + row, 1, I, depth, panel, sums, ld, sums, ld);
          for (int64_t i = 0; i < rows && !inside; i++) std::copy(sums + i * ld, sums + i * ld + width, out + i * ldw);
        }
      }
    }
  }, ROWS, COLUMNS);
}

#else

// On other processors the library of products is as fast: OpenBLAS's kernels for ARM, or sgemm.cc in WebAssembly.

/**
 * y [R, n] = x [R, I] W [I, n] + bias (null: none), then done(first, rows) on each group of finished rows, on all threads.
 */
template <class Done>
void timesWeights(const float* x, int64_t R, const Weights& w, const float* bias, float* y, const Done& done) {
  const int64_t I = w.rows, n = w.columns;
  const bool turned = w.across != 1;
  parallelTiles(R, 1, n * I, [&](const Tile& t) {
    float* const out = y + t.row * n;
    for (int64_t r = 0; r < t.rows && bias; r++) std::copy(bias, bias + n, out + r * n);
    product(false, turned, t.rows, n, I, 1, x + t.row * I, I, w.at, turned ? w.across : w.down, bias ? 1 : 0, out, n);
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
