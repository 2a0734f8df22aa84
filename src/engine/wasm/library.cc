// The few functions of the C++ library that the kernels call and that are not in its headers.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "host.h"
#include "../native/kernels.h"
#include "../native/maths.h"

extern "C" {

float expf(float x) { return realm::fastExp(x); }

/** ln x: x = 2^e m with m from √½ to √2, ln m by the series of atanh((m - 1) / (m + 1)) in double (error 1e-15). */
float logf(float x) {
  if (!(x > 0) || x > 3.4028235e38f) return x == 0 ? -INFINITY : x > 0 ? x : NAN;
  double wide = x;
  uint64_t bits;
  std::memcpy(&bits, &wide, 8);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  bits = (bits & 0xfffffffffffffull) | 0x3ff0000000000000ull;
  double m;
  std::memcpy(&m, &bits, 8);
  if (m > 1.4142135623730951) {
    m /= 2;
    exponent++;
  }
  const double s = (m - 1) / (m + 1), square = s * s;
  double series = 0;
  for (int k = 19; k > 0; k -= 2) series = series * square + 1.0 / k;
  return static_cast<float>(exponent * 0.6931471805599453 + 2 * s * series);
}

// `throw std::runtime_error(message)` ends where the exception is made: the message is thrown in JavaScript. (Compiled with
// -fignore-exceptions, there is nothing that could catch it here.) The names are the mangled ones of the C++ library.
void* __cxa_allocate_exception(size_t) {
  static char exception[64];
  return exception;
}
void __cxa_throw(void*, void*, void (*)(void*)) { __builtin_trap(); }
void* _ZNSt13runtime_errorC1EPKc(void*, const char* message) { hostFail(message); }
void* _ZNSt11logic_errorC2EPKc(void*, const char* message) { hostFail(message); }
void* _ZNSt20bad_array_new_lengthC1Ev(void*) { hostFail("a buffer is too large"); }
void* _ZNSt13runtime_errorD1Ev(void* self) { return self; }
void* _ZNSt12length_errorD1Ev(void* self) { return self; }
void* _ZNSt20bad_array_new_lengthD1Ev(void* self) { return self; }
void* _ZNSt3__117bad_function_callD1Ev(void* self) { return self; }
const void* _ZTVNSt3__117bad_function_callE[5] = {};
const void* _ZTVSt12length_error[5] = {};
const void* _ZTVN10__cxxabiv120__si_class_type_infoE[5] = {};
const void* _ZTVN10__cxxabiv117__class_type_infoE[5] = {};
}
