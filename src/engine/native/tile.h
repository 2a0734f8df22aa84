// Small products whose result stays in registers. OpenBLAS is made for large square matrices: for the sizes of attention and of an
// encoder's rows, most of its time goes into packing both sides.
#pragma once
#include <algorithm>
#include <array>
#include <utility>

#include "maths.h"
#include "transpose.h"

namespace realm {

#if defined(__AVX512F__)
constexpr int64_t LANES = 16, ROWS = 12;  // 24 of 32 registers
#elif defined(__AVX2__)
constexpr int64_t LANES = 8, ROWS = 6;  // 12 of 16
#elif defined(__aarch64__)
constexpr int64_t LANES = 4, ROWS = 8;  // 16 of 32
#else
constexpr int64_t LANES = 4, ROWS = 4;  // V8 gives WebAssembly 15 of 16
#endif
constexpr int64_t VECTORS = 2, COLUMNS = LANES * VECTORS;

typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }

/**
 * c [HEIGHT, WIDTH vectors] = start + a panel of `depth` rows; a(row, p) is at row * down + p * across, and `start` has rows of
 * `startLd`, 0 for one row. Every number is summed in the order of p, whatever the height and the width.
 */
template <int64_t HEIGHT, int64_t WIDTH>
void tile(const float* a, int64_t down, int64_t across, int64_t depth, const float* panel, const float* start,
          int64_t startLd, float* c, int64_t ldc) {
  Vector sums[HEIGHT][WIDTH];
#pragma GCC unroll 16
  for (int64_t r = 0; r < HEIGHT; r++)
#pragma GCC unroll 4
    for (int64_t v = 0; v < WIDTH; v++) sums[r][v] = load(start + r * startLd + LANES * v);
  for (int64_t p = 0; p < depth; p++) {
    Vector w[WIDTH];
#pragma GCC unroll 4
    for (int64_t v = 0; v < WIDTH; v++) w[v] = load(panel + p * WIDTH * LANES + LANES * v);
#pragma GCC unroll 16
    for (int64_t r = 0; r < HEIGHT; r++) {
      const float one = a[r * down + p * across];
#pragma GCC unroll 4
      for (int64_t v = 0; v < WIDTH; v++) sums[r][v] += one * w[v];
    }
  }
#pragma GCC unroll 16
  for (int64_t r = 0; r < HEIGHT; r++)
#pragma GCC unroll 4
    for (int64_t v = 0; v < WIDTH; v++) store(c + r * ldc + LANES * v, sums[r][v]);
}

using TileFunction = void (*)(const float*, int64_t, int64_t, int64_t, const float*, const float*, int64_t, float*,
                              int64_t);

template <int64_t WIDTH, int64_t... LESS>
constexpr std::array<TileFunction, sizeof...(LESS)> tilesOf(std::integer_sequence<int64_t, LESS...>) {
  return {tile<LESS + 1, WIDTH>...};
}
/** tile<h, w> is TILES[w - 1][h - 1]. */
constexpr std::array<TileFunction, ROWS> TILES[VECTORS] = {tilesOf<1>(std::make_integer_sequence<int64_t, ROWS>()),
                                                           tilesOf<2>(std::make_integer_sequence<int64_t, ROWS>())};

/** Vectors that hold so many of a panel's columns. */
inline int64_t vectorsFor(int64_t columns) { return columns > LANES ? VECTORS : 1; }
/** Numbers of `columns` columns in panels of COLUMNS each, `depth` deep; the last panel can be narrower. */
inline int64_t panelsSize(int64_t columns, int64_t depth) { return (columns + LANES - 1) / LANES * LANES * depth; }

/** Packs a matrix [depth, columns], whose rows are `ld` apart, into panels, with zeros beside it. */
inline void packPanels(const float* from, int64_t ld, int64_t depth, int64_t columns, float* to) {
  for (int64_t c = 0; c < columns; c += COLUMNS) {
    const int64_t width = std::min(COLUMNS, columns - c), whole = vectorsFor(width) * LANES;
    for (int64_t p = 0; p < depth; p++, to += whole) {
      std::copy(from + p * ld + c, from + p * ld + c + width, to);
      if (width < whole) std::fill(to + width, to + whole, 0.0f);
    }
  }
}

/** Packs `columns` vectors of `depth` numbers, which are `ld` apart, times `scale`, as the columns of panels. */
inline void packTransposed(const float* from, int64_t ld, int64_t columns, int64_t depth, float scale, float* to) {
  for (; columns > 0; columns -= COLUMNS, from += COLUMNS * ld, to += COLUMNS * depth) {
    const int64_t width = std::min(COLUMNS, columns), whole = vectorsFor(width) * LANES;
    const int64_t right = width / 4 * 4, down = depth / 4 * 4;
    for (int64_t c = 0; c < right; c += 4)
      for (int64_t p = 0; p < down; p += 4) transpose4(from + c * ld + p, ld, scale, to + p * whole + c, whole);
    for (int64_t c = 0; c < whole; c++)
      for (int64_t p = c < right ? down : 0; p < depth; p++) to[p * whole + c] = c < width ? scale * from[c * ld + p] : 0;
  }
}

/**
 * c [rows, columns], with rows of `ldc`, = start + a panels; a(row, p) is at row * down + p * across, and `panels` are as packed,
 * `depth` deep. `start` has rows of `startLd`, 0 for one row; it can be c, and null means 0.
 */
inline void timesPanels(const float* a, int64_t down, int64_t across, int64_t rows, int64_t depth, const float* panels,
                        int64_t columns, const float* start, int64_t startLd, float* c, int64_t ldc) {
  static const float zeros[COLUMNS] = {};
  if (!start) startLd = 0;
  const int64_t parts = (rows + ROWS - 1) / ROWS;
  for (int64_t q = 0; q < columns; q += COLUMNS) {
    const int64_t width = std::min(COLUMNS, columns - q), vectors = vectorsFor(width), whole = vectors * LANES;
    for (int64_t i = 0; i < parts; i++) {
      const int64_t r = rows * i / parts, height = rows * (i + 1) / parts - r;
      const float *const left = a + r * down, *const from = start ? start + r * startLd + q : zeros;
      float* const out = c + r * ldc + q;
      const TileFunction multiply = TILES[vectors - 1][height - 1];
      if (width == whole) {
        multiply(left, down, across, depth, panels, from, startLd, out, ldc);
        continue;
      }
      float edge[ROWS * COLUMNS] = {};
      for (int64_t j = 0; j < height; j++) std::copy(from + j * startLd, from + j * startLd + width, edge + j * whole);
      multiply(left, down, across, depth, panels, edge, whole, edge, whole);
      for (int64_t j = 0; j < height; j++) std::copy(edge + j * whole, edge + j * whole + width, out + j * ldc);
    }
    panels += whole * depth;
  }
}

/** What a kernel's scratch is for: what all threads read, or what each one works in. */
enum Scratch { SHARED, THREADS_OWN };

/** Scratch of this thread, kept from call to call; never freed, as threads live as long as the process. */
template <Scratch>
float* scratch(int64_t size) {
  static thread_local float* kept;
  static thread_local int64_t room;
  if (room < size) {
    delete[] kept;
    kept = nullptr;
    room = 0;
    kept = new float[size];
    room = size;
  }
  return kept;
}

}  // namespace realm
