#include "dense-bf16.h"

#include "kernels.h"
#include "activation.h"

// f(x W + b), and a feed-forward network of two of these, without a gradient. x and W are rounded to BF16 (float's exponent and 8 bits
// of its fraction) and summed as floats: twice as many products in an instruction of AVX-512. Only for embedding; see
// src/retrieval/precision.ts.

#if defined(__AVX512BF16__) && defined(__AVX512BW__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

namespace realm {
namespace {

/** A tile of the result, which stays in registers: so many rows, and vectors of 16 columns. */
constexpr int64_t ROWS = 8, VECTORS = 3, COLUMNS = 16 * VECTORS;
/** Rows that one task rounds and multiplies: with 1,536 numbers each they stay in the second-level cache. */
constexpr int64_t BLOCK = 12 * ROWS;

/** Pairs of BF16 numbers in a row of n floats. */
int64_t pairsOf(int64_t n) { return (n + 1) / 2; }

/** Two floats rounded to the nearest BF16 numbers, the first in the lower half. */
int32_t roundPair(float first, float second) {
  const __m128bh both = _mm_cvtneps_pbh(_mm_set_ps(0, 0, second, first));
  int32_t pair;
  std::memcpy(&pair, &both, 4);
  return pair;
}

/** A row of n floats, rounded. */
void roundRow(const float* x, int64_t n, int32_t* pairs) {
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m512bh rounded = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + 16), _mm512_loadu_ps(x + i));
    std::memcpy(pairs + i / 2, &rounded, 64);
  }
  for (; i + 16 <= n; i += 16) {
    const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(x + i));
    std::memcpy(pairs + i / 2, &rounded, 32);
  }
  for (; i < n; i += 2) pairs[i / 2] = roundPair(x[i], i + 1 < n ? x[i + 1] : 0);
}

/** Rows of n floats, rounded: whole tiles of them, with zeros after the last. */
void roundRows(const float* x, int64_t rows, int64_t n, std::vector<int32_t>& pairs) {
  const int64_t P = pairsOf(n);
  pairs.assign((rows + ROWS - 1) / ROWS * ROWS * P, 0);
  for (int64_t r = 0; r < rows; r++) roundRow(x + r * n, n, pairs.data() + r * P);
}

/** ROWS rows of x with P pairs each, times the columns of one panel [P, COLUMNS], plus their biases → c with rows of ldc. */
void tile(const int32_t* x, int64_t P, const int32_t* panel, const float* bias, float* c, int64_t ldc) {
  __m512 sums[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int64_t r = 0; r < ROWS; r++)
#pragma GCC unroll 3
    for (int64_t v = 0; v < VECTORS; v++) sums[r][v] = _mm512_loadu_ps(bias + 16 * v);
  for (int64_t p = 0; p < P; p++) {
    __m512bh w[VECTORS];
#pragma GCC unroll 3
    for (int64_t v = 0; v < VECTORS; v++) w[v] = (__m512bh)_mm512_loadu_si512(panel + p * COLUMNS + 16 * v);
#pragma GCC unroll 8
    for (int64_t r = 0; r < ROWS; r++) {
      const __m512bh pair = (__m512bh)_mm512_set1_epi32(x[r * P + p]);
#pragma GCC unroll 3
      for (int64_t v = 0; v < VECTORS; v++) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], pair, w[v]);
    }
  }
#pragma GCC unroll 8
  for (int64_t r = 0; r < ROWS; r++)
#pragma GCC unroll 3
    for (int64_t v = 0; v < VECTORS; v++) _mm512_storeu_ps(c + r * ldc + 16 * v, sums[r][v]);
}

struct PackBf16 {
  void attributes(Attributes&) {}
  /** W [I, O] → panels of COLUMNS columns, with zeros where W ends: [panels, pairs of rows, COLUMNS]. */
  void run(Call& call) {
    const auto w = call.in(0);
    const int64_t I = w.dim(0), O = w.dim(1), P = pairsOf(I), panels = (O + COLUMNS - 1) / COLUMNS;
    const auto packed = call.out<int32_t>(0, {panels, P, COLUMNS});
    parallel(static_cast<int>(panels), [&](int panel) {
      for (int64_t p = 0; p < P; p++) {
        for (int64_t c = 0; c < COLUMNS; c++) {
          const int64_t column = panel * COLUMNS + c;
          const float* from = w.data + 2 * p * O + column;
          packed.data[(panel * P + p) * COLUMNS + c] =
              column < O ? roundPair(from[0], 2 * p + 1 < I ? from[O] : 0) : 0;
        }
      }
    });
  }
};

/** W [I, O] as PackBf16 gives it, and the bias [O]. */
struct Layer {
  const int32_t* panels;
  const float* bias;
  int64_t P, O;

  Layer(const Tensor<const int32_t>& w, const Tensor<const float>& b, int64_t I)
      : panels(w.data), bias(b.data), P(pairsOf(I)), O(b.size()) {
    expect(w.dim(1) == P && w.dim(2) == COLUMNS && w.dim(0) == count(), "dense in BF16: shapes do not fit");
  }
  int64_t count() const { return (O + COLUMNS - 1) / COLUMNS; }
  const int32_t* panel(int64_t i) const { return panels + i * P * COLUMNS; }
  /** The biases of a panel, with zeros where they end. */
  void biasOf(int64_t panel, float* to) const {
    for (int64_t c = 0, column = panel * COLUMNS; c < COLUMNS; c++, column++) to[c] = column < O ? bias[column] : 0;
  }
};

/** f(x W + b) of rounded rows, as roundRows gives them: columns from `from` on → y [rows, n]. */
void multiply(const int32_t* x, int64_t rows, const Layer& w, int activation, int64_t from, int64_t n, float* y) {
  float bias[COLUMNS], edge[ROWS * COLUMNS];
  for (int64_t panel = from / COLUMNS; panel * COLUMNS < from + n; panel++) {
    const int64_t start = panel * COLUMNS;  // its columns that are wanted are those from `left` to `right`
    const int64_t left = std::max(start, from), right = std::min(start + COLUMNS, from + n);
    w.biasOf(panel, bias);
    for (int64_t row = 0; row < rows; row += ROWS) {
      const int64_t height = std::min(ROWS, rows - row);
      float* out = y + row * n + left - from;
      if (height == ROWS && right - left == COLUMNS) {
        tile(x + row * w.P, w.P, w.panel(panel), bias, out, n);
      } else {
        tile(x + row * w.P, w.P, w.panel(panel), bias, edge, COLUMNS);
        for (int64_t r = 0; r < height; r++)
          std::copy(edge + r * COLUMNS + left - start, edge + r * COLUMNS + right - start, out + r * n);
      }
      if (activation == NONE) continue;
      for (int64_t r = 0; r < height; r++) activate(activation, out + r * n, out + r * n, right - left);
    }
  }
}

/** Calls work(first, rows) on blocks of R rows, on all threads. */
template <class Work>
void parallelBlocks(int64_t R, const Work& work) {
  parallel(static_cast<int>((R + BLOCK - 1) / BLOCK), [&](int block) {
    work(block * BLOCK, std::min(BLOCK, R - block * BLOCK));
  });
}

struct DenseBf16 {
  int activation, from, count;
  void attributes(Attributes& a) {
    activation = a.integer("activation");
    from = a.integer("first");
    count = a.integer("count");
  }
  /** x [R, I], W [I, O] as PackBf16 gives it, b [O] → y [R, count]. A row of y does not depend on the others. */
  void run(Call& call) {
    const auto x = call.in(0), b = call.in(2);
    const int64_t R = x.dim(0), I = x.dim(1);
    const Layer layer(call.in<int32_t>(1), b, I);
    expect(from >= 0 && count > 0 && from + count <= layer.O, "dense in BF16: shapes do not fit");
    const auto y = call.out(0, {R, count});
    parallelBlocks(R, [&](int64_t first, int64_t rows) {
      static thread_local std::vector<int32_t> rounded;
      roundRows(x.data + first * I, rows, I, rounded);
      multiply(rounded.data(), rows, layer, activation, from, count, y.data + first * count);
    });
  }
};

struct FeedForwardBf16 {
  int activation;
  void attributes(Attributes& a) { activation = a.integer("activation"); }
  /** x [R, I], W1 [I, F] and W2 [F, O] as PackBf16 gives them, b1 [F], b2 [O] → W2 f(x W1 + b1) + b2 [R, O]. */
  void run(Call& call) {
    const auto x = call.in(0), b1 = call.in(2), b2 = call.in(4);
    const int64_t R = x.dim(0), I = x.dim(1), F = b1.size();
    const Layer in(call.in<int32_t>(1), b1, I), out(call.in<int32_t>(3), b2, F);
    const auto y = call.out(0, {R, out.O});
    parallelBlocks(R, [&](int64_t first, int64_t rows) {
      static thread_local std::vector<int32_t> rounded, wide;
      roundRows(x.data + first * I, rows, I, rounded);
      wide.resize(rounded.size() / in.P * out.P);
      float bias[COLUMNS], some[ROWS * COLUMNS];
      for (int64_t panel = 0; panel < in.count(); panel++) {
        const int64_t start = panel * COLUMNS, columns = std::min(COLUMNS, F - start);
        in.biasOf(panel, bias);
        for (int64_t row = 0; row < rows; row += ROWS) {
          tile(rounded.data() + row * in.P, in.P, in.panel(panel), bias, some, COLUMNS);
          activate(activation, some, some, ROWS * COLUMNS);
          for (int64_t r = 0; r < ROWS; r++)
            roundRow(some + r * COLUMNS, columns, wide.data() + (row + r) * out.P + start / 2);
        }
      }
      multiply(wide.data(), rows, out, NONE, 0, out.O, y.data + first * out.O);
    });
  }
};

}  // namespace

bool hasBf16() { return true; }

void registerDenseBf16() {
  registerOp<PackBf16>("RealmPackBf16", {"w: float"}, {"packed: int32"}, {});
  registerOp<DenseBf16>("RealmDenseBf16", {"x: float", "packed: int32", "b: float"}, {"y: float"},
                        {"activation: int", "first: int", "count: int"});
  registerOp<FeedForwardBf16>("RealmFeedForwardBf16",
                              {"x: float", "packed1: int32", "b1: float", "packed2: int32", "b2: float"}, {"y: float"},
                              {"activation: int"});
}

}  // namespace realm

#else

namespace realm {

bool hasBf16() { return false; }

void registerDenseBf16() {}

}  // namespace realm

#endif
