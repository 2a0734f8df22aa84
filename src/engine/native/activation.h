// What a dense layer applies to its result.
#pragma once
#include "maths.h"

namespace realm {

enum Activation { NONE, GELU_EXACT, GELU_TANH, TANH };

constexpr float C1 = 1.5957691216057308f;              // 2 sqrt(2/pi)
constexpr float C3 = 1.5957691216057308f * 0.044715f;  // and the cubic term's

/** A GELU's value, and its slope. */
struct Gelu {
  float value, slope;
};

/** x sigmoid(2t), the form with tanh. */
inline Gelu geluTanh(float x) {
  const float square = x * x, s = sigmoid(x * (C1 + C3 * square));
  return {x * s, s + x * s * (1 - s) * (C1 + 3 * C3 * square)};
}

/** x Phi(x). */
inline Gelu geluExact(float x) {
  const float bell = fastExp(-0.5f * x * x), below = normalCdf(x, bell);
  return {x * below, below + x * 0.3989422804014327f * bell};
}

/** f(u) of n numbers: a GELU, or tanh. */
inline void activate(int kind, const float* u, float* y, int64_t n) {
  if (kind == GELU_TANH) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = geluTanh(u[i]).value;
  } else if (kind == GELU_EXACT) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = geluExact(u[i]).value;
  } else if (kind == TANH) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = 2 * sigmoid(2 * u[i]) - 1;
  }
}

/** du = dy f'(u) of n numbers; for tanh `u` is y. */
inline void deactivate(int kind, const float* u, const float* dy, float* du, int64_t n) {
  if (kind == GELU_TANH) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) du[i] = dy[i] * geluTanh(u[i]).slope;
  } else if (kind == GELU_EXACT) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) du[i] = dy[i] * geluExact(u[i]).slope;
  } else if (kind == TANH) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) du[i] = dy[i] * (1 - u[i] * u[i]);
  }
}

/** y = f(u) and dy → dy f'(u) of n numbers, for a GELU: what both have in common is computed once. */
inline void reactivate(int kind, const float* u, float* y, float* dy, int64_t n) {
  const auto with = [&](const auto& gelu) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
      const Gelu g = gelu(u[i]);
      y[i] = g.value;
      dy[i] *= g.slope;
    }
  };
  if (kind == GELU_TANH) with([](float x) { return geluTanh(x); });
  else with([](float x) { return geluExact(x); });
}

}  // namespace realm
