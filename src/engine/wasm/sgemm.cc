// Products of matrices, as Goto and van de Geijn (2008, "Anatomy of High-Performance Matrix Multiplication") block them:
// parts of A and B are packed so that the inner kernel reads both in order. OpenBLAS has no kernels for WebAssembly.
#include <wasm_simd128.h>

#include <algorithm>
#include <cstdint>

#include "../native/transpose.h"
#include "tensorflow/c/kernels.h"

namespace {

constexpr int ROWS = 4, COLUMNS = 8;                   // of C in registers: a V8 on x64 has 15 of 128 bits
constexpr int MAX_K = 256, MAX_ROWS = 64, MAX_COLUMNS = 512;  // of the packed parts: A's 64 kB, B's 512 kB

/** Scratch of one thread. */
struct Packed {
  float a[MAX_ROWS * MAX_K], b[MAX_COLUMNS * MAX_K];
};
thread_local Packed* scratch = nullptr;

/** A matrix with its elements (row, column) at row * down + column * across; one of the two steps is 1. */
struct Matrix {
  const float* at;
  int64_t down, across;

  Matrix from(int64_t row, int64_t column) const { return {at + row * down + column * across, down, across}; }
};

/** Packs `count` rows of width numbers into strips of N rows: out[strip][column][row in strip], zeros where rows end. */
template <int N>
void pack(const Matrix& m, int count, int width, float scale, float* out) {
  const v128_t factor = wasm_f32x4_splat(scale);
  for (int r = 0; r < count; r += N, out += N * width) {
    const float* from = m.at + r * m.down;
    if (count - r < N) {
      for (int k = 0; k < width; k++)
        for (int i = 0; i < N; i++) out[k * N + i] = r + i < count ? scale * from[i * m.down + k * m.across] : 0;
    } else if (m.down == 1) {
      for (int k = 0; k < width; k++)
        for (int i = 0; i < N; i += 4)
          wasm_v128_store(out + k * N + i, wasm_f32x4_mul(factor, wasm_v128_load(from + k * m.across + i)));
    } else {
      int k = 0;
      for (; k + 4 <= width; k += 4) {
        for (int i = 0; i < N; i += 4) realm::transpose4(from + i * m.down + k, m.down, scale, out + k * N + i, N);
      }
      for (; k < width; k++)
        for (int i = 0; i < N; i++) out[k * N + i] = scale * from[i * m.down + k];
    }
  }
}

/** C [ROWS, COLUMNS] = a strip of A times a strip of B + beta C. */
void inner(int k, const float* a, const float* b, float beta, float* c, int64_t ldc) {
  v128_t sum[ROWS][2];
  for (auto& row : sum) row[0] = row[1] = wasm_f32x4_splat(0);
#pragma clang loop unroll(disable)  // unrolled, V8 runs out of registers: 22 GFLOPS instead of 34
  for (; k > 0; k--, a += ROWS, b += COLUMNS) {
    const v128_t b0 = wasm_v128_load(b), b1 = wasm_v128_load(b + 4);
    for (int i = 0; i < ROWS; i++) {
      const v128_t x = wasm_v128_load32_splat(a + i);
      sum[i][0] = wasm_f32x4_add(sum[i][0], wasm_f32x4_mul(x, b0));
      sum[i][1] = wasm_f32x4_add(sum[i][1], wasm_f32x4_mul(x, b1));
    }
  }
  const v128_t old = wasm_f32x4_splat(beta);
  for (int i = 0; i < ROWS; i++, c += ldc) {
    for (int j = 0; j < 2; j++) {
      if (beta != 0) sum[i][j] = wasm_f32x4_add(sum[i][j], wasm_f32x4_mul(old, wasm_v128_load(c + 4 * j)));
      wasm_v128_store(c + 4 * j, sum[i][j]);
    }
  }
}

/** The same for the `rows` by `columns` of C that there are at its edges. */
void innerEdge(int k, const float* a, const float* b, float beta, float* c, int64_t ldc, int rows, int columns) {
  float whole[ROWS * COLUMNS] = {};
  for (int i = 0; i < rows && beta != 0; i++)
    for (int j = 0; j < columns; j++) whole[i * COLUMNS + j] = c[i * ldc + j];
  inner(k, a, b, beta, whole, COLUMNS);
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < columns; j++) c[i * ldc + j] = whole[i * COLUMNS + j];
}

}  // namespace

extern "C" void scipy_cblas_sgemm(int, int transA, int transB, int m, int n, int k, float alpha, const float* a,
                                  int lda, const float* b, int ldb, float beta, float* c, int ldc) {
  constexpr int PLAIN = 111;
  const Matrix rows = transA == PLAIN ? Matrix{a, lda, 1} : Matrix{a, 1, lda};     // A [m, k]
  const Matrix columns = transB == PLAIN ? Matrix{b, 1, ldb} : Matrix{b, ldb, 1};  // Bᵀ [n, k]
  if (!scratch) scratch = new Packed;
  for (int j = 0; j < n; j += MAX_COLUMNS) {
    const int width = std::min(MAX_COLUMNS, n - j);
    int p = 0;
    do {  // once even if k is 0: C = beta C
      const int depth = std::min(MAX_K, k - p);
      const float kept = p == 0 ? beta : 1;
      pack<COLUMNS>(columns.from(j, p), width, depth, 1, scratch->b);
      for (int i = 0; i < m; i += MAX_ROWS) {
        const int height = std::min(MAX_ROWS, m - i);
        pack<ROWS>(rows.from(i, p), height, depth, alpha, scratch->a);
        for (int s = 0; s < width; s += COLUMNS) {
          for (int r = 0; r < height; r += ROWS) {
            float* out = c + int64_t{i + r} * ldc + j + s;
            const float *packedA = scratch->a + r * depth, *packedB = scratch->b + s * depth;
            if (height - r >= ROWS && width - s >= COLUMNS) inner(depth, packedA, packedB, kept, out, ldc);
            else innerEdge(depth, packedA, packedB, kept, out, ldc, std::min(ROWS, height - r), std::min(COLUMNS, width - s));
          }
        }
      }
      p += depth;
    } while (p < k);
  }
}
