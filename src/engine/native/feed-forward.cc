#include <algorithm>

#include "kernels.h"
#include "activation.h"
#include "weight-product.h"

// W2 f(x W1 + b1) + b2, f being a GELU. The inner rows are wide: some are computed and used at a time, while they are in the cache.
// For the gradient only x W1 + b1 is kept.

namespace realm {
namespace {

/** Numbers of the inner rows whose gradient is taken at a time; with that they stay in the third-level cache. */
constexpr int64_t CHUNK = 1 << 20;

struct FeedForward {
  int activation, keep;
  void attributes(Attributes& a) {
    activation = a.integer("activation");
    keep = a.integer("keep");
  }
  /** x [R, I], W1 [I, F], b1 [F], W2 [F, O], b2 [O] → y [R, O]; with `keep` also u = x W1 + b1 [R, F]. */
  void run(Call& call) {
    const auto x = call.in(0), w1 = call.in(1), b1 = call.in(2), w2 = call.in(3), b2 = call.in(4);
    const int64_t R = x.dim(0), I = x.dim(1), F = w1.dim(1), O = w2.dim(1);
    expect(w1.dim(0) == I && b1.size() == F && w2.dim(0) == F && b2.size() == O, "feed-forward: shapes do not fit");
    expect(activation == GELU_EXACT || activation == GELU_TANH, "feed-forward: the activation is not a GELU");
    const auto y = call.out(0, {R, O});
    const auto u = call.out(1, keep ? std::vector<int64_t>{R, F} : std::vector<int64_t>{0});
    const Weights first{w1.data, I, F, F, 1}, second{w2.data, F, O, O, 1};
    float* const packed = scratch<SHARED>(packedSize(first) + packedSize(second));
    const Packed in = pack(first, packed), out = pack(second, packed + packedSize(first));
    parallelRows(R, 2.0 * F * (I + O), [&](int64_t row, int64_t rows) {
      float* const wide = scratch<THREADS_OWN>(rows * F);
      float* const inner = keep ? u.data + row * F : wide;
      timesPacked(x.data + row * I, rows, in, {b1.data, 0}, inner);
      activate(activation, inner, wide, rows * F);
      timesPacked(wide, rows, out, {b2.data, 0}, y.data + row * O);
    });
  }
};

struct FeedForwardGrad {
  int activation;
  void attributes(Attributes& a) { activation = a.integer("activation"); }
  /**
   * dy [R, O], x [R, I], W1 [I, F], u as kept, W2 [F, O], and another gradient of x [R, I] or none [0] → dx with that added, dW1,
   * db1, dW2 and db2.
   */
  void run(Call& call) {
    const auto dy = call.in(0), x = call.in(1), w1 = call.in(2), u = call.in(3), w2 = call.in(4), plus = call.in(5);
    const int64_t R = x.dim(0), I = x.dim(1), F = w1.dim(1), O = w2.dim(1);
    expect(dy.dim(0) == R && dy.dim(1) == O && w1.dim(0) == I && w2.dim(0) == F && u.size() == R * F,
           "feed-forward gradient: shapes do not fit");
    expect(plus.size() == 0 || plus.size() == R * I, "feed-forward gradient: the other gradient has another size");
    const auto dx = call.out(0, {R, I}), dw1 = call.out(1, {I, F}), db1 = call.out(2, {F}), dw2 = call.out(3, {F, O}),
               db2 = call.out(4, {O});
    const Weights second{w2.data, O, F, 1, O}, first{w1.data, F, I, 1, F};
    float* const packed = scratch<SHARED>(packedSize(second) + packedSize(first));
    const Packed in = pack(second, packed), out = pack(first, packed + packedSize(second));
    const Start start{plus.size() > 0 ? plus.data : nullptr, I};
    const WeightGradient g1{I, F, dw1.data, F, db1.data}, g2{F, O, dw2.data, O, db2.data};
    const int64_t chunk = std::max((CHUNK / F + BLOCK - 1) / BLOCK, int64_t{2} * threads()) * BLOCK;
    const auto wide = room(2 * std::min(chunk, R) * F);
    for (int64_t at = 0; at == 0 || at < R; at += chunk) {
      const int64_t some = std::min(chunk, R - at);
      float *const inner = wide.get(), *const du = inner + some * F;
      parallelRows(some, 2.0 * F * (I + O), [&](int64_t row, int64_t rows) {
        timesPacked(dy.data + (at + row) * O, rows, in, {}, du + row * F);
        reactivate(activation, u.data + (at + row) * F, inner + row * F, du + row * F, rows * F);
        timesPacked(du + row * F, rows, out, start.from(at + row), dx.data + (at + row) * I);
      });
      weightGradient(x.data + at * I, du, some, g1, at > 0);
      weightGradient(inner, dy.data + at * O, some, g2, at > 0);
    }
  }
};

}  // namespace

void registerFeedForward() {
  registerOp<FeedForward>("RealmFeedForward", {"x: float", "w1: float", "b1: float", "w2: float", "b2: float"},
                          {"y: float", "u: float"}, {"activation: int", "keep: int"});
  registerOp<FeedForwardGrad>("RealmFeedForwardGrad",
                              {"dy: float", "x: float", "w1: float", "u: float", "w2: float", "plus: float"},
                              {"dx: float", "dw1: float", "db1: float", "dw2: float", "db2: float"},
                              {"activation: int"});
}

}  // namespace realm
