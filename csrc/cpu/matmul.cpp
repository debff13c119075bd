// SPDX-License-Identifier: Apache-2.0
// Matrix products whose bits don't depend on the number of threads, which no BLAS promises: each element is one chain
// of multiply-adds in a fixed order, by the same instructions wherever it lies in a tile. So the size of the tiles may
// depend on the number of threads.
#include <algorithm>

#include "kernels.h"
#include "storage.h"
#include "transpose.h"

namespace hsr {
namespace HSR_ISA {
namespace {

// The bytes of a vector, and the rows whose sums fill the registers.
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kRows = 8;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kRows = 4;
#else
constexpr int kVectorBytes = 16, kRows = 4;
#endif
// A packed panel of b with so many rows stays in the first-level cache.
constexpr int64_t kMaxDepth = 256;
// The largest tile.
constexpr int64_t kMaxHeight = 128, kMaxWidth = 512;

template <class A>
constexpr int kLanes = kVectorBytes / int(sizeof(A));
template <class A>
constexpr int64_t kColumns = 2 * kLanes<A>;

template <class A>
struct Vector {
  typedef A type __attribute__((vector_size(kVectorBytes)));
};

// Copies n <= Width columns of b [k, n] to panel [k, Width] and fills it up with zeros. In a matrix the rows lie powers
// of two apart and would evict each other from the cache while they are multiplied.
template <int64_t Width, class A>
void pack(const A* b, int64_t row, int64_t column, int64_t k, int64_t n, A* panel) {
  if (n < Width) std::memset(static_cast<void*>(panel), 0, size_t(k * Width) * sizeof(A));
  // The compiler knows the size of the first of these copies.
  if (column == 1 && n == Width)
    for (int64_t p = 0; p < k; p++) std::memcpy(panel + p * Width, b + p * row, size_t(Width) * sizeof(A));
  else if (column == 1)
    for (int64_t p = 0; p < k; p++) std::memcpy(panel + p * Width, b + p * row, size_t(n) * sizeof(A));
  else if (row == 1)
    transpose(b, column, panel, Width, n, k);
  else
    for (int64_t p = 0; p < k; p++)
      for (int64_t j = 0; j < n; j++) panel[p * Width + j] = b[p * row + j * column];
}

// sums [kRows, kColumns] = a^T @ b, where a is kRows columns of a panel [k, kBlockSide], and b a panel [k, kColumns].
template <class A>
void multiply(const A* a, const A* b, int64_t k, A* sums) {
  using V = typename Vector<A>::type;
  V left_sums[kRows] = {}, right_sums[kRows] = {};
  for (int64_t p = 0; p < k; p++, a += kBlockSide, b += kColumns<A>) {
    V b0, b1;
    std::memcpy(&b0, b, sizeof(V));
    std::memcpy(&b1, b + kLanes<A>, sizeof(V));
    for (int r = 0; r < kRows; r++) left_sums[r] += a[r] * b0, right_sums[r] += a[r] * b1;
  }
  for (int r = 0; r < kRows; r++) {
    std::memcpy(sums + r * kColumns<A>, &left_sums[r], sizeof(V));
    std::memcpy(sums + r * kColumns<A> + kLanes<A>, &right_sums[r], sizeof(V));
  }
}

// c [m, n] = or += a [m, k] @ b [k, n] for one tile and k <= kMaxDepth.
template <class A>
void multiply_tile(const MatmulParams& p, const A* a, const A* b, A* c, int64_t m, int64_t n, int64_t k, bool add) {
  A* a_panels = static_cast<A*>(scratch(0, size_t(kMaxDepth * kMaxHeight) * sizeof(A)));
  A* b_panel = static_cast<A*>(scratch(1, size_t(kMaxDepth * kColumns<A>) * sizeof(A)));
  A sums[kRows * kColumns<A>];
  for (int64_t i = 0; i < m; i += kBlockSide)
    pack<kBlockSide>(a + i * p.a_row, p.a_column, p.a_row, k, std::min<int64_t>(m - i, kBlockSide), a_panels + i * k);
  for (int64_t j = 0; j < n; j += kColumns<A>) {
    const int64_t columns = std::min(n - j, kColumns<A>);
    pack<kColumns<A>>(b + j * p.b_column, p.b_row, p.b_column, k, columns, b_panel);
    for (int64_t i = 0; i < m; i += kRows) {
      multiply(a_panels + i / kBlockSide * kBlockSide * k + i % kBlockSide, b_panel, k, sums);
      for (int64_t r = 0; r < kRows && i + r < m; r++) {
        A* target = c + (i + r) * p.c_row + j;
        for (int64_t l = 0; l < columns; l++) target[l] = sums[r * kColumns<A> + l] + (add ? target[l] : A(0));
      }
    }
  }
}

template <class A>
void matmul_kernel(const MatmulParams& p, int threads) {
  int64_t height = kMaxHeight, width = kMaxWidth;
  const auto tile_count = [&](int64_t size, int64_t tile) { return (size + tile - 1) / tile; };
  while (p.batch * tile_count(p.m, height) * tile_count(p.n, width) < 4 * threads && height > 16)
    height /= 2, width = std::max<int64_t>(width / 2, 64);
  const int64_t rows = tile_count(p.m, height), columns = tile_count(p.n, width);
  for_each_chunk(p.batch * rows * columns, threads, [&](int64_t chunk) {
    const int64_t i = chunk % rows * height, j = chunk / rows % columns * width, sample = chunk / rows / columns;
    const A* a = static_cast<const A*>(p.a) + sample * p.a_batch + i * p.a_row;
    const A* b = static_cast<const A*>(p.b) + sample * p.b_batch + j * p.b_column;
    A* c = static_cast<A*>(p.c) + sample * p.c_batch + i * p.c_row + j;
    // One pass also if k is 0, as c is then 0.
    for (int64_t first_term = 0; first_term == 0 || first_term < p.k; first_term += kMaxDepth)
      multiply_tile(p, a + first_term * p.a_column, b + first_term * p.b_row, c, std::min(p.m - i, height),
                    std::min(p.n - j, width), std::min(p.k - first_term, kMaxDepth), p.add || first_term > 0);
  });
}

}  // namespace

void launch_matmul(const MatmulParams& p, int threads) {
  p.dtype == DType::float64 ? matmul_kernel<double>(p, threads) : matmul_kernel<float>(p, threads);
}

}  // namespace HSR_ISA
}  // namespace hsr
