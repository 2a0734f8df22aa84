#include <algorithm>

#include "kernels.h"
#include "activation.h"
#include "weight-product.h"

// y = f(x W + b). W may be some columns of a wider matrix, such as the queries' part of [queries keys values].

namespace realm {
namespace {

/** du = dy f'(u); for tanh `u` is y. */
void deactivate(int kind, const float* u, const float* dy, float* du, int64_t n) {
  if (kind == GELU_TANH) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      const float x = u[i], square = x * x;
      const float s = sigmoid(x * (C1 + C3 * square));
      du[i] = dy[i] * (s + x * s * (1 - s) * (C1 + 3 * C3 * square));
    }
  } else if (kind == GELU_EXACT) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      const float x = u[i], bell = fastExp(-0.5f * x * x);
      du[i] = dy[i] * (normalCdf(x, bell) + x * 0.3989422804014327f * bell);
    }
  } else if (kind == TANH) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) du[i] = dy[i] * (1 - u[i] * u[i]);
  }
}

struct Dense {
  int activation, from, count, keep;
  void attributes(Attributes& a) {
    activation = a.integer("activation");
    from = a.integer("first");
    count = a.integer("count");
    keep = a.integer("keep");
  }
  /** x [R, I], W [I, O], b [O] → y [R, count]; with `keep` also u = x W + b, if the gradient needs it. */
  void run(Call& call) {
    const auto x = call.in(0), w = call.in(1), b = call.in(2);
    const int64_t R = x.dim(0), I = x.dim(1), O = w.dim(1), n = count;
    expect(w.dim(0) == I && b.size() == O && from >= 0 && from + n <= O, "dense: shapes do not fit");
    const auto y = call.out(0, {R, n});
    const bool gelu = activation == GELU_EXACT || activation == GELU_TANH;
    const auto u = call.out(1, gelu && keep ? std::vector<int64_t>{R, n} : std::vector<int64_t>{0});
    if (R == 0) return;
    float* inner = gelu && keep ? u.data : y.data;
    timesWeights(x.data, R, {w.data + from, I, n, O, 1}, {b.data + from, 0}, inner, [&](int64_t first, int64_t rows) {
      if (activation != NONE) activate(activation, inner + first * n, y.data + first * n, rows * n);
    });
  }
};

struct DenseGrad {
  int activation, from, count;
  void attributes(Attributes& a) {
    activation = a.integer("activation");
    from = a.integer("first");
    count = a.integer("count");
  }
  /**
   * dy [R, count], x [R, I], W [I, O], u as kept (y for tanh), and another gradient of x [R, I] or none [0] → dx with that added,
   * dW and db; dW and db are zero outside the columns.
   */
  void run(Call& call) {
    const auto dy = call.in(0), x = call.in(1), w = call.in(2), u = call.in(3), plus = call.in(4);
    const int64_t R = x.dim(0), I = x.dim(1), O = w.dim(1), n = count;
    expect(dy.dim(0) == R && dy.dim(1) == n && w.dim(0) == I && from >= 0 && from + n <= O,
           "dense gradient: shapes do not fit");
    expect(plus.size() == 0 || plus.size() == R * I, "dense gradient: the other gradient has another size");
    expect(activation == NONE || u.size() == R * n, "dense gradient: the inner values are missing");
    const auto dx = call.out(0, {R, I}), dw = call.out(1, {I, O}), db = call.out(2, {O});
    std::unique_ptr<float[]> inner;
    const float* du = dy.data;
    if (activation != NONE) {
      inner = room(R * n);
      du = inner.get();
      parallelRanges(R * n, 4096, [&](long f, long t) {
        deactivate(activation, u.data + f, dy.data + f, inner.get() + f, t - f);
      });
    }
    if (n < O) {
      parallelRanges(I, 64, [&](long f, long t) { std::fill(dw.data + f * O, dw.data + t * O, 0.0f); });
      std::fill(db.data, db.data + O, 0.0f);
    }
    if (R == 0) {
      std::fill(dw.data, dw.data + I * O, 0.0f);
      std::fill(db.data, db.data + O, 0.0f);
      return;
    }
    timesWeights(du, R, {w.data + from, n, I, 1, O}, {plus.size() > 0 ? plus.data : nullptr, I}, dx.data,
                 [](int64_t, int64_t) {});
    weightGradient(x.data, I, du, n, R, dw.data + from, O, db.data + from);
  }
};

}  // namespace

void registerDense() {
  registerOp<Dense>("RealmDense", {"x: float", "w: float", "b: float"}, {"y: float", "u: float"},
                    {"activation: int", "first: int", "count: int", "keep: int"});
  registerOp<DenseGrad>("RealmDenseGrad", {"dy: float", "x: float", "w: float", "u: float", "plus: float"},
                        {"dx: float", "dw: float", "db: float"},
                        {"activation: int", "first: int", "count: int"});
}

}  // namespace realm
