// SPDX-License-Identifier: Apache-2.0
// The scaling by styles before the convolution of a modulated layer, and its backward. The convolution runs in nhwc, so
// these kernels also convert the layout.
#include "launch.h"
#include "launchers.h"
#include "tile.h"

namespace hsr {
namespace cuda {
namespace {

using namespace tiles;

template <class T>
HSR_KERNEL(kThreads)
scale_channels_kernel(ScaleChannelsParams p, Tiling tiling) {
  constexpr int V = kVector<T>;
  using View = Tile<T, V>;
  HSR_SHARED(T, View::kElements, memory);
  const View tile(tiling);
  const T* x = tile.image_start(p.x);
  if (!tiling.nhwc) tile.fetch(x, memory);
  float s[V], value[kPixelsPerThread][V];
  tile.read_vector(p.s, tile.sample * p.c, 0.0f, s);
  if (tiling.nhwc) {
    tile.read_nhwc(x, value);
  } else {
    sync();
    tile.read_memory(memory, value);
  }
#pragma unroll
  for (int i = 0; i < kPixelsPerThread; i++)
#pragma unroll
    for (int j = 0; j < V; j++) value[i][j] *= s[j];
  tile.write_nhwc(tile.nhwc_start(p.out), value);
}

// dx = du * s; sums du * x.
template <class T>
HSR_KERNEL(kThreads)
scale_channels_bwd_kernel(ScaleChannelsParams p, Tiling tiling) {
  constexpr int V = kSumChannels;
  using View = Tile<T, V>;
  HSR_SHARED(T, View::kElements, memory);
  HSR_SHARED(float, View::kSums, sums);
  View tile(tiling);
  const T *x = tile.image_start(p.x), *du = tile.nhwc_start(p.du);
  T* dx = tile.image_start(p.out);
  float s[V], dot[V] = {};
  tile.read_vector(p.s, tile.sample * p.c, 0.0f, s);
  for (; tile.has_pixels(); tile.advance()) {
    float g[kPixelsPerThread][V], value[kPixelsPerThread][V];
    tile.read_nhwc(du, g);
    if (tiling.nhwc) {
      tile.read_nhwc(x, value);
    } else {
      tile.fetch(x, memory);
      sync();
      tile.read_memory(memory, value);
    }
#pragma unroll
    for (int i = 0; i < kPixelsPerThread; i++)
#pragma unroll
      for (int j = 0; j < V; j++) {
        dot[j] += g[i][j] * value[i][j];
        g[i][j] *= s[j];
      }
    if (tiling.nhwc) {
      tile.write_nhwc(dx, g);
    } else {
      tile.write_memory(memory, g);
      sync();
      tile.flush(memory, dx);
    }
  }
  tile.write_sums(p.partial, dot, nullptr, sums);
}

}  // namespace

template <class T>
void launch_scale_channels(const ScaleChannelsParams& p, const Stream& stream) {
  const auto tiling = tiling_of(p.n, p.c, p.hw, kVector<T>, false, p.layout, {p.x, p.out}, {p.s});
  launch("scale_channels", scale_channels_kernel<T>, stream, blocks_of(p.n, tiling), kThreads, p, tiling);
}

template <class T>
void launch_scale_channels_bwd(const ScaleChannelsParams& p, const Stream& stream) {
  const auto tiling = tiling_of(p.n, p.c, p.hw, kSumChannels, true, p.layout, {p.x, p.du, p.out}, {p.s});
  launch("scale_channels_bwd", scale_channels_bwd_kernel<T>, stream, blocks_of(p.n, tiling), kThreads, p, tiling);
}

TileSums tile_sums(int64_t n, int64_t c, int64_t hw) {
  const auto tiling = tiling_of(n, c, hw, kSumChannels, true);
  return {tiling.parts, tiling.channel_blocks};
}

HSR_INSTANTIATE(launch_scale_channels, ScaleChannelsParams);
HSR_INSTANTIATE(launch_scale_channels_bwd, ScaleChannelsParams);

}  // namespace cuda
}  // namespace hsr
