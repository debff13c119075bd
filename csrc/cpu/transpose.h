// SPDX-License-Identifier: Apache-2.0
// Transposition of a matrix in blocks of 16 x 16. Rows of images lie powers of two apart, so a naive loop keeps
// evicting the lines that it needs next; a block reads each line once and turns it over in registers.
#pragma once

#include "storage.h"

namespace hsr {
namespace HSR_ISA {

constexpr int kSide = 16;
constexpr int kAhead = 8 * kSide;  // elements: the rows are too short for the hardware to see where they go

template <class E>
struct Lanes {
  typedef E Vector __attribute__((vector_size(kSide * sizeof(E))));
};

// One butterfly step: exchanges the off-diagonal K x K blocks of rows r and r + K.
template <int K, class E, class V>
static inline __attribute__((always_inline)) void exchange(V (&rows)[kSide]) {
  V upper, lower;
  for (int l = 0; l < kSide; l++) {
    upper[l] = E((l & K) ? kSide + l - K : l);
    lower[l] = E((l & K) ? kSide + l : l + K);
  }
  for (int r = 0; r < kSide; r++) {
    if (r & K) continue;
    const V a = rows[r], b = rows[r + K];
    rows[r] = __builtin_shuffle(a, b, upper);
    rows[r + K] = __builtin_shuffle(a, b, lower);
  }
}

// E: an unsigned integer of the element's size.
template <class E>
static inline void transpose_block(const E* src, int64_t src_stride, E* dst, int64_t dst_stride) {
  using V = typename Lanes<E>::Vector;
  V rows[kSide];
  for (int r = 0; r < kSide; r++) {
    std::memcpy(&rows[r], src + r * src_stride, sizeof(V));
    __builtin_prefetch(src + r * src_stride + kAhead);
  }
  exchange<1, E>(rows);
  exchange<2, E>(rows);
  exchange<4, E>(rows);
  exchange<8, E>(rows);
  for (int r = 0; r < kSide; r++) std::memcpy(dst + r * dst_stride, &rows[r], sizeof(V));
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

// dst[j * dst_stride + i] = src[i * src_stride + j] for i < rows, j < columns. One instance per element size.
template <class E>
static __attribute__((noinline)) void transpose_elements(const E* src, int64_t src_stride, E* dst, int64_t dst_stride,
                                                         int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; i += kSide)
    for (int64_t j = 0; j < columns; j += kSide) {
      const E* from = src + i * src_stride + j;
      E* to = dst + j * dst_stride + i;
      if constexpr (sizeof(E) == 4) {
        if (i + kSide <= rows && j + kSide <= columns) {
          transpose_block(from, src_stride, to, dst_stride);
          continue;
        }
      }
      for (int64_t r = 0; r < kSide && i + r < rows; r++)
        for (int64_t c = 0; c < kSide && j + c < columns; c++) to[c * dst_stride + r] = from[r * src_stride + c];
    }
}

template <class T>
static inline void transpose(const T* src, int64_t src_stride, T* dst, int64_t dst_stride, int64_t rows,
                             int64_t columns) {
  using E = typename UnsignedOf<sizeof(T)>::type;
  transpose_elements(reinterpret_cast<const E*>(src), src_stride, reinterpret_cast<E*>(dst), dst_stride, rows, columns);
}

}  // namespace HSR_ISA
}  // namespace hsr
