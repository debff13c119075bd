// SPDX-License-Identifier: Apache-2.0
// Storage types and their conversion to the type that is computed in, a block at a time.
// Included by translation units of different instruction sets: everything here stands in the set's own namespace.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __F16C__
#include <immintrin.h>
#endif

#include "hsr/params.h"
#include "parallel.h"

namespace hsr {
namespace HSR_ISA {

struct half {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

template <class T>
constexpr bool is_half = false;
template <>
constexpr bool is_half<half> = true;

template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

// Elements that are staged at a time where the storage type isn't the type computed in.
constexpr int64_t kBlock = 1024;

static inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
static inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

static inline float widen(bfloat16 v) { return bits_to_float(uint32_t(v.bits) << 16); }
static inline bfloat16 narrow(float v, bfloat16) {
  const uint32_t bits = float_to_bits(v);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  return {uint16_t(v != v ? 0x7fc0u : rounded)};
}

#ifdef __F16C__
static inline float widen(half v) { return _cvtsh_ss(v.bits); }
static inline half narrow(float v, half) { return {uint16_t(_cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT))}; }
#else
static inline float widen(half v) {
  const uint32_t sign = uint32_t(v.bits & 0x8000u) << 16, magnitude = v.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  // Read as a float of exponent bias 15, then rescale by 2^112: exact, subnormals included.
  return bits_to_float(sign | float_to_bits(bits_to_float(magnitude << 13) * 0x1p112f));
}
static inline half narrow(float v, half) {
  const uint32_t bits = float_to_bits(v), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {                                    // below 2^-14: subnormal, in steps of 2^-24
    const float steps = bits_to_float(magnitude) * 0x1p24f;
    const float rounded = (steps + 8388608.0f) - 8388608.0f;
    return {uint16_t(sign | uint32_t(rounded))};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return {uint16_t(sign | ((rounded - 0x38000000u) >> 13))};
}
#endif

// load: n elements as the type computed in; returns src itself where it already is that type, else fills buffer.
static inline const float* load(const float* src, float*, int64_t) { return src; }
static inline const double* load(const double* src, double*, int64_t) { return src; }
template <class T>
static __attribute__((noinline)) const float* load(const T* src, float* buffer, int64_t n) {
  int64_t i = 0;
#ifdef __F16C__
  if constexpr (is_half<T>)
    for (; i + 8 <= n; i += 8)
      _mm256_storeu_ps(buffer + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(src + i))));
#endif
  for (; i < n; i++) buffer[i] = widen(src[i]);
  return buffer;
}

// stage: where to compute n outputs, either in place or in buffer; commit stores them.
static inline float* stage(float* dst, float*) { return dst; }
static inline double* stage(double* dst, double*) { return dst; }
template <class T>
static inline float* stage(T*, float* buffer) {
  return buffer;
}
static inline void commit(const float*, float*, int64_t) {}
static inline void commit(const double*, double*, int64_t) {}
template <class T>
static __attribute__((noinline)) void commit(const float* src, T* dst, int64_t n) {
  int64_t i = 0;
#ifdef __F16C__
  if constexpr (is_half<T>)
    for (; i + 8 <= n; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
#endif
  for (; i < n; i++) dst[i] = narrow(src[i], T{});
}

// Calls body(chunk) for each chunk.
template <class Body>
static inline void for_each_chunk(int64_t chunks, int threads, Body&& body) {
  parallel_chunks(chunks, threads, [](int64_t chunk, void* context) { (*static_cast<Body*>(context))(chunk); }, &body);
}

// Calls f with a value of the storage type.
template <class F>
static inline void with_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32:
      return f(float{});
    case DType::float16:
      return f(half{});
    case DType::bfloat16:
      return f(bfloat16{});
    case DType::float64:
      return f(double{});
  }
}

}  // namespace HSR_ISA
}  // namespace hsr
