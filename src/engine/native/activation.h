// What a dense layer applies to its result.
#pragma once
#include "maths.h"

namespace realm {

enum Activation { NONE, GELU_EXACT, GELU_TANH, TANH };

constexpr float C1 = 1.5957691216057308f;              // 2 sqrt(2/pi)
constexpr float C3 = 1.5957691216057308f * 0.044715f;  // and the cubic term's

/** f(u) of n numbers; x Phi(x), its tanh form as x sigmoid(2t), or tanh. */
inline void activate(int kind, const float* u, float* y, int64_t n) {
  if (kind == GELU_TANH) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = u[i] * sigmoid(u[i] * (C1 + C3 * u[i] * u[i]));
  } else if (kind == GELU_EXACT) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = u[i] * normalCdf(u[i], fastExp(-0.5f * u[i] * u[i]));
  } else if (kind == TANH) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = 2 * sigmoid(2 * u[i]) - 1;
  }
}

/** du = dy f'(u) of n numbers; for tanh `u` is y. */
inline void deactivate(int kind, const float* u, const float* dy, float* du, int64_t n) {
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

/** y = f(u) and dy → dy f'(u) of n numbers, for a GELU: what both have in common is computed once. */
inline void reactivate(int kind, const float* u, float* y, float* dy, int64_t n) {
  if (kind == GELU_TANH) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      const float x = u[i], square = x * x;
      const float s = sigmoid(x * (C1 + C3 * square));
      y[i] = x * s;
      dy[i] *= s + x * s * (1 - s) * (C1 + 3 * C3 * square);
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      const float x = u[i], bell = fastExp(-0.5f * x * x), below = normalCdf(x, bell);
      y[i] = x * below;
      dy[i] *= below + x * 0.3989422804014327f * bell;
    }
  }
}

}  // namespace realm
