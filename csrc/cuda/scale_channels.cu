// SPDX-License-Identifier: Apache-2.0
// The style scale before the convolution of a modulated layer, and its backward. The convolution runs in nhwc, so these
// kernels also change the layout on the way.
#include "launch.h"
#include "launchers.h"
#include "tile.h"

namespace hsr {
namespace cuda {
namespace {

using namespace tiles;

template <class T>
HSR_KERNEL(kThreads)
scale_channels_kernel(ScaleChannelsParams p, Tiling by) {
  constexpr int V = kVector<T>;
  using View = Tile<T, V>;
  HSR_SHARED(T, View::kElements, memory);
  const View tile(by);
  const T* x = tile.either(p.x);
  if (!by.nhwc) tile.fetch(x, memory);
  float s[V], value[kHeld][V];
  tile.read_vector(p.s, tile.sample * p.c, 0.0f, s);
  if (by.nhwc) {
    tile.read_nhwc(x, value);
  } else {
    sync();
    tile.take(memory, value);
  }
#pragma unroll
  for (int i = 0; i < kHeld; i++)
#pragma unroll
    for (int j = 0; j < V; j++) value[i][j] *= s[j];
  tile.write_nhwc(tile.nhwc(p.out), value);
}

// dx = du * s; the sums are those of du * x.
template <class T>
HSR_KERNEL(kThreads)
scale_channels_bwd_kernel(ScaleChannelsParams p, Tiling by) {
  constexpr int V = kFew;
  using View = Tile<T, V>;
  HSR_SHARED(T, View::kElements, memory);
  HSR_SHARED(float, View::kSums, sums);
  View tile(by);
  const T *x = tile.either(p.x), *du = tile.nhwc(p.du);
  T* dx = tile.either(p.out);
  float s[V], dot[V] = {};
  tile.read_vector(p.s, tile.sample * p.c, 0.0f, s);
  for (; tile.there(); tile.advance()) {
    float g[kHeld][V], value[kHeld][V];
    tile.read_nhwc(du, g);
    if (by.nhwc) {
      tile.read_nhwc(x, value);
    } else {
      tile.fetch(x, memory);
      sync();
      tile.take(memory, value);
    }
#pragma unroll
    for (int i = 0; i < kHeld; i++)
#pragma unroll
      for (int j = 0; j < V; j++) {
        dot[j] += g[i][j] * value[i][j];
        g[i][j] *= s[j];
      }
    if (by.nhwc) {
      tile.write_nhwc(dx, g);
    } else {
      tile.give(memory, g);
      sync();
      tile.flush(memory, dx);
    }
  }
  tile.write_sums(p.partial, dot, nullptr, sums);
}

}  // namespace

template <class T>
void launch_scale_channels(const ScaleChannelsParams& p, const Stream& stream) {
  const auto by = tiling_of(p.n, p.c, p.hw, kVector<T>, false, p.layout, {p.x, p.out}, {p.s});
  launch("scale_channels", scale_channels_kernel<T>, stream, blocks_of(p.n, by), kThreads, p, by);
}

template <class T>
void launch_scale_channels_bwd(const ScaleChannelsParams& p, const Stream& stream) {
  const auto by = tiling_of(p.n, p.c, p.hw, kFew, true, p.layout, {p.x, p.du, p.out}, {p.s});
  launch("scale_channels_bwd", scale_channels_bwd_kernel<T>, stream, blocks_of(p.n, by), kThreads, p, by);
}

TileSums tile_sums(int64_t n, int64_t c, int64_t hw) {
  const auto by = tiling_of(n, c, hw, kFew, true);
  return {by.parts, by.channel_blocks};
}

HSR_INSTANTIATE(launch_scale_channels, ScaleChannelsParams);
HSR_INSTANTIATE(launch_scale_channels_bwd, ScaleChannelsParams);

}  // namespace cuda
}  // namespace hsr
