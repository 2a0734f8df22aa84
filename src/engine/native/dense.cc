#include <algorithm>

#include "kernels.h"
#include "activation.h"
#include "weight-product.h"

// y = f(x W + b). W may be some columns of a wider matrix, such as the queries' part of [queries keys values].

namespace realm {
namespace {

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
    const Weights weights{w.data + from, I, n, O, 1};
    const Packed packed = pack(weights, scratch<SHARED>(packedSize(weights)));
    parallelRows(R, 2.0 * I * n, [&](int64_t first, int64_t rows) {
      timesPacked(x.data + first * I, rows, packed, {b.data + from, 0}, inner + first * n);
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
    }
    if (n < O) {
      parallelRanges(I, 64, [&](long f, long t) { std::fill(dw.data + f * O, dw.data + t * O, 0.0f); });
      std::fill(db.data, db.data + O, 0.0f);
    }
    const Weights back{w.data + from, n, I, 1, O};
    const Packed packed = pack(back, scratch<SHARED>(packedSize(back)));
    const Start start{plus.size() > 0 ? plus.data : nullptr, I};
    parallelRows(R, 2.0 * I * n, [&](int64_t first, int64_t rows) {
      const int64_t at = first * n;
      if (activation != NONE) deactivate(activation, u.data + at, dy.data + at, inner.get() + at, rows * n);
      timesPacked(du + at, rows, packed, start.from(first), dx.data + first * I);
    });
    weightGradient(x.data, du, R, {I, n, dw.data + from, O, db.data + from});
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
