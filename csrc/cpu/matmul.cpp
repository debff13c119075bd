// SPDX-License-Identifier: Apache-2.0
// Matrix products whose bits don't depend on the number of threads, which no BLAS promises: each element is one chain
// of multiply-adds in a fixed order, by the same instructions wherever it lies in a tile. So the size of the tiles may
// depend on the number of threads.
#include "kernels.h"
#include "product.h"

namespace hsr {
namespace HSR_ISA {
namespace {

// The rows of panels that are multiplied at a time, so that one of the right matrix stays in the first-level cache. The
// sums of so many terms are added to the output.
constexpr int64_t kMaxDepth = 256;
// The largest tile of the output; panels of so many rows of the left matrix stay in the second-level cache.
constexpr int64_t kMaxHeight = 512, kMaxWidth = 4096;
constexpr int64_t kMinHeight = 32, kMinWidth = 64;

constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// The terms of a block, and its rows in a packed panel.
template <class S>
constexpr int64_t kMaxTerms = kMaxDepth * ElementOf<S>::kTerms;

template <class S, class F>
void for_each_block(int64_t k, F&& f) {
  // Once also if there are no terms, as sums are then 0.
  for (int64_t first = 0; first == 0 || first < k; first += kMaxTerms<S>)
    f(first, std::min<int64_t>(k - first, kMaxTerms<S>));
}

// Where a block of a column's panel begins in the packed right matrix: a panel [depth, kColumns] for each kColumns of
// its columns, one after the other.
template <class S>
int64_t panel_offset(const MatmulParams& p, int64_t column, int64_t first_term) {
  using P = Product<S>;
  return column * P::depth(p.k) + first_term / ElementOf<S>::kTerms * P::kColumns;
}

// c [m, n] = or += a [m, k] @ b [k, n] for one tile at row i and column j.
template <class S>
void multiply_tile(const MatmulParams& p, int64_t first_row, int64_t first_column, int64_t m, int64_t n) {
  using P = Product<S>;
  using Sum = typename P::Sum;
  const S* a = static_cast<const S*>(p.a) + first_row * p.a_row;
  const S* b = static_cast<const S*>(p.b);
  Sum* c = static_cast<Sum*>(p.c) + first_row * p.c_row;
  auto* a_panels = static_cast<Element<S>*>(scratch(0, size_t(kMaxDepth * kMaxHeight) * sizeof(Element<S>)));
  auto* b_panel = static_cast<Element<S>*>(scratch(1, size_t(kMaxDepth * P::kColumns) * sizeof(Element<S>)));
  alignas(64) Sum sums[P::kRows * P::kColumns];
  for_each_block<S>(p.k, [&](int64_t first_term, int64_t terms) {
    const int64_t depth = P::depth(terms);
    for (int64_t i = 0; i < m; i += P::kPanelRows)
      P::pack_a(a + i * p.a_row + first_term * p.a_column, p.a_row, p.a_column, std::min(m - i, P::kPanelRows), terms,
                a_panels + i * depth);
    for (int64_t j = first_column; j < first_column + n; j += P::kColumns) {
      const int64_t columns = std::min(first_column + n - j, P::kColumns);
      const Element<S>* panel = b_panel;
      if (p.b_is_packed)
        panel = static_cast<const Element<S>*>(p.b) + panel_offset<S>(p, j, first_term);
      else
        P::pack_b(b + first_term * p.b_row + j * p.b_column, p.b_row, p.b_column, terms, columns, b_panel);
      for (int64_t i = 0; i < m; i += P::kRows) {
        P::multiply(a_panels + i / P::kPanelRows * P::kPanelRows * depth + i % P::kPanelRows, panel, depth, sums);
        for (int64_t r = 0; r < P::kRows && i + r < m; r++) {
          Sum* target = c + (i + r) * p.c_row + j;
          const Sum* row = sums + r * P::kColumns;
          if (p.add || first_term > 0)
            for (int64_t l = 0; l < columns; l++) target[l] += row[l];
          else
            for (int64_t l = 0; l < columns; l++) target[l] = row[l];
        }
      }
    }
  });
}

template <class S>
void matmul_kernel(const MatmulParams& p, int threads) {
  using P = Product<S>;
  static_assert(kMinHeight % P::kPanelRows == 0 && kMinWidth % P::kColumns == 0, "tiles are made of whole panels");
  int64_t height = std::min(round_up(p.m, kMinHeight), kMaxHeight),
          width = std::min(round_up(p.n, kMinWidth), kMaxWidth);
  const auto tile_count = [&](int64_t size, int64_t tile) { return size ? (size + tile - 1) / tile : 0; };
  while (threads > 1 && tile_count(p.m, height) * tile_count(p.n, width) < 4 * threads &&
         (height > kMinHeight || width > kMinWidth)) {
    // Wide tiles pack the left matrix less often, high ones the right matrix, unless it is packed already.
    if (width > kMinWidth && (width >= 2 * height || height == kMinHeight))
      width = round_up(width / 2, kMinWidth);
    else
      height = round_up(height / 2, kMinHeight);
  }
  const int64_t rows = tile_count(p.m, height), columns = tile_count(p.n, width);
  for_each_chunk(rows * columns, threads, [&](int64_t chunk) {
    const int64_t i = chunk % rows * height, j = chunk / rows * width;
    P::begin();
    multiply_tile<S>(p, i, j, std::min(p.m - i, height), std::min(p.n - j, width));
    P::end();
  });
}

template <class S>
void matmul_pack_kernel(const MatmulParams& p, int threads) {
  using P = Product<S>;
  static_assert(kPackedColumns % P::kColumns == 0 && kPackedTerms % (P::kDepthStep * ElementOf<S>::kTerms) == 0,
                "packed_bytes() is enough");
  const S* b = static_cast<const S*>(p.b);
  auto* packed = static_cast<Element<S>*>(p.c);
  for_each_chunk((p.n + P::kColumns - 1) / P::kColumns, threads, [&](int64_t chunk) {
    const int64_t j = chunk * P::kColumns;
    for_each_block<S>(p.k, [&](int64_t first_term, int64_t terms) {
      P::pack_b(b + first_term * p.b_row + j * p.b_column, p.b_row, p.b_column, terms, std::min(p.n - j, P::kColumns),
                packed + panel_offset<S>(p, j, first_term));
    });
  });
}

}  // namespace

void launch_matmul(const MatmulParams& p, int threads) {
  with_operand(p.dtype, [&](auto type) { matmul_kernel<decltype(type)>(p, threads); });
}
void launch_matmul_pack(const MatmulParams& p, int threads) {
  with_operand(p.dtype, [&](auto type) { matmul_pack_kernel<decltype(type)>(p, threads); });
}

}  // namespace HSR_ISA
}  // namespace hsr
