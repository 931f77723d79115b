// Vectors of 16 lanes, as GCC and Clang know them on any CPU; bf16; exp.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 16;

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));
typedef uint16_t h16 __attribute__((vector_size(32)));
typedef int8_t b16 __attribute__((vector_size(16)));

template <class V, class T> inline V load(const T *from) {
  V value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <class V, class T> inline void store(T *to, V value) { std::memcpy(to, &value, sizeof value); }
inline v16 splat(float x) { return v16{} + x; }
inline int padded(int n) { return (n + LANES - 1) / LANES * LANES; }

inline v16 from_bf16(h16 x) { return (v16)(__builtin_convertvector(x, u16) << 16); }
inline h16 to_bf16(v16 x) {  // nearest, ties to even; NaN stays NaN
  u16 bits = (u16)x;
  u16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  i16 number = x == x;
  rounded = (rounded & (u16)number) | (u16)(~number & 0x7fc0);
  return __builtin_convertvector(rounded, h16);
}
inline float from_bf16(uint16_t x) {
  uint32_t bits = uint32_t(x) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// a * b + c, rounded once wherever the CPU can: the same in every tile, whatever the compiler would make of it.
inline v16 fused(v16 a, v16 b, v16 c) {
#if defined(__AVX512F__)
  return (v16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  for (int i = 0; i < LANES; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
#else
  return a * b + c;
#endif
}

// exp to about 1 ulp (Cephes' polynomial); 0 below -87, so that a masked score weighs nothing.
inline v16 vexp(v16 x) {
  i16 alive = x > -87.0f;
  v16 high = splat(88.0f), low = splat(-87.0f);
  x = x > high ? high : x;
  x = x < low ? low : x;
  v16 n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
  x = x - n * 0.693359375f;
  x = x + n * 2.12194440e-4f;
  v16 y = splat(1.9875691500e-4f);
  y = y * x + 1.3981999507e-3f;
  y = y * x + 8.3334519073e-3f;
  y = y * x + 4.1665795894e-2f;
  y = y * x + 1.6666665459e-1f;
  y = y * x + 5.0000001201e-1f;
  y = y * x * x + x + 1.0f;
  i16 power = (__builtin_convertvector(n, i16) + 127) << 23;
  return (v16)((i16)(y * (v16)power) & alive);
}
inline float largest(v16 x) {
  float most = x[0];
  for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
  return most;
}
inline float sum(v16 x) {
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) x[i] += x[i + half];
  return x[0];
}


inline v16 vector(const float *x) { return load<v16>(x); }
inline v16 vector(const uint16_t *x) { return from_bf16(load<h16>(x)); }
#if defined(__AVX512F__)
inline v16 vector(const int8_t *x) {  // said outright: GCC 12 converts element by element
  return (v16)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)x)));
}
#else
inline v16 vector(const int8_t *x) { return __builtin_convertvector(__builtin_convertvector(load<b16>(x), i16), v16); }
#endif
inline void keep(float *to, float x) { *to = x; }
inline void keep(uint16_t *to, float x) { *to = to_bf16(splat(x))[0]; }

}  // namespace
