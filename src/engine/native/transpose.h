#pragma once
#include <cstdint>

#if defined(__SSE__)
#include <xmmintrin.h>
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif

namespace realm {

/** Four rows by four columns, `fromLd` apart, transposed and times `factor`. */
inline void transpose4(const float* from, int64_t fromLd, float factor, float* to, int64_t toLd) {
#if defined(__SSE__)
  const __m128 f = _mm_set1_ps(factor);
  __m128 a = _mm_loadu_ps(from) * f, b = _mm_loadu_ps(from + fromLd) * f, c = _mm_loadu_ps(from + 2 * fromLd) * f,
         d = _mm_loadu_ps(from + 3 * fromLd) * f;
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(to, a);
  _mm_storeu_ps(to + toLd, b);
  _mm_storeu_ps(to + 2 * toLd, c);
  _mm_storeu_ps(to + 3 * toLd, d);
#elif defined(__wasm_simd128__)
  const v128_t f = wasm_f32x4_splat(factor);
  const v128_t a = wasm_v128_load(from), b = wasm_v128_load(from + fromLd), c = wasm_v128_load(from + 2 * fromLd),
               d = wasm_v128_load(from + 3 * fromLd);
  const v128_t ab = wasm_i32x4_shuffle(a, b, 0, 4, 1, 5), cd = wasm_i32x4_shuffle(c, d, 0, 4, 1, 5),
               AB = wasm_i32x4_shuffle(a, b, 2, 6, 3, 7), CD = wasm_i32x4_shuffle(c, d, 2, 6, 3, 7);
  wasm_v128_store(to, wasm_f32x4_mul(f, wasm_i64x2_shuffle(ab, cd, 0, 2)));
  wasm_v128_store(to + toLd, wasm_f32x4_mul(f, wasm_i64x2_shuffle(ab, cd, 1, 3)));
  wasm_v128_store(to + 2 * toLd, wasm_f32x4_mul(f, wasm_i64x2_shuffle(AB, CD, 0, 2)));
  wasm_v128_store(to + 3 * toLd, wasm_f32x4_mul(f, wasm_i64x2_shuffle(AB, CD, 1, 3)));
#else
  for (int64_t r = 0; r < 4; r++)
    for (int64_t c = 0; c < 4; c++) to[c * toLd + r] = factor * from[r * fromLd + c];
#endif
}

}  // namespace realm
