#include <algorithm>

#include "kernels.h"
#include "maths.h"

// Some rows of a matrix.

namespace realm {
namespace {

void checkRows(const Tensor<const int32_t>& at, int64_t rows) {
  expectWithin(at, 0, rows, "rows: a row is outside of its matrix");
}

struct Rows {
  void attributes(Attributes&) {}
  /** x [S, H], at [n] → rows `at` of x [n, H]. */
  void run(Call& call) {
    const auto x = call.in(0);
    const auto at = call.in<int32_t>(1);
    const int64_t n = at.size(), H = x.dim(1);
    checkRows(at, x.dim(0));
    const auto out = call.out(0, {n, H});
    parallelRanges(n, std::max<long>(1, 16384 / H), [&](long from, long to) {
      for (long i = from; i < to; i++) std::copy_n(x.data + at.data[i] * H, H, out.data + i * H);
    });
  }
};

struct RowsGrad {
  void attributes(Attributes&) {}
  /** dy [n, H], at [n], bounds [B + 1] whose last is S, another gradient [S, H] → [S, H] with that added. */
  void run(Call& call) {
    const auto dy = call.in(0);
    const auto at = call.in<int32_t>(1), bounds = call.in<int32_t>(2);
    const auto plus = call.in(3);
    const int64_t n = at.size(), H = dy.dim(1), S = bounds.data[bounds.size() - 1];
    expect(dy.dim(0) == n && plus.size() == S * H, "rows gradient: shapes do not fit");
    checkRows(at, S);
    const auto out = call.out(0, {S, H});
    // Each thread has its own rows of the result: a row may be there several times.
    parallelRanges(S, std::max<long>(1, 65536 / H), [&](long from, long to) {
      std::copy(plus.data + from * H, plus.data + to * H, out.data + from * H);
      for (int64_t i = 0; i < n; i++) {
        if (at.data[i] < from || at.data[i] >= to) continue;
        const float* d = dy.data + i * H;
        float* row = out.data + at.data[i] * H;
#pragma omp simd
        for (int64_t h = 0; h < H; h++) row[h] += d[h];
      }
    });
  }
};

}  // namespace

void registerRows() {
  registerOp<Rows>("RealmRows", {"x: float", "at: int32"}, {"y: float"}, {});
  registerOp<RowsGrad>("RealmRowsGrad", {"dy: float", "at: int32", "bounds: int32", "plus: float"}, {"dx: float"}, {});
}

}  // namespace realm
