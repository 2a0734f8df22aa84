#include <algorithm>

#include "kernels.h"
#include "maths.h"

// One step of the optimizer over all parameters at once, in place.

namespace realm {
namespace {

struct Adam {
  float beta1, beta2, epsilon, decay, clipNorm;
  void attributes(Attributes& a) {
    beta1 = a.number("beta1");
    beta2 = a.number("beta2");
    epsilon = a.number("epsilon");
    decay = a.number("decay");
    clipNorm = a.number("clip_norm");
  }
  /**
   * [learning rate], decayed [N] (1 where the weight decays), then N weights, N first and N second moments, N gradients →
   * the gradients' global norm. Weights and moments are changed in place: only the model and the optimizer use them, and
   * new ones each step would double their memory.
   */
  void run(Call& call) {
    const float rate = call.in(0).data[0];
    const auto decayed = call.in<int32_t>(1);
    const int64_t N = decayed.size();
    expect(call.inputs() == 2 + 4 * N, "adam: weights, moments and gradients differ in number");
    struct Part {
      float *w, *m, *v;
      const float* g;
      int64_t size;
      bool decay;
    };
    /** Numbers that one task processes. */
    constexpr int64_t PIECE = 1 << 16;
    std::vector<Part> parts;
    for (int64_t i = 0; i < N; i++) {
      const auto w = call.mutableInput(2 + i), m = call.mutableInput(2 + N + i), v = call.mutableInput(2 + 2 * N + i);
      const auto g = call.in(2 + 3 * N + i);
      const int64_t n = w.size();
      expect(m.size() == n && v.size() == n && g.size() == n, "adam: the size of a gradient or moment differs from its weight's");
      for (int64_t at = 0; at < n; at += PIECE)
        parts.push_back({w.data + at, m.data + at, v.data + at, g.data + at, std::min(PIECE, n - at), decayed.data[i] != 0});
    }
    const int count = static_cast<int>(parts.size());
    std::vector<double> squares(count);
    parallel(count, [&](int i) {
      const Part& p = parts[i];
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < p.size; j++) sum += p.g[j] * p.g[j];
      squares[i] = sum;
    });
    double total = 0;
    for (double s : squares) total += s;
    const float norm = static_cast<float>(std::sqrt(total));
    call.out(0, {}).data[0] = norm;
    if (!std::isfinite(norm)) return;  // such a step would corrupt every weight; the caller sees it by the norm
    const float scale = norm > clipNorm ? clipNorm / norm : 1;
    parallel(count, [&](int i) {
      const Part& p = parts[i];
      const float kept = p.decay ? 1 - rate * decay : 1;
      const float b1 = beta1, b2 = beta2, eps = epsilon;
#pragma omp simd
      for (int64_t j = 0; j < p.size; j++) {
        const float g = p.g[j] * scale;
        const float m = b1 * p.m[j] + (1 - b1) * g;
        const float v = b2 * p.v[j] + (1 - b2) * g * g;
        p.m[j] = m;
        p.v[j] = v;
        p.w[j] = kept * p.w[j] - rate * m / (std::sqrt(v) + eps);
      }
    });
  }
};

}  // namespace

void registerAdam() {
  registerOp<Adam>("RealmAdam", {"rate: float", "decayed: int32", "state: N * float"}, {"norm: float"},
                   {"N: int", "beta1: float", "beta2: float", "epsilon: float", "decay: float", "clip_norm: float"});
}

}  // namespace realm
