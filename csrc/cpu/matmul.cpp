// SPDX-License-Identifier: Apache-2.0
// Matrix products whose bits don't depend on the number of threads, which no BLAS promises: each element is one chain
// of multiply-adds in a fixed order, in the same instructions wherever it lies in a tile. Tiles may then follow the
// number of threads.
#include <algorithm>

#include "kernels.h"
#include "storage.h"
#include "transpose.h"

namespace hsr {
namespace HSR_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64, kRows = 8;  // of a vector; rows at a time, so that sums fill the registers
#elif defined(__AVX2__)
constexpr int kBytes = 32, kRows = 4;
#else
constexpr int kBytes = 16, kRows = 4;
#endif
constexpr int64_t kDepth = 256;  // terms of a chain: a packed panel of b this deep stays in the first cache
constexpr int64_t kHeight = 128, kWidth = 512;  // of a tile, at most

template <class A>
constexpr int kLanes = kBytes / int(sizeof(A));
template <class A>
constexpr int64_t kColumns = 2 * kLanes<A>;

template <class A>
struct Vector {
  typedef A type __attribute__((vector_size(kBytes)));
};

// n <= Width columns of b [k, n], zeros from there on, as panel [k, Width]. Rows of matrices lie powers of two apart,
// where they would evict each other from the cache while they are multiplied.
template <int64_t Width, class A>
void pack(const A* b, int64_t row, int64_t column, int64_t k, int64_t n, A* panel) {
  if (n < Width) std::memset(static_cast<void*>(panel), 0, size_t(k * Width) * sizeof(A));
  if (column == 1 && n == Width)  // of a size that the compiler knows
    for (int64_t p = 0; p < k; p++) std::memcpy(panel + p * Width, b + p * row, size_t(Width) * sizeof(A));
  else if (column == 1)
    for (int64_t p = 0; p < k; p++) std::memcpy(panel + p * Width, b + p * row, size_t(n) * sizeof(A));
  else if (row == 1)
    transpose(b, column, panel, Width, n, k);
  else
    for (int64_t p = 0; p < k; p++)
      for (int64_t j = 0; j < n; j++) panel[p * Width + j] = b[p * row + j * column];
}

// sums [kRows, kColumns] = a^T @ b, of kRows columns out of a panel [k, kSide] and of a panel [k, kColumns].
template <class A>
void multiply(const A* a, const A* b, int64_t k, A* sums) {
  using V = typename Vector<A>::type;
  V left[kRows] = {}, right[kRows] = {};
  for (int64_t p = 0; p < k; p++, a += kSide, b += kColumns<A>) {
    V b0, b1;
    std::memcpy(&b0, b, sizeof(V));
    std::memcpy(&b1, b + kLanes<A>, sizeof(V));
    for (int r = 0; r < kRows; r++) left[r] += a[r] * b0, right[r] += a[r] * b1;
  }
  for (int r = 0; r < kRows; r++) {
    std::memcpy(sums + r * kColumns<A>, &left[r], sizeof(V));
    std::memcpy(sums + r * kColumns<A> + kLanes<A>, &right[r], sizeof(V));
  }
}

// c [m, n] = or += a [m, k] @ b [k, n] for one tile and at most kDepth terms.
template <class A>
void multiply_tile(const MatmulParams& p, const A* a, const A* b, A* c, int64_t m, int64_t n, int64_t k, bool add) {
  A* of_a = static_cast<A*>(scratch(0, size_t(kDepth * kHeight) * sizeof(A)));
  A* of_b = static_cast<A*>(scratch(1, size_t(kDepth * kColumns<A>) * sizeof(A)));
  A sums[kRows * kColumns<A>];
  for (int64_t i = 0; i < m; i += kSide)
    pack<kSide>(a + i * p.a_row, p.a_column, p.a_row, k, std::min<int64_t>(m - i, kSide), of_a + i * k);
  for (int64_t j = 0; j < n; j += kColumns<A>) {
    const int64_t columns = std::min(n - j, kColumns<A>);
    pack<kColumns<A>>(b + j * p.b_column, p.b_row, p.b_column, k, columns, of_b);
    for (int64_t i = 0; i < m; i += kRows) {
      multiply(of_a + i / kSide * kSide * k + i % kSide, of_b, k, sums);
      for (int64_t r = 0; r < kRows && i + r < m; r++) {
        A* to = c + (i + r) * p.c_row + j;
        for (int64_t l = 0; l < columns; l++) to[l] = sums[r * kColumns<A> + l] + (add ? to[l] : A(0));
      }
    }
  }
}

template <class A>
void matmul_kernel(const MatmulParams& p, int threads) {
  int64_t height = kHeight, width = kWidth;
  const auto across = [&](int64_t size, int64_t tile) { return (size + tile - 1) / tile; };
  while (p.batch * across(p.m, height) * across(p.n, width) < 4 * threads && height > 16)
    height /= 2, width = std::max<int64_t>(width / 2, 64);
  const int64_t rows = across(p.m, height), columns = across(p.n, width);
  for_each_chunk(p.batch * rows * columns, threads, [&](int64_t chunk) {
    const int64_t i = chunk % rows * height, j = chunk / rows % columns * width, sample = chunk / rows / columns;
    const A* a = static_cast<const A*>(p.a) + sample * p.a_batch + i * p.a_row;
    const A* b = static_cast<const A*>(p.b) + sample * p.b_batch + j * p.b_column;
    A* c = static_cast<A*>(p.c) + sample * p.c_batch + i * p.c_row + j;
    for (int64_t first = 0; first == 0 || first < p.k; first += kDepth)  // without terms the sum is 0
      multiply_tile(p, a + first * p.a_column, b + first * p.b_row, c, std::min(p.m - i, height),
                    std::min(p.n - j, width), std::min(p.k - first, kDepth), p.add || first > 0);
  });
}

}  // namespace

void launch_matmul(const MatmulParams& p, int threads) {
  p.dtype == DType::float64 ? matmul_kernel<double>(p, threads) : matmul_kernel<float>(p, threads);
}

}  // namespace HSR_ISA
}  // namespace hsr
