// SPDX-License-Identifier: Apache-2.0
// The operands of a matrix product as they are multiplied: packed to panels [terms, lanes] whose rows lie next to each
// other, where lanes are rows of the left matrix or columns of the right one. In a matrix the rows lie powers of two
// apart and would evict each other from the cache while they are multiplied.
#pragma once

#include <algorithm>

#include "amx.h"
#include "storage.h"
#include "transpose.h"

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#if defined(__AVX512BF16__) || defined(HSR_HAS_AMX)
#define HSR_HAS_PAIRS
#endif

namespace hsr {
namespace HSR_ISA {

// What is multiplied of a storage type: the accumulation type, or two terms of bfloat16 where an instruction multiplies
// and adds up both.
template <class S>
struct ElementOf {
  using type = Accumulator<S>;
  static constexpr int64_t kTerms = 1;
};
#ifdef HSR_HAS_PAIRS
template <>
struct ElementOf<bfloat16> {
  using type = uint32_t;
  static constexpr int64_t kTerms = 2;
};
#endif
template <class S>
using Element = typename ElementOf<S>::type;

// The rows of a panel with so many terms.
template <class S>
constexpr int64_t panel_rows(int64_t terms) {
  return (terms + ElementOf<S>::kTerms - 1) / ElementOf<S>::kTerms;
}

// Copies [terms, lanes] to a panel of storage types that need no conversion.
template <int64_t Width, class S>
void pack_elements(const S* src, int64_t term, int64_t lane, int64_t terms, int64_t lanes, S* panel) {
  // The compiler knows the size of the first of these copies.
  if (lane == 1 && lanes == Width)
    for (int64_t t = 0; t < terms; t++) std::memcpy(panel + t * Width, src + t * term, size_t(Width) * sizeof(S));
  else if (lane == 1)
    for (int64_t t = 0; t < terms; t++) std::memcpy(panel + t * Width, src + t * term, size_t(lanes) * sizeof(S));
  else if (term == 1)
    transpose(src, lane, panel, Width, lanes, terms);
  else
    for (int64_t t = 0; t < terms; t++)
      for (int64_t l = 0; l < lanes; l++) panel[t * Width + l] = src[t * term + l * lane];
}

template <int64_t Width>
void pack_widened(const bfloat16* src, int64_t term, int64_t lane, int64_t terms, int64_t lanes, float* panel) {
  // Terms that lie next to each other are widened first, so that they can be transposed.
  if (term == 1) {
    float* rows = static_cast<float*>(scratch(2, size_t(Width * terms) * sizeof(float)));
    for (int64_t l = 0; l < lanes; l++)
      for (int64_t t = 0; t < terms; t++) rows[l * terms + t] = widen(src[l * lane + t]);
    transpose(rows, terms, panel, Width, lanes, terms);
    return;
  }
  for (int64_t t = 0; t < terms; t++)
    for (int64_t l = 0; l < lanes; l++) panel[t * Width + l] = widen(src[t * term + l * lane]);
}

template <int64_t Width>
void pack_pairs(const bfloat16* src, int64_t term, int64_t lane, int64_t terms, int64_t lanes, uint32_t* panel) {
  const int64_t pairs = terms / 2;
  const auto pair = [](bfloat16 first, bfloat16 second) { return first.bits | uint32_t(second.bits) << 16; };
  if (term == 1)
    transpose_bytes<uint32_t>(src, lane * int64_t(sizeof(bfloat16)), panel, Width, lanes, pairs);
  else
    for (int64_t p = 0; p < pairs; p++) {
      const bfloat16 *first = src + 2 * p * term, *second = first + term;
      // The compiler vectorizes the first of these loops.
      if (lane == 1)
        for (int64_t l = 0; l < lanes; l++) panel[p * Width + l] = pair(first[l], second[l]);
      else
        for (int64_t l = 0; l < lanes; l++) panel[p * Width + l] = pair(first[l * lane], second[l * lane]);
    }
  if (terms % 2)
    for (int64_t l = 0; l < lanes; l++) panel[pairs * Width + l] = src[(terms - 1) * term + l * lane].bits;
}

// Packs [terms, lanes], lanes <= Width, with these strides, to a panel [panel_rows, Width]; missing lanes are zeros.
template <int64_t Width, class S>
void pack(const S* src, int64_t term, int64_t lane, int64_t terms, int64_t lanes, Element<S>* panel) {
  if (lanes < Width)
    std::memset(static_cast<void*>(panel), 0, size_t(panel_rows<S>(terms) * Width) * sizeof(Element<S>));
  if constexpr (ElementOf<S>::kTerms == 2)
    pack_pairs<Width>(src, term, lane, terms, lanes, panel);
  else if constexpr (sizeof(S) == sizeof(Element<S>))
    pack_elements<Width>(src, term, lane, terms, lanes, panel);
  else
    pack_widened<Width>(src, term, lane, terms, lanes, panel);
}

}  // namespace HSR_ISA
}  // namespace hsr
