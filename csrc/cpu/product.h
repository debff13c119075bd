// SPDX-License-Identifier: Apache-2.0
// The innermost product of two packed panels: sums of kRows x kColumns elements stay in registers. Each element is one
// chain of multiply-adds in the order of its terms, wherever it lies.
#pragma once

#include "panels.h"

namespace hsr {
namespace HSR_ISA {

// The bytes of a vector, and the rows whose sums fill the registers.
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kVectorRows = 8;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kVectorRows = 4;
#else
constexpr int kVectorBytes = 16, kVectorRows = 4;
#endif

template <class A>
struct VectorOf {
  typedef A type __attribute__((vector_size(kVectorBytes)));
};
template <class A>
using Vector = typename VectorOf<A>::type;

// sum += a * b, for the sums and the elements of a storage type S.
template <class S>
static inline __attribute__((always_inline)) void multiply_add(Vector<Accumulator<S>>& sum, Element<S> a,
                                                               const Vector<Element<S>>& b) {
  if constexpr (ElementOf<S>::kTerms == 1) sum += a * b;
#ifdef __AVX512BF16__
  if constexpr (ElementOf<S>::kTerms == 2)
    sum = (Vector<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(int(a)), (__m512bh)b);
#endif
}

// Products of vectors. A panel of the left matrix has more lanes than there are rows, so that it can be transposed in
// blocks.
template <class S>
struct VectorProduct {
  using Sum = Accumulator<S>;
  static constexpr int64_t kLanes = kVectorBytes / int(sizeof(Sum));
  static constexpr int64_t kRows = kVectorRows, kColumns = 2 * kLanes, kPanelRows = kBlockSide;

  // The rows of packed panels with so many terms are a multiple of this.
  static constexpr int64_t kDepthStep = 1;
  static int64_t depth(int64_t terms) { return panel_rows<S>(terms); }
  static void pack_a(const S* a, int64_t row, int64_t term, int64_t rows, int64_t terms, Element<S>* panel) {
    pack<kPanelRows>(a, term, row, terms, rows, panel);
  }
  static void pack_b(const S* b, int64_t term, int64_t column, int64_t terms, int64_t columns, Element<S>* panel) {
    pack<kColumns>(b, term, column, terms, columns, panel);
  }
  static void begin() {}
  static void end() {}
  // sums [kRows, kColumns] = a^T @ b for kRows lanes of a panel [depth, kPanelRows] and a panel [depth, kColumns].
  static void multiply(const Element<S>* a, const Element<S>* b, int64_t depth, Sum* sums) {
    Vector<Sum> left_sums[kRows] = {}, right_sums[kRows] = {};
    for (int64_t i = 0; i < depth; i++, a += kPanelRows, b += kColumns) {
      Vector<Element<S>> left, right;
      std::memcpy(&left, b, sizeof(left));
      std::memcpy(&right, b + kLanes, sizeof(right));
      for (int r = 0; r < kRows; r++)
        multiply_add<S>(left_sums[r], a[r], left), multiply_add<S>(right_sums[r], a[r], right);
    }
    for (int r = 0; r < kRows; r++) {
      std::memcpy(sums + r * kColumns, &left_sums[r], sizeof(left_sums[r]));
      std::memcpy(sums + r * kColumns + kLanes, &right_sums[r], sizeof(right_sums[r]));
    }
  }
};

template <class S>
struct ProductOf {
  using type = VectorProduct<S>;
};

#ifdef HSR_HAS_AMX
// Products of tiles. A panel of the left matrix is two lists of tiles [16 rows, 16 pairs], one after the other.
struct TileProduct {
  using Sum = float;
  static constexpr int64_t kRows = 2 * kTileRows, kColumns = 2 * kTileElements, kPanelRows = kRows;
  static constexpr int64_t kElementsPerTile = kTileRows * kTileElements;

  // Tiles are whole: what is missing is zeros.
  static constexpr int64_t kDepthStep = kTileElements;
  static int64_t depth(int64_t terms) {
    return (panel_rows<bfloat16>(terms) + kDepthStep - 1) / kDepthStep * kDepthStep;
  }
  static void pack_a(const bfloat16* a, int64_t row, int64_t term, int64_t rows, int64_t terms, uint32_t* panel) {
    for (int64_t first = 0; first < kRows; first += kTileRows, panel += depth(terms) * kTileRows)
      pack_tiles(a + first * row, row, term, std::clamp<int64_t>(rows - first, 0, kTileRows), terms, panel);
  }
  static void pack_b(const bfloat16* b, int64_t term, int64_t column, int64_t terms, int64_t columns, uint32_t* panel) {
    const int64_t filled = panel_rows<bfloat16>(terms);
    pack<kColumns>(b, term, column, terms, columns, panel);
    std::memset(panel + filled * kColumns, 0, size_t((depth(terms) - filled) * kColumns) * sizeof(uint32_t));
  }
  static void begin() { configure_tiles(); }
  static void end() { _tile_release(); }
  // sums [kRows, kColumns] = the product of two packed panels. Tiles 0 to 3 are the sums.
  static void multiply(const uint32_t* a, const uint32_t* b, int64_t depth, float* sums) {
    constexpr int64_t column_bytes = kColumns * int64_t(sizeof(uint32_t));
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    const uint32_t* lower_a = a + depth * kTileRows;
    for (int64_t i = 0; i < depth; i += kTileElements) {
      _tile_loadd(4, a + i * kTileRows, kTileBytes);
      _tile_loadd(5, lower_a + i * kTileRows, kTileBytes);
      _tile_loadd(6, b + i * kColumns, column_bytes);
      _tile_loadd(7, b + i * kColumns + kTileElements, column_bytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, column_bytes);
    _tile_stored(1, sums + kTileElements, column_bytes);
    _tile_stored(2, sums + kTileRows * kColumns, column_bytes);
    _tile_stored(3, sums + kTileRows * kColumns + kTileElements, column_bytes);
  }

 private:
  // Packs up to 16 rows to tiles [16, 16 pairs].
  static void pack_tiles(const bfloat16* a, int64_t row, int64_t term, int64_t rows, int64_t terms, uint32_t* tiles) {
    const int64_t filled = panel_rows<bfloat16>(terms), elements = depth(terms) * kTileRows;
    if (term == 1) {
      if (rows < kTileRows || 2 * depth(terms) != terms) std::memset(tiles, 0, size_t(elements) * sizeof(uint32_t));
      for (int64_t r = 0; r < rows; r++)
        for (int64_t t = 0; t < terms; t += 2 * kTileElements)
          std::memcpy(tiles + t / 2 * kTileRows + r * kTileElements, a + r * row + t,
                      size_t(std::min<int64_t>(terms - t, 2 * kTileElements)) * sizeof(bfloat16));
      return;
    }
    auto* columns = static_cast<uint32_t*>(scratch(2, size_t(elements) * sizeof(uint32_t)));
    pack<kTileRows>(a, term, row, terms, rows, columns);
    std::memset(columns + filled * kTileRows, 0, size_t(elements - filled * kTileRows) * sizeof(uint32_t));
    for (int64_t i = 0; i < elements; i += kElementsPerTile)
      transpose(columns + i, kTileRows, tiles + i, kTileElements, kTileElements, kTileRows);
  }
};

template <>
struct ProductOf<bfloat16> {
  using type = TileProduct;
};
#endif

template <class S>
using Product = typename ProductOf<S>::type;

}  // namespace HSR_ISA
}  // namespace hsr
