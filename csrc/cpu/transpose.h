// SPDX-License-Identifier: Apache-2.0
// Transposition of a matrix in blocks of 16 x 16. The rows of images lie powers of two apart, so a simple loop keeps
// evicting the cache lines that it needs next; a block reads each line once and is transposed in registers.
#pragma once

#include "storage.h"

namespace hsr {
namespace HSR_ISA {

constexpr int kBlockSide = 16;
// How many elements ahead rows are prefetched: they are too short for the hardware's prefetcher.
constexpr int kPrefetchElements = 8 * kBlockSide;

template <class E>
struct Lanes {
  typedef E Vector __attribute__((vector_size(kBlockSide * sizeof(E))));
};

// One butterfly step: exchanges the off-diagonal K x K blocks of rows r and r + K.
template <int K, class E, class V>
static inline __attribute__((always_inline)) void exchange(V (&rows)[kBlockSide]) {
  V upper, lower;
  for (int l = 0; l < kBlockSide; l++) {
    upper[l] = E((l & K) ? kBlockSide + l - K : l);
    lower[l] = E((l & K) ? kBlockSide + l : l + K);
  }
  for (int r = 0; r < kBlockSide; r++) {
    if (r & K) continue;
    const V a = rows[r], b = rows[r + K];
    rows[r] = __builtin_shuffle(a, b, upper);
    rows[r + K] = __builtin_shuffle(a, b, lower);
  }
}

// E: an unsigned integer of the element's size.
template <class E>
static inline void transpose_block(const char* src, int64_t row_bytes, E* dst, int64_t dst_stride) {
  using V = typename Lanes<E>::Vector;
  V rows[kBlockSide];
  for (int r = 0; r < kBlockSide; r++) {
    std::memcpy(&rows[r], src + r * row_bytes, sizeof(V));
    __builtin_prefetch(src + r * row_bytes + kPrefetchElements * sizeof(E));
  }
  exchange<1, E>(rows);
  exchange<2, E>(rows);
  exchange<4, E>(rows);
  exchange<8, E>(rows);
  for (int r = 0; r < kBlockSide; r++) std::memcpy(dst + r * dst_stride, &rows[r], sizeof(V));
}

template <size_t bytes>
struct UnsignedOf;
template <>
struct UnsignedOf<2> {
  using type = uint16_t;
};
template <>
struct UnsignedOf<4> {
  using type = uint32_t;
};
template <>
struct UnsignedOf<8> {
  using type = uint64_t;
};

// dst[j * dst_stride + i] = element j of row i of src, for i < rows, j < columns. The rows of src lie row_bytes apart,
// and need no alignment. One instance per element size.
template <class E>
static __attribute__((noinline)) void transpose_bytes(const void* src, int64_t row_bytes, E* dst, int64_t dst_stride,
                                                      int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; i += kBlockSide)
    for (int64_t j = 0; j < columns; j += kBlockSide) {
      const char* source = static_cast<const char*>(src) + i * row_bytes + j * int64_t(sizeof(E));
      E* target = dst + j * dst_stride + i;
      if constexpr (sizeof(E) == 4) {
        if (i + kBlockSide <= rows && j + kBlockSide <= columns) {
          transpose_block(source, row_bytes, target, dst_stride);
          continue;
        }
      }
      for (int64_t r = 0; r < kBlockSide && i + r < rows; r++)
        for (int64_t c = 0; c < kBlockSide && j + c < columns; c++)
          std::memcpy(target + c * dst_stride + r, source + r * row_bytes + c * int64_t(sizeof(E)), sizeof(E));
    }
}

template <class T>
static inline void transpose(const T* src, int64_t src_stride, T* dst, int64_t dst_stride, int64_t rows,
                             int64_t columns) {
  using E = typename UnsignedOf<sizeof(T)>::type;
  transpose_bytes(src, src_stride * int64_t(sizeof(T)), reinterpret_cast<E*>(dst), dst_stride, rows, columns);
}

}  // namespace HSR_ISA
}  // namespace hsr
