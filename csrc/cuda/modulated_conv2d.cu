// SPDX-License-Identifier: Apache-2.0
// The epilogue after the convolution of a modulated layer, and its backwards. The convolution runs in nhwc, so these
// kernels also convert the layout.
#include "hsr/epilogue.h"
#include "launch.h"
#include "launchers.h"
#include "tile.h"

namespace hsr {
namespace cuda {
namespace {

using namespace tiles;

template <class T>
HSR_KERNEL(kThreads)
modulated_conv2d_epilogue_kernel(ModulatedConv2dEpilogueParams p, PiecewiseLinear<float> act, Tiling tiling) {
  constexpr int V = kVector<T>;
  using View = Tile<T, V>;
  HSR_SHARED(T, View::kElements, memory);
  const View tile(tiling);
  float value[kPixelsPerThread][V], d[V], b[V], noise[kPixelsPerThread];
  tile.read_nhwc(tile.nhwc_start(p.z), value);
  tile.read_vector(p.d, tile.sample * p.c, 1.0f, d);
  tile.read_vector(p.b, 0, 0.0f, b);
  tile.read_map(p.noise, tile.sample * p.noise_stride, noise);
#pragma unroll
  for (int i = 0; i < kPixelsPerThread; i++)
#pragma unroll
    for (int j = 0; j < V; j++) value[i][j] = act.value(value[i][j] * d[j] + (noise[i] + b[j]));
  T* y = tile.image_start(p.out);
  if (tiling.nhwc) {
    tile.write_nhwc(y, value);
  } else {
    tile.write_memory(memory, value);
    sync();
    tile.flush(memory, y);
  }
}

// Reads this thread's part of a tile of dy and y, which have the same layout.
template <class View, class T, int V>
HSR_DEVICE void read_dy_and_y(const View& tile, const Tiling& tiling, const T* dy_image, const T* y_image,
                              typename View::Memory& dys, typename View::Memory& ys, float (&dy)[kPixelsPerThread][V],
                              float (&y)[kPixelsPerThread][V]) {
  if (tiling.nhwc) {
    tile.read_nhwc(dy_image, dy);
    tile.read_nhwc(y_image, y);
  } else {
    tile.fetch(dy_image, dys);
    tile.fetch(y_image, ys);
    sync();
    tile.read_memory(dys, dy);
    tile.read_memory(ys, y);
  }
}

// dz = dpre * d with dpre = dy * slope; sums dd and db. z * d is recovered from y by inverting the activation; where
// that is impossible (clamped, or ReLU below 0) dpre is 0.
template <class T>
HSR_KERNEL(kThreads)
modulated_conv2d_epilogue_bwd_kernel(ModulatedConv2dEpilogueParams p, PiecewiseLinear<float> act, Tiling tiling) {
  constexpr int V = kSumChannels;
  using View = Tile<T, V>;
  HSR_SHARED(T, View::kElements, dys);
  HSR_SHARED(T, View::kElements, ys);
  HSR_SHARED(float, View::kSums, sums);
  View tile(tiling);
  const T *dy_image = tile.image_start(p.dy), *y_image = tile.image_start(p.y);
  T* dz = tile.nhwc_start(p.out);
  float d[V], b[V], dd[V] = {}, db[V] = {};
  tile.read_vector(p.d, tile.sample * p.c, 1.0f, d);
  tile.read_vector(p.b, 0, 0.0f, b);
  for (; tile.has_pixels(); tile.advance()) {
    float dy[kPixelsPerThread][V], y[kPixelsPerThread][V], noise[kPixelsPerThread], total[kPixelsPerThread];
    read_dy_and_y(tile, tiling, dy_image, y_image, dys, ys, dy, y);
    tile.read_map(p.noise, tile.sample * p.noise_stride, noise);
#pragma unroll
    for (int i = 0; i < kPixelsPerThread; i++) {
      total[i] = 0;
#pragma unroll
      for (int j = 0; j < V; j++) {
        const Inverted<float> inverted = act.invert(y[i][j]);
        const float dpre = dy[i][j] * inverted.slope;
        dd[j] += dpre * (inverted.pre - (noise[i] + b[j]));
        db[j] += dpre;
        total[i] += dpre;
        dy[i][j] = dpre * d[j];
      }
    }
    if (p.dnoise) tile.write_map(p.dnoise, p.n, total);
    tile.write_nhwc(dz, dy);
    // All threads have read shared memory before the next tile is fetched.
    if (!tiling.nhwc) sync();
  }
  tile.write_sums(p.partial, dd, p.d, sums);
  tile.write_sums(p.partial + p.n * tiling.parts * p.c, db, nullptr, sums);
}

// With zd = z * d recovered from y, and 0 where the activation's slope is:
//   gdy = slope * (ddz * d + ratio * zd + ddnoise + ddb),  gy = ratio * dpre * dpre/dy,  gnoise = -sum of gy * slope.
// Sums ddz * dpre, dpre * zd and gy * slope, which is ratio * dpre as the layer's backward pass will round it: its sums
// cancel those here.
template <class T>
HSR_KERNEL(kThreads)
modulated_conv2d_epilogue_bwd_bwd_kernel(ModulatedConv2dEpilogueParams p, PiecewiseLinear<float> act, Tiling tiling) {
  constexpr int V = kSumChannels;
  using View = Tile<T, V>;
  HSR_SHARED(T, View::kElements, dys);
  HSR_SHARED(T, View::kElements, ys);
  HSR_SHARED(float, View::kSums, sums);
  View tile(tiling);
  const T *ddz_image = tile.nhwc_start(p.z), *dy_image = tile.image_start(p.dy), *y_image = tile.image_start(p.y);
  T *gdy_image = tile.image_start(p.out), *gy_image = tile.image_start(p.gy);
  float dot[V] = {}, dot_zd[V] = {}, sum[V] = {};
  for (; tile.has_pixels(); tile.advance()) {
    float ddz[kPixelsPerThread][V], dy[kPixelsPerThread][V], y[kPixelsPerThread][V], noise[kPixelsPerThread],
        ddnoise[kPixelsPerThread], total[kPixelsPerThread];
    tile.read_nhwc(ddz_image, ddz);
    read_dy_and_y(tile, tiling, dy_image, y_image, dys, ys, dy, y);
    tile.read_map(p.noise, tile.sample * p.noise_stride, noise);
    tile.read_map(p.ddnoise, tile.sample * (p.h * p.w), ddnoise);
    // They are read for each tile, from a cache: if threads kept them, fewer blocks would have enough registers.
    float d[V], b[V], ratio[V], ddb[V];
    tile.read_vector(p.d, tile.sample * p.c, 1.0f, d);
    tile.read_vector(p.b, 0, 0.0f, b);
    tile.read_vector(p.ratio, tile.sample * p.c, 0.0f, ratio);
    tile.read_vector(p.ddb, 0, 0.0f, ddb);
#pragma unroll
    for (int i = 0; i < kPixelsPerThread; i++) {
      total[i] = 0;
#pragma unroll
      for (int j = 0; j < V; j++) {
        const Inverted<float> inverted = act.invert(y[i][j]);
        const float dpre = dy[i][j] * inverted.slope, zd = inverted.pre - (noise[i] + b[j]);
        const float gy = ratio[j] * dpre * inverted.inverse_slope, gy_slope = gy * inverted.slope;
        dot[j] += ddz[i][j] * dpre;
        dot_zd[j] += dpre * zd;
        sum[j] += gy_slope;
        total[i] -= gy_slope;
        dy[i][j] = inverted.slope * (ddz[i][j] * d[j] + ratio[j] * zd + (ddnoise[i] + ddb[j]));
        y[i][j] = gy;
      }
    }
    if (p.dnoise) tile.write_map(p.dnoise, p.n, total);
    if (tiling.nhwc) {
      tile.write_nhwc(gdy_image, dy);
      tile.write_nhwc(gy_image, y);
    } else {
      tile.write_memory(dys, dy);
      tile.write_memory(ys, y);
      sync();
      tile.flush(dys, gdy_image);
      tile.flush(ys, gy_image);
    }
  }
  const int64_t kind = p.n * tiling.parts * p.c;
  tile.write_sums(p.partial, dot, nullptr, sums);
  tile.write_sums(p.partial + kind, dot_zd, nullptr, sums);
  tile.write_sums(p.partial + 2 * kind, sum, nullptr, sums);
}

}  // namespace

template <class T>
void launch_modulated_conv2d_epilogue(const ModulatedConv2dEpilogueParams& p, const Stream& stream) {
  const auto tiling = tiling_of(p.n, p.c, p.h * p.w, kVector<T>, false, p.layout, {p.z, p.out}, {p.d, p.b});
  launch("modulated_conv2d_epilogue", modulated_conv2d_epilogue_kernel<T>, stream, blocks_of(p.n, tiling), kThreads, p,
         PiecewiseLinear<float>(p.act), tiling);
}

template <class T>
void launch_modulated_conv2d_epilogue_bwd(const ModulatedConv2dEpilogueParams& p, const Stream& stream) {
  const auto tiling = tiling_of(p.n, p.c, p.h * p.w, kSumChannels, true, p.layout, {p.dy, p.y, p.out}, {p.d, p.b});
  launch("modulated_conv2d_epilogue_bwd", modulated_conv2d_epilogue_bwd_kernel<T>, stream, blocks_of(p.n, tiling),
         kThreads, p, PiecewiseLinear<float>(p.act), tiling);
}

template <class T>
void launch_modulated_conv2d_epilogue_bwd_bwd(const ModulatedConv2dEpilogueParams& p, const Stream& stream) {
  const auto tiling = tiling_of(p.n, p.c, p.h * p.w, kSumChannels, true, p.layout, {p.z, p.dy, p.y, p.out, p.gy},
                                {p.d, p.b, p.ratio, p.ddb});
  launch("modulated_conv2d_epilogue_bwd_bwd", modulated_conv2d_epilogue_bwd_bwd_kernel<T>, stream,
         blocks_of(p.n, tiling), kThreads, p, PiecewiseLinear<float>(p.act), tiling);
}

HSR_INSTANTIATE(launch_modulated_conv2d_epilogue, ModulatedConv2dEpilogueParams);
HSR_INSTANTIATE(launch_modulated_conv2d_epilogue_bwd, ModulatedConv2dEpilogueParams);
HSR_INSTANTIATE(launch_modulated_conv2d_epilogue_bwd_bwd, ModulatedConv2dEpilogueParams);

}  // namespace cuda
}  // namespace hsr
