// SPDX-License-Identifier: Apache-2.0
// The epilogue after the convolution of a modulated layer, and its backwards. The convolution runs in nhwc, so these
// kernels also change the layout on the way.
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
modulated_conv2d_epilogue_kernel(ModulatedConv2dEpilogueParams p, PiecewiseLinear<float> act, Tiling by) {
  constexpr int V = kVector<T>;
  using View = Tile<T, V>;
  HSR_SHARED(T, View::kElements, memory);
  const View tile(by);
  float value[kHeld][V], d[V], b[V], noise[kHeld];
  tile.read_nhwc(tile.nhwc(p.z), value);
  tile.read_vector(p.d, tile.sample * p.c, 1.0f, d);
  tile.read_vector(p.b, 0, 0.0f, b);
  tile.read_map(p.noise, tile.sample * p.noise_stride, noise);
#pragma unroll
  for (int i = 0; i < kHeld; i++)
#pragma unroll
    for (int j = 0; j < V; j++) value[i][j] = act.value(value[i][j] * d[j] + (noise[i] + b[j]));
  T* y = tile.either(p.out);
  if (by.nhwc) {
    tile.write_nhwc(y, value);
  } else {
    tile.give(memory, value);
    sync();
    tile.flush(memory, y);
  }
}

// This thread's share of a tile of dy and y, which have one layout.
template <class View, class T, int V>
HSR_DEVICE void read_both(const View& tile, const Tiling& by, const T* dy_image, const T* y_image,
                          typename View::Memory& dys, typename View::Memory& ys, float (&dy)[kHeld][V],
                          float (&y)[kHeld][V]) {
  if (by.nhwc) {
    tile.read_nhwc(dy_image, dy);
    tile.read_nhwc(y_image, y);
  } else {
    tile.fetch(dy_image, dys);
    tile.fetch(y_image, ys);
    sync();
    tile.take(dys, dy);
    tile.take(ys, y);
  }
}

// dz = dpre * d with dpre = dy * dy/dpre; the sums are dd and db. z * d is told from the output, by inverting the
// activation; where it can't be (clamped, ReLU below 0) dpre is 0.
template <class T>
HSR_KERNEL(kThreads)
modulated_conv2d_epilogue_bwd_kernel(ModulatedConv2dEpilogueParams p, PiecewiseLinear<float> act, Tiling by) {
  constexpr int V = kFew;
  using View = Tile<T, V>;
  HSR_SHARED(T, View::kElements, dys);
  HSR_SHARED(T, View::kElements, ys);
  HSR_SHARED(float, View::kSums, sums);
  View tile(by);
  const T *dy_image = tile.either(p.dy), *y_image = tile.either(p.y);
  T* dz = tile.nhwc(p.out);
  float d[V], b[V], dd[V] = {}, db[V] = {};
  tile.read_vector(p.d, tile.sample * p.c, 1.0f, d);
  tile.read_vector(p.b, 0, 0.0f, b);
  for (; tile.there(); tile.advance()) {
    float dy[kHeld][V], y[kHeld][V], noise[kHeld], total[kHeld];
    read_both(tile, by, dy_image, y_image, dys, ys, dy, y);
    tile.read_map(p.noise, tile.sample * p.noise_stride, noise);
#pragma unroll
    for (int i = 0; i < kHeld; i++) {
      total[i] = 0;
#pragma unroll
      for (int j = 0; j < V; j++) {
        const Inverted<float> at = act.invert(y[i][j]);
        const float dpre = dy[i][j] * at.slope;
        dd[j] += dpre * (at.pre - (noise[i] + b[j]));
        db[j] += dpre;
        total[i] += dpre;
        dy[i][j] = dpre * d[j];
      }
    }
    if (p.dnoise) tile.write_map(p.dnoise, p.n, total);
    tile.write_nhwc(dz, dy);
    if (!by.nhwc) sync();  // before the next tile comes to shared memory
  }
  tile.write_sums(p.partial, dd, p.d, sums);
  tile.write_sums(p.partial + p.n * by.parts * p.c, db, nullptr, sums);
}

// With zd = z * d told from y, and nothing where the activation doesn't pass:
//   gdy = slope * (ddz * d + ratio * zd + ddnoise + ddb),  gy = ratio * dpre * dpre/dy,  gnoise = -sum of ratio * dpre;
// the sums are those of ddz * dpre, dpre * zd and dpre.
template <class T>
HSR_KERNEL(kThreads)
modulated_conv2d_epilogue_bwd_bwd_kernel(ModulatedConv2dEpilogueParams p, PiecewiseLinear<float> act, Tiling by) {
  constexpr int V = kFew;
  using View = Tile<T, V>;
  HSR_SHARED(T, View::kElements, dys);
  HSR_SHARED(T, View::kElements, ys);
  HSR_SHARED(float, View::kSums, sums);
  View tile(by);
  const T *ddz_image = tile.nhwc(p.z), *dy_image = tile.either(p.dy), *y_image = tile.either(p.y);
  T *gdy_image = tile.either(p.out), *gy_image = tile.either(p.gy);
  float dot[V] = {}, dot_zd[V] = {}, sum[V] = {};
  for (; tile.there(); tile.advance()) {
    float ddz[kHeld][V], dy[kHeld][V], y[kHeld][V], noise[kHeld], ddnoise[kHeld], total[kHeld];
    tile.read_nhwc(ddz_image, ddz);
    read_both(tile, by, dy_image, y_image, dys, ys, dy, y);
    tile.read_map(p.noise, tile.sample * p.noise_stride, noise);
    tile.read_map(p.ddnoise, tile.sample * (p.h * p.w), ddnoise);
    // Read again for each tile, from a cache: kept, they would take the registers of other blocks.
    float d[V], b[V], ratio[V], ddb[V];
    tile.read_vector(p.d, tile.sample * p.c, 1.0f, d);
    tile.read_vector(p.b, 0, 0.0f, b);
    tile.read_vector(p.ratio, tile.sample * p.c, 0.0f, ratio);
    tile.read_vector(p.ddb, 0, 0.0f, ddb);
#pragma unroll
    for (int i = 0; i < kHeld; i++) {
      total[i] = 0;
#pragma unroll
      for (int j = 0; j < V; j++) {
        const Inverted<float> at = act.invert(y[i][j]);
        const float dpre = dy[i][j] * at.slope, zd = at.pre - (noise[i] + b[j]), weighted = ratio[j] * dpre;
        dot[j] += ddz[i][j] * dpre;
        dot_zd[j] += dpre * zd;
        sum[j] += dpre;
        total[i] -= weighted;
        dy[i][j] = at.slope * (ddz[i][j] * d[j] + ratio[j] * zd + (ddnoise[i] + ddb[j]));
        y[i][j] = weighted * at.inverse_slope;
      }
    }
    if (p.dnoise) tile.write_map(p.dnoise, p.n, total);
    if (by.nhwc) {
      tile.write_nhwc(gdy_image, dy);
      tile.write_nhwc(gy_image, y);
    } else {
      tile.give(dys, dy);
      tile.give(ys, y);
      sync();
      tile.flush(dys, gdy_image);
      tile.flush(ys, gy_image);
    }
  }
  const int64_t kind = p.n * by.parts * p.c;
  tile.write_sums(p.partial, dot, nullptr, sums);
  tile.write_sums(p.partial + kind, dot_zd, nullptr, sums);
  tile.write_sums(p.partial + 2 * kind, sum, nullptr, sums);
}

}  // namespace

template <class T>
void launch_modulated_conv2d_epilogue(const ModulatedConv2dEpilogueParams& p, const Stream& stream) {
  const auto by = tiling_of(p.n, p.c, p.h * p.w, kVector<T>, false, p.layout, {p.z, p.out}, {p.d, p.b});
  launch("modulated_conv2d_epilogue", modulated_conv2d_epilogue_kernel<T>, stream, blocks_of(p.n, by), kThreads, p,
         PiecewiseLinear<float>(p.act), by);
}

template <class T>
void launch_modulated_conv2d_epilogue_bwd(const ModulatedConv2dEpilogueParams& p, const Stream& stream) {
  const auto by = tiling_of(p.n, p.c, p.h * p.w, kFew, true, p.layout, {p.dy, p.y, p.out}, {p.d, p.b});
  launch("modulated_conv2d_epilogue_bwd", modulated_conv2d_epilogue_bwd_kernel<T>, stream, blocks_of(p.n, by), kThreads,
         p, PiecewiseLinear<float>(p.act), by);
}

template <class T>
void launch_modulated_conv2d_epilogue_bwd_bwd(const ModulatedConv2dEpilogueParams& p, const Stream& stream) {
  const auto by =
      tiling_of(p.n, p.c, p.h * p.w, kFew, true, p.layout, {p.z, p.dy, p.y, p.out, p.gy}, {p.d, p.b, p.ratio, p.ddb});
  launch("modulated_conv2d_epilogue_bwd_bwd", modulated_conv2d_epilogue_bwd_bwd_kernel<T>, stream, blocks_of(p.n, by),
         kThreads, p, PiecewiseLinear<float>(p.act), by);
}

HSR_INSTANTIATE(launch_modulated_conv2d_epilogue, ModulatedConv2dEpilogueParams);
HSR_INSTANTIATE(launch_modulated_conv2d_epilogue_bwd, ModulatedConv2dEpilogueParams);
HSR_INSTANTIATE(launch_modulated_conv2d_epilogue_bwd_bwd, ModulatedConv2dEpilogueParams);

}  // namespace cuda
}  // namespace hsr
