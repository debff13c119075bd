// SPDX-License-Identifier: Apache-2.0
// Conversion between storage types and their accumulation types, a block at a time. Included once per instruction set,
// so everything here stands in the namespace of the set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "hsr/params.h"
#include "hsr/storage.h"
#include "parallel.h"

namespace hsr {
namespace HSR_ISA {

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

// So many elements are staged at a time where the storage type differs from the accumulation type.
constexpr int64_t kBlock = 1024;

// Returns n elements in the accumulation type: src itself if it has that type, otherwise buffer, filled.
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

// Returns where to compute outputs that commit() will store: in place if possible, otherwise in buffer.
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

// Calls f with a value of the storage type of operands of matrix products, which isn't float16.
template <class F>
static inline void with_operand(DType dtype, F&& f) {
  if (dtype == DType::float64) return f(double{});
  if (dtype == DType::bfloat16) return f(bfloat16{});
  f(float{});
}

}  // namespace HSR_ISA
}  // namespace hsr
