// SPDX-License-Identifier: Apache-2.0
// The scaling by styles before the convolution of a modulated layer, and its backward. The convolution runs in nhwc, so
// these kernels also convert the layout.
#include "kernels.h"
#include "tiles.h"

namespace hsr {
namespace HSR_ISA {
namespace {

template <class A>
__attribute__((noinline)) void scale_tile(const A* __restrict x, const A* __restrict s, A* __restrict u, int64_t pixels,
                                          int64_t c) {
  for (int64_t i = 0; i < pixels; i++)
    for (int64_t j = 0; j < c; j++) u[i * c + j] = x[i * c + j] * s[j];
}

template <class A>
__attribute__((noinline)) void scale_bwd_tile(const A* __restrict du, const A* __restrict x, const A* __restrict s,
                                              A* __restrict dx, A* __restrict ds, int64_t pixels, int64_t c) {
  for (int64_t i = 0; i < pixels; i++)
    for (int64_t j = 0; j < c; j++) {
      const A g = du[i * c + j];
      ds[j] += g * x[i * c + j];
      dx[i * c + j] = g * s[j];
    }
}

template <class T>
void scale_channels_kernel(const ScaleChannelsParams& p, int threads) {
  using A = Accumulator<T>;
  const Tiling tiling(p.c, p.hw);
  for_each_chunk(p.n * tiling.chunks, threads, [&](int64_t chunk) {
    const int64_t n = chunk / tiling.chunks, image = n * p.c * p.hw;
    const A* s = static_cast<const A*>(p.s) + n * p.c;
    const Buffers<T> buffers(2, tiling.pixels_per_tile * p.c);
    tiling.tiles(chunk % tiling.chunks, [&](int64_t first_pixel, int64_t pixels) {
      const A* x = read_tile(static_cast<const T*>(p.x) + image, p.layout, p.c, p.hw, first_pixel, pixels,
                             buffers.raw_for_tile(0), buffers.tiles[0]);
      T* out = static_cast<T*>(p.out) + image;
      A* u = tile_target(out, Layout::nhwc, p.c, first_pixel, buffers.tiles[1]);
      scale_tile(x, s, u, pixels, p.c);
      write_tile(u, out, Layout::nhwc, p.c, p.hw, first_pixel, pixels, buffers.raw);
    });
  });
}

template <class T>
void scale_channels_bwd_kernel(const ScaleChannelsParams& p, int threads) {
  using A = Accumulator<T>;
  const Tiling tiling(p.c, p.hw);
  const Partials partials(p.n, tiling.chunks, 1, p.c);
  for_each_chunk(p.n * tiling.chunks, threads, [&](int64_t chunk) {
    const int64_t n = chunk / tiling.chunks, part = chunk % tiling.chunks, image = n * p.c * p.hw;
    const A* s = static_cast<const A*>(p.s) + n * p.c;
    const Buffers<T> buffers(3, tiling.pixels_per_tile * p.c);
    tiling.tiles(part, [&](int64_t first_pixel, int64_t pixels) {
      const A* x = read_tile(static_cast<const T*>(p.x) + image, p.layout, p.c, p.hw, first_pixel, pixels,
                             buffers.raw_for_tile(0), buffers.tiles[0]);
      const A* du = load(static_cast<const T*>(p.du) + image + first_pixel * p.c, buffers.tiles[1], pixels * p.c);
      T* out = static_cast<T*>(p.out) + image;
      A* dx = tile_target(out, p.layout, p.c, first_pixel, buffers.tiles[2]);
      sum_in_runs<A>(pixels, p.c, partials.sums(n, part, 0), [&](int64_t i, int64_t run, A* sums) {
        scale_bwd_tile(du + i * p.c, x + i * p.c, s, dx + i * p.c, sums, run, p.c);
      });
      write_tile(dx, out, p.layout, p.c, p.hw, first_pixel, pixels, buffers.raw);
    });
  });
  if (p.ds) partials.reduce(0, p.c, p.ds);
}

}  // namespace

void launch_scale_channels(const ScaleChannelsParams& p, int threads) {
  with_dtype(p.dtype, [&](auto zero) { scale_channels_kernel<decltype(zero)>(p, threads); });
}
void launch_scale_channels_bwd(const ScaleChannelsParams& p, int threads) {
  with_dtype(p.dtype, [&](auto zero) { scale_channels_bwd_kernel<decltype(zero)>(p, threads); });
}

}  // namespace HSR_ISA
}  // namespace hsr
