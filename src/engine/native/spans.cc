#include <algorithm>

#include "kernels.h"
#include "maths.h"

// v · LayerNorm(ReLU(start_i + end_j)) + c of every span of a block, without a tensor of spans: with u = v ∘ gain minus
// its mean, the score is u · h / σ(h) + v · bias + c, for h the span's ReLU (google-research/language, orqa_model.py).

namespace realm {
namespace {

struct Block {
  int64_t row, length, offset;  // its first row in `ends`, its number of tokens, where it starts in its sequence
};

struct Shape {
  int64_t R, W, T, S;
  Tensor<const float> ends, gain, bias, kernel, constant;
  Tensor<const int32_t> blocks;
  std::unique_ptr<float[]> u;

  Shape(Call& call, int width, int length) : W(width), T(length) {
    ends = call.in(0);
    gain = call.in(1);
    bias = call.in(2);
    kernel = call.in(3);
    constant = call.in(4);
    blocks = call.in<int32_t>(5);
    R = blocks.dim(0);
    S = gain.size();
    expect(ends.dim(1) == 2 * S && bias.size() == S && kernel.size() == S && constant.size() == 1 &&
               blocks.dim(1) == 3 && W > 0,
           "span scores: shapes do not fit");
    for (int64_t r = 0; r < R; r++) {
      const Block b = block(r);
      expect(b.row >= 0 && b.length >= 0 && b.offset >= 0 && b.row + b.length <= ends.dim(0) && b.offset + b.length <= T,
             "span scores: a block leaves its sequence");
    }
    u = room(S);
    float mean = 0;
    for (int64_t s = 0; s < S; s++) mean += u[s] = kernel.data[s] * gain.data[s];
    mean /= S;
    for (int64_t s = 0; s < S; s++) u[s] -= mean;
  }
  Block block(int64_t r) const {
    const int32_t* b = blocks.data + 3 * r;
    return {b[0], b[1], b[2]};
  }
  float shift() const {
    float sum = constant.data[0];
    for (int64_t s = 0; s < S; s++) sum += kernel.data[s] * bias.data[s];
    return sum;
  }
};

/** u · h, mean and 1/σ of one span. */
struct Span {
  float dot, mean, inverse;
};

Span measure(const float* start, const float* end, const float* u, int64_t S, float eps) {
  float dot = 0, sum = 0, squares = 0;
#pragma omp simd reduction(+ : dot, sum, squares)
  for (int64_t s = 0; s < S; s++) {
    const float x = start[s] + end[s], h = x > 0 ? x : 0;
    dot += u[s] * h;
    sum += h;
    squares += h * h;
  }
  const float mean = sum / S, variance = squares / S - mean * mean;
  return {dot, mean, 1 / std::sqrt((variance > 0 ? variance : 0) + eps)};
}

struct SpanScores {
  int width, length;
  float eps, invalid;
  void attributes(Attributes& a) {
    width = a.integer("width");
    length = a.integer("length");
    eps = a.number("eps");
    invalid = a.number("invalid");
  }
  /** ends [rows, 2S], gain, bias, kernel [S], constant, blocks [R, 3] (first row, tokens, offset) → scores [R, W, T]. */
  void run(Call& call) {
    const Shape a(call, width, length);
    const auto scores = call.out(0, {a.R, a.W, a.T});
    const float shift = a.shift();
    parallel(static_cast<int>(a.R), [&](int r) {
      float* out = scores.data + r * a.W * a.T;
      std::fill(out, out + a.W * a.T, invalid);
      const Block b = a.block(r);
      for (int64_t i = 0; i < b.length; i++) {
        const float* start = a.ends.data + (b.row + i) * 2 * a.S;
        for (int64_t w = 0; w < a.W && i + w < b.length; w++) {
          const Span s = measure(start, start + w * 2 * a.S + a.S, a.u.get(), a.S, eps);
          out[w * a.T + b.offset + i] = s.dot * s.inverse + shift;
        }
      }
    });
  }
};

struct SpanScoresGrad {
  int width, length;
  float eps;
  void attributes(Attributes& a) {
    width = a.integer("width");
    length = a.integer("length");
    eps = a.number("eps");
  }
  /** As above, then the scores' gradient → gradients of ends, gain, bias, kernel and constant. */
  void run(Call& call) {
    const Shape a(call, width, length);
    const auto dy = call.in(6);
    expect(dy.size() == a.R * a.W * a.T, "span scores gradient: shapes do not fit");
    const int64_t S = a.S, rows = a.ends.dim(0);
    const auto dends = call.out(0, {rows, 2 * S}), dgain = call.out(1, {S}), dbias = call.out(2, {S});
    const auto dkernel = call.out(3, a.kernel.shape), dconstant = call.out(4, a.constant.shape);
    auto partial = room(a.R * (S + 1));  // Σ dy h / σ and Σ dy of each block
    parallelRanges(rows, 64, [&](long f, long t) {
      std::fill(dends.data + f * 2 * S, dends.data + t * 2 * S, 0.0f);
    });
    parallel(static_cast<int>(a.R), [&](int r) {
      float* du = partial.get() + r * (S + 1);
      std::fill(du, du + S + 1, 0.0f);
      const Block b = a.block(r);
      const float* u = a.u.get();
      for (int64_t i = 0; i < b.length; i++) {
        const float* start = a.ends.data + (b.row + i) * 2 * S;
        float* dstart = dends.data + (b.row + i) * 2 * S;
        for (int64_t w = 0; w < a.W && i + w < b.length; w++) {
          const float g = dy.data[(r * a.W + w) * a.T + b.offset + i];
          if (g == 0) continue;
          const float* end = start + w * 2 * S + S;
          float* dend = dstart + w * 2 * S + S;
          const Span s = measure(start, end, u, S, eps);
          const float direct = g * s.inverse, along = g * s.dot * s.inverse * s.inverse * s.inverse / S;
          du[S] += g;
#pragma omp simd
          for (int64_t k = 0; k < S; k++) {
            const float x = start[k] + end[k], h = x > 0 ? x : 0;
            du[k] += direct * h;
            const float d = x > 0 ? direct * u[k] - along * (h - s.mean) : 0.0f;
            dstart[k] += d;
            dend[k] += d;
          }
        }
      }
    });
    float total = 0, mean = 0;
    auto du = room(S);
    std::fill(du.get(), du.get() + S, 0.0f);
    for (int64_t r = 0; r < a.R; r++) {
      for (int64_t s = 0; s < S; s++) du[s] += partial[r * (S + 1) + s];
      total += partial[r * (S + 1) + S];
    }
    for (int64_t s = 0; s < S; s++) mean += du[s] / S;
    for (int64_t s = 0; s < S; s++) {
      const float d = du[s] - mean;  // u has its mean subtracted
      dgain.data[s] = d * a.kernel.data[s];
      dkernel.data[s] = d * a.gain.data[s] + total * a.bias.data[s];
      dbias.data[s] = total * a.kernel.data[s];
    }
    dconstant.data[0] = total;
  }
};

}  // namespace

void registerSpans() {
  registerOp<SpanScores>("RealmSpanScores",
                         {"ends: float", "gain: float", "bias: float", "kernel: float", "constant: float",
                          "blocks: int32"},
                         {"scores: float"}, {"width: int", "length: int", "eps: float", "invalid: float"});
  registerOp<SpanScoresGrad>("RealmSpanScoresGrad",
                             {"ends: float", "gain: float", "bias: float", "kernel: float", "constant: float",
                              "blocks: int32", "dy: float"},
                             {"dends: float", "dgain: float", "dbias: float", "dkernel: float", "dconstant: float"},
                             {"width: int", "length: int", "eps: float"});
}

}  // namespace realm
