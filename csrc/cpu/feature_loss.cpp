// SPDX-License-Identifier: Apache-2.0
// The hidden layer of the HSR loss: ReLU, gain and area pooling in one pass, and its transpose.
// A mask of one bit per element says where the ReLU passes, so that the backward needs neither the layer nor another
// GEMM.
#include "kernels.h"
#include "storage.h"

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace hsr {
namespace HSR_ISA {
namespace {

// The inputs [begin, end) that one output of PyTorch's adaptive average pooling averages along an axis. They are
// computed once per launch, as divisions are slow.
struct Window {
  int begin, end;
};

const Window* windows(int64_t in, int64_t out, int slot) {
  auto* table = static_cast<Window*>(scratch(slot, size_t(out) * sizeof(Window)));
  for (int64_t o = 0; o < out; o++) table[o] = {int(o * in / out), int(((o + 1) * in + out - 1) / out)};
  return table;
}

// Returns bits of which bit j says whether the ReLU passes v[j], j < 8: NaN, which isn't <= 0, passes as in PyTorch's.
template <class A>
uint8_t passing_bits(const A* v) {
  unsigned bits = 0;
  for (int j = 0; j < 8; j++) bits |= unsigned(!(v[j] <= A(0))) << j;
  return uint8_t(bits);
}
#if defined(__AVX__)
template <>
uint8_t passing_bits(const float* v) {
  return uint8_t(_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(v), _mm256_setzero_ps(), _CMP_NLE_UQ)));
}
#elif defined(__SSE2__)
template <>
uint8_t passing_bits(const float* v) {
  const auto bits = [](const float* w) { return _mm_movemask_ps(_mm_cmpnle_ps(_mm_loadu_ps(w), _mm_setzero_ps())); };
  return uint8_t(bits(v) | bits(v + 4) << 4);
}
#endif

// z = relu(z + b); sets bit i of the mask where element i passes.
template <class A>
void relu_mask(A* z, A b, int64_t n, uint8_t* mask) {
  for (int64_t i = 0; i < n; i++) z[i] += b;
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) mask[i / 8] = passing_bits(z + i);
  if (i < n) {
    A tail[8] = {};
    for (int64_t j = 0; i + j < n; j++) tail[j] = z[i + j];
    mask[i / 8] = passing_bits(tail);
  }
  for (i = 0; i < n; i++) z[i] = z[i] <= A(0) ? A(0) : z[i];
}

// Takes eight elements: sets those to zero whose bit is 0, and adds all to `lanes`.
template <class A>
void mask_and_sum(A* v, unsigned bits, A* lanes) {
  for (int j = 0; j < 8; j++) lanes[j] += v[j] = bits >> j & 1 ? v[j] : A(0);
}
#if defined(__AVX2__)
template <>
inline __attribute__((always_inline)) void mask_and_sum(float* v, unsigned bits, float* lanes) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i selected = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(int(bits)), bit), bit);
  const __m256 masked = _mm256_and_ps(_mm256_loadu_ps(v), _mm256_castsi256_ps(selected));
  _mm256_storeu_ps(v, masked);
  _mm256_storeu_ps(lanes, _mm256_add_ps(_mm256_loadu_ps(lanes), masked));
}
#endif

// Sets the elements to zero whose bit of the mask is 0; returns the sum of all.
template <class A>
A apply_mask(A* dz, int64_t n, const uint8_t* mask) {
  A lanes[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) mask_and_sum(dz + i, mask[i / 8], lanes);
  for (int j = 0; i + j < n; j++) {
    dz[i + j] = mask[i / 8] & (1u << j) ? dz[i + j] : A(0);
    lanes[j] += dz[i + j];
  }
  A total = 0;
  for (A lane : lanes) total += lane;
  return total;
}

template <class S>
void feature_pool_kernel(const FeaturePoolParams& p, int threads) {
  using A = Accumulator<S>;
  const int64_t hw = p.h * p.w, mask_bytes = (hw + 7) / 8;
  const Window *row_windows = windows(p.h, p.th, 6), *column_windows = windows(p.w, p.tw, 7);
  for_each_chunk(p.k, threads, [&](int64_t k) {
    A* z = static_cast<A*>(p.z) + k * hw;
    S* pooled = static_cast<S*>(p.pooled) + k * p.pooled_row;
    A* column = static_cast<A*>(scratch(0, size_t(p.w) * sizeof(A)));
    relu_mask(z, static_cast<const A*>(p.b)[k], hw, p.mask + k * mask_bytes);
    for (int64_t oy = 0; oy < p.th; oy++) {
      const Window rows = row_windows[oy];
      const A height_gain = A(p.gain / (rows.end - rows.begin));
      for (int64_t x = 0; x < p.w; x++) column[x] = A(0);
      for (int y = rows.begin; y < rows.end; y++)
        for (int64_t x = 0; x < p.w; x++) column[x] += z[y * p.w + x];
      for (int64_t ox = 0; ox < p.tw; ox++) {
        const Window columns = column_windows[ox];
        A sum = 0;
        for (int x = columns.begin; x < columns.end; x++) sum += column[x];
        pooled[oy * p.tw + ox] = narrow(sum * height_gain / A(columns.end - columns.begin), S{});
      }
    }
  });
}

template <class S>
void feature_pool_bwd_kernel(const FeaturePoolParams& p, int threads) {
  using A = Accumulator<S>;
  const int64_t hw = p.h * p.w, mask_bytes = (hw + 7) / 8;
  const Window *row_windows = windows(p.h, p.th, 6), *column_windows = windows(p.w, p.tw, 7);
  for_each_chunk(p.k, threads, [&](int64_t k) {
    S* target = static_cast<S*>(p.dz) + k * hw;
    A* dz = stage(target, static_cast<A*>(scratch(1, size_t(hw) * sizeof(A))));
    const A* dpooled = static_cast<const A*>(p.pooled) + k * p.pooled_row;
    const uint8_t* mask = p.mask + k * mask_bytes;
    A* line = static_cast<A*>(scratch(0, size_t(p.w) * sizeof(A)));
    std::memset(static_cast<void*>(dz), 0, size_t(hw) * sizeof(A));
    for (int64_t oy = 0; oy < p.th; oy++) {
      const Window rows = row_windows[oy];
      const A height_gain = A(p.gain / (rows.end - rows.begin));
      for (int64_t x = 0; x < p.w; x++) line[x] = A(0);
      for (int64_t ox = 0; ox < p.tw; ox++) {
        const Window columns = column_windows[ox];
        const A share = dpooled[oy * p.tw + ox] * height_gain / A(columns.end - columns.begin);
        for (int x = columns.begin; x < columns.end; x++) line[x] += share;
      }
      for (int y = rows.begin; y < rows.end; y++)
        for (int64_t x = 0; x < p.w; x++) dz[y * p.w + x] += line[x];
    }
    p.db[k] += double(apply_mask(dz, hw, mask));
    commit(dz, target, hw);
  });
}

}  // namespace

void launch_feature_pool(const FeaturePoolParams& p, int threads) {
  with_operand(p.dtype, [&](auto type) { feature_pool_kernel<decltype(type)>(p, threads); });
}
void launch_feature_pool_bwd(const FeaturePoolParams& p, int threads) {
  with_operand(p.dtype, [&](auto type) { feature_pool_bwd_kernel<decltype(type)>(p, threads); });
}

}  // namespace HSR_ISA
}  // namespace hsr
