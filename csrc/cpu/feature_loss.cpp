// SPDX-License-Identifier: Apache-2.0
// The hidden layer of the HSR loss: ReLU, gain and area pooling in one pass, and its transpose.
// One bit per element remembers where the ReLU passed, so that the backward needs neither the layer nor a second GEMM.
#include "launchers.h"
#include "storage.h"

namespace hsr {
namespace HSR_ISA {
namespace {

// Adaptive average pooling, as PyTorch defines it: window o of `out` over `in` pixels.
struct Window {
  int64_t begin, end;
  Window(int64_t o, int64_t in, int64_t out) : begin(o * in / out), end(((o + 1) * in + out - 1) / out) {}
};

// relu(z + b) in place; returns nothing lost: bit i of mask says whether element i passed.
template <class A>
void relu_mask(A* z, A b, int64_t n, uint8_t* mask) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    unsigned bits = 0;
    for (int j = 0; j < 8; j++) {
      const A v = z[i + j] + b;
      bits |= unsigned(v > A(0)) << j;
      z[i + j] = v > A(0) ? v : A(0);
    }
    mask[i / 8] = uint8_t(bits);
  }
  if (i == n) return;
  unsigned bits = 0;
  for (int j = 0; i + j < n; j++) {
    const A v = z[i + j] + b;
    bits |= unsigned(v > A(0)) << j;
    z[i + j] = v > A(0) ? v : A(0);
  }
  mask[i / 8] = uint8_t(bits);
}

template <class A>
void feature_pool_kernel(const FeaturePoolParams& p, int threads) {
  const int64_t hw = p.h * p.w, t = p.th * p.tw, mask_bytes = (hw + 7) / 8;
  for_each_chunk(p.k, threads, [&](int64_t k) {
    A* z = static_cast<A*>(p.z) + k * hw;
    A* pooled = static_cast<A*>(p.pooled) + k * t;
    A* column = static_cast<A*>(scratch(0, size_t(p.w) * sizeof(A)));
    relu_mask(z, static_cast<const A*>(p.b)[k], hw, p.mask + k * mask_bytes);
    for (int64_t oy = 0; oy < p.th; oy++) {
      const Window rows(oy, p.h, p.th);
      for (int64_t x = 0; x < p.w; x++) column[x] = A(0);
      for (int64_t y = rows.begin; y < rows.end; y++)
        for (int64_t x = 0; x < p.w; x++) column[x] += z[y * p.w + x];
      for (int64_t ox = 0; ox < p.tw; ox++) {
        const Window columns(ox, p.w, p.tw);
        A sum = 0;
        for (int64_t x = columns.begin; x < columns.end; x++) sum += column[x];
        pooled[oy * p.tw + ox] = sum * A(p.gain / double((rows.end - rows.begin) * (columns.end - columns.begin)));
      }
    }
  });
}

template <class A>
void feature_pool_bwd_kernel(const FeaturePoolParams& p, int threads) {
  const int64_t hw = p.h * p.w, t = p.th * p.tw, mask_bytes = (hw + 7) / 8;
  for_each_chunk(p.k, threads, [&](int64_t k) {
    A* dz = static_cast<A*>(p.z) + k * hw;
    const A* dpooled = static_cast<const A*>(p.pooled) + k * t;
    const uint8_t* mask = p.mask + k * mask_bytes;
    A* line = static_cast<A*>(scratch(0, size_t(p.w) * sizeof(A)));
    std::memset(static_cast<void*>(dz), 0, size_t(hw) * sizeof(A));
    for (int64_t oy = 0; oy < p.th; oy++) {
      const Window rows(oy, p.h, p.th);
      for (int64_t x = 0; x < p.w; x++) line[x] = A(0);
      for (int64_t ox = 0; ox < p.tw; ox++) {
        const Window columns(ox, p.w, p.tw);
        const A share =
            dpooled[oy * p.tw + ox] * A(p.gain / double((rows.end - rows.begin) * (columns.end - columns.begin)));
        for (int64_t x = columns.begin; x < columns.end; x++) line[x] += share;
      }
      for (int64_t y = rows.begin; y < rows.end; y++)
        for (int64_t x = 0; x < p.w; x++) dz[y * p.w + x] += line[x];
    }
    A lanes[8] = {};
    for (int64_t i = 0; i < hw; i += 8) {
      const unsigned bits = mask[i / 8];
      const int64_t n = hw - i < 8 ? hw - i : 8;
      for (int64_t j = 0; j < n; j++) {
        dz[i + j] = (bits >> j) & 1u ? dz[i + j] : A(0);
        lanes[j] += dz[i + j];
      }
    }
    A total = 0;
    for (A lane : lanes) total += lane;
    p.db[k] += double(total);
  });
}

}  // namespace

void launch_feature_pool(const FeaturePoolParams& p, int threads) {
  p.dtype == DType::float64 ? feature_pool_kernel<double>(p, threads) : feature_pool_kernel<float>(p, threads);
}
void launch_feature_pool_bwd(const FeaturePoolParams& p, int threads) {
  p.dtype == DType::float64 ? feature_pool_bwd_kernel<double>(p, threads) : feature_pool_bwd_kernel<float>(p, threads);
}

}  // namespace HSR_ISA
}  // namespace hsr
