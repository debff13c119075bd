// SPDX-License-Identifier: Apache-2.0
// The epilogue after the convolution of a modulated layer, alone or fused with a FIR, and its backwards. The
// convolution runs in nhwc, so these kernels also convert the layout.
#include "fir_row.h"
#include "hsr/epilogue.h"
#include "kernels.h"
#include "tiles.h"

namespace hsr {
namespace HSR_ISA {
namespace {

// The vectors [n, c] and [c]; absent ones are filled with values that change nothing.
template <class A>
struct Coefficients {
  A *d, *b;

  Coefficients(const ModulatedConv2dEpilogueParams& p) {
    d = static_cast<A*>(scratch(7, size_t((p.n + 1) * p.c + 1) * sizeof(A)));
    b = d + p.n * p.c;
    for (int64_t i = 0; i < p.n * p.c; i++) d[i] = p.d ? static_cast<const A*>(p.d)[i] : A(1);
    for (int64_t i = 0; i < p.c; i++) b[i] = p.b ? static_cast<const A*>(p.b)[i] : A(0);
  }
};

// out = clamp(act(z * d + noise + b) * gain); out may be z.
template <class A>
__attribute__((noinline)) void epilogue_tile(const A* z, A* out, int64_t pixels, int64_t c, const A* d, const A* b,
                                             const A* noise, const PiecewiseLinear<A>& activation) {
  // The compiler keeps a local copy in registers, as no store can change it.
  const PiecewiseLinear<A> act = activation;
  for (int64_t i = 0; i < pixels; i++) {
    const A offset = noise ? noise[i] : A(0);
    const A* zi = z + i * c;
    A* outi = out + i * c;
    for (int64_t j = 0; j < c; j++) outi[j] = act.value(zi[j] * d[j] + (offset + b[j]));
  }
}

template <class T>
void modulated_conv2d_epilogue_kernel(const ModulatedConv2dEpilogueParams& p, int threads) {
  using A = Accumulator<T>;
  const PiecewiseLinear<A> act(p.act);
  const Coefficients<A> coefficients(p);
  const Tiling tiling(p.c, p.h * p.w);
  const auto noise_of = [&](int64_t n, int64_t pixel) {
    return p.noise ? static_cast<const A*>(p.noise) + n * p.noise_stride + pixel : nullptr;
  };
  for_each_chunk(p.n * tiling.chunks, threads, [&](int64_t chunk) {
    const int64_t n = chunk / tiling.chunks, image = n * p.c * tiling.hw;
    const Buffers<T> buffers(2, tiling.pixels_per_tile * p.c);
    tiling.tiles(chunk % tiling.chunks, [&](int64_t first_pixel, int64_t pixels) {
      T* out = static_cast<T*>(p.out) + image;
      const A* z = load(static_cast<const T*>(p.z) + image + first_pixel * p.c, buffers.tiles[0], pixels * p.c);
      A* tile = tile_target(out, p.layout, p.c, first_pixel, buffers.tiles[1]);
      epilogue_tile(z, tile, pixels, p.c, coefficients.d + n * p.c, coefficients.b, noise_of(n, first_pixel), act);
      write_tile(tile, out, p.layout, p.c, tiling.hw, first_pixel, pixels, buffers.raw);
    });
  });
}

// The same after a FIR, whose output rows get the epilogue while they are in the cache.
template <class T>
void modulated_conv2d_fir_epilogue_kernel(const ModulatedConv2dEpilogueParams& p, int threads) {
  using A = Accumulator<T>;
  const PiecewiseLinear<A> act(p.act);
  const Coefficients<A> coefficients(p);
  const FirRow<T> fir(*p.fir, scratch(4, FirRow<T>::storage_bytes(*p.fir)));
  const int64_t rows_per_chunk = p.w * p.c >= kElementsPerChunk ? 1 : kElementsPerChunk / (p.w * p.c);
  const int64_t chunks = (p.h + rows_per_chunk - 1) / rows_per_chunk;
  for_each_chunk(p.n * chunks, threads, [&](int64_t chunk) {
    const int64_t n = chunk / chunks, first_row = chunk % chunks * rows_per_chunk;
    const int64_t end_row = first_row + rows_per_chunk < p.h ? first_row + rows_per_chunk : p.h;
    void* workspace = scratch(0, fir.working_bytes());
    A* row = static_cast<A*>(scratch(1, size_t(p.w * p.c) * sizeof(A)));
    T* raw = static_cast<T*>(scratch(2, size_t(p.w * p.c) * sizeof(T)));
    const T* source = static_cast<const T*>(p.fir->x) + n * p.fir->h * p.fir->w * p.c;
    T* out = static_cast<T*>(p.out) + n * p.c * p.h * p.w;
    for (int64_t y = first_row; y < end_row; y++) {
      const A* noise = p.noise ? static_cast<const A*>(p.noise) + n * p.noise_stride + y * p.w : nullptr;
      A* tile = tile_target(out, p.layout, p.c, y * p.w, row);
      fir.row(source, y, workspace, tile);
      epilogue_tile(tile, tile, p.w, p.c, coefficients.d + n * p.c, coefficients.b, noise, act);
      write_tile(tile, out, p.layout, p.c, p.h * p.w, y * p.w, p.w, raw);
    }
  });
}

// Returns the sum of c values, in an order that doesn't depend on the instruction set.
template <class A>
A sum_of(const A* values, int64_t c) {
  A lanes[16] = {};
  int64_t j = 0;
  for (; j + 16 <= c; j += 16)
    for (int64_t l = 0; l < 16; l++) lanes[l] += values[j + l];
  for (; j < c; j++) lanes[j % 16] += values[j];
  A total = 0;
  for (A lane : lanes) total += lane;
  return total;
}

// dz = dpre * d with dpre = dy * slope; adds dpre * (z * d) to dd and dpre to db, and writes the sum of dpre over
// channels to dnoise. z * d is recovered from y by inverting the activation; where that is impossible (clamped, or ReLU
// below 0) dpre is 0.
template <class A>
__attribute__((noinline)) void epilogue_bwd_tile(const A* __restrict dy, const A* __restrict y, A* __restrict dz,
                                                 int64_t pixels, int64_t c, const A* __restrict d,
                                                 const A* __restrict b, const A* noise,
                                                 const PiecewiseLinear<A>& activation, A* __restrict dd,
                                                 A* __restrict db, A* dnoise) {
  const PiecewiseLinear<A> act = activation;
  for (int64_t i = 0; i < pixels; i++) {
    const A offset = noise ? noise[i] : A(0);
    const A* __restrict dyi = dy + i * c, * __restrict yi = y + i * c;
    A* __restrict dzi = dz + i * c;
    for (int64_t j = 0; j < c; j++) {
      const Inverted<A> inverted = act.invert(yi[j]);
      const A dpre = dyi[j] * inverted.slope;
      dd[j] += dpre * (inverted.pre - (offset + b[j]));
      db[j] += dpre;
      dzi[j] = dpre;
    }
    if (dnoise) dnoise[i] = sum_of(dzi, c);
    for (int64_t j = 0; j < c; j++) dzi[j] *= d[j];
  }
}

template <class T>
void modulated_conv2d_epilogue_bwd_kernel(const ModulatedConv2dEpilogueParams& p, int threads) {
  using A = Accumulator<T>;
  const PiecewiseLinear<A> act(p.act);
  const Coefficients<A> coefficients(p);
  const Tiling tiling(p.c, p.h * p.w);
  const Partials partials(p.n, tiling.chunks, 2, p.c);
  for_each_chunk(p.n * tiling.chunks, threads, [&](int64_t chunk) {
    const int64_t n = chunk / tiling.chunks, part = chunk % tiling.chunks, image = n * p.c * tiling.hw;
    const Buffers<T> buffers(3, tiling.pixels_per_tile * p.c);
    tiling.tiles(part, [&](int64_t first_pixel, int64_t pixels) {
      const auto read = [&](const void* tensor, int i) {
        return read_tile(static_cast<const T*>(tensor) + image, p.layout, p.c, tiling.hw, first_pixel, pixels,
                         buffers.raw_for_tile(i), buffers.tiles[i]);
      };
      const A *dy = read(p.dy, 0), *y = read(p.y, 1);
      T* out = static_cast<T*>(p.out) + image;
      A* dz = tile_target(out, Layout::nhwc, p.c, first_pixel, buffers.tiles[2]);
      const A* noise = p.noise ? static_cast<const A*>(p.noise) + n * p.noise_stride + first_pixel : nullptr;
      A* dnoise = p.dnoise ? static_cast<A*>(p.dnoise) + n * tiling.hw + first_pixel : nullptr;
      sum_in_runs<A>(pixels, 2 * p.c, partials.sums(n, part, 0), [&](int64_t i, int64_t run, A* sums) {
        epilogue_bwd_tile(dy + i * p.c, y + i * p.c, dz + i * p.c, run, p.c, coefficients.d + n * p.c, coefficients.b,
                          noise ? noise + i : nullptr, act, sums, sums + p.c, dnoise ? dnoise + i : nullptr);
      });
      write_tile(dz, out, Layout::nhwc, p.c, tiling.hw, first_pixel, pixels, buffers.raw);
    });
  });
  if (p.dd) {
    partials.reduce(0, p.c, p.dd);
    for (int64_t i = 0; i < p.n * p.c; i++) p.dd[i] /= double(coefficients.d[i]);
  }
  if (p.db) partials.reduce(1, 0, p.db);
}

// The vectors [c] of a sample in the second order.
template <class A>
struct SecondOrderVectors {
  // `ratio` is the gradient of dd over d.
  const A *d, *b, *ratio, *ddb;
  // Added to: the sums of ddz * dpre, dpre * zd and gy * slope.
  A *dot, *dot_zd, *sum;
  // Working memory.
  A* line;
};

// Takes the gradients of epilogue_bwd_tile's results, (ddz, ratio, ddnoise, ddb), on to dy and y. With zd = z * d
// recovered from y, and 0 where the activation's slope is:
//   gdy = slope * (ddz * d + ratio * zd + ddnoise + ddb),  gy = ratio * dpre * dpre/dy,  gnoise = -sum of gy * slope.
// gy * slope is ratio * dpre as the layer's backward pass will round it, whose sums gnoise and that of the bias cancel.
// gdy may be dy, and gy may be y.
template <class A>
__attribute__((noinline)) void epilogue_bwd_bwd_tile(const A* ddz, const A* dy, const A* y, A* gdy, A* gy,
                                                     int64_t pixels, int64_t c, const SecondOrderVectors<A>& vectors,
                                                     const A* noise, const A* ddnoise, A* gnoise,
                                                     const PiecewiseLinear<A>& activation) {
  const PiecewiseLinear<A> act = activation;
  const A* __restrict d = vectors.d, * __restrict b = vectors.b;
  const A* __restrict ratio = vectors.ratio, * __restrict ddb = vectors.ddb;
  A* __restrict dot = vectors.dot, * __restrict dot_zd = vectors.dot_zd;
  A* __restrict sum = vectors.sum, * __restrict line = vectors.line;
  for (int64_t i = 0; i < pixels; i++) {
    const A offset = noise ? noise[i] : A(0), ddoffset = ddnoise ? ddnoise[i] : A(0);
    const A *ddzi = ddz + i * c, *dyi = dy + i * c, *yi = y + i * c;
    A *gdyi = gdy + i * c, *gyi = gy + i * c;
#pragma GCC ivdep
    for (int64_t j = 0; j < c; j++) {
      const Inverted<A> inverted = act.invert(yi[j]);
      const A dpre = dyi[j] * inverted.slope, zd = inverted.pre - (offset + b[j]), g = ddzi[j];
      const A gy_value = ratio[j] * dpre * inverted.inverse_slope, gy_slope = gy_value * inverted.slope;
      dot[j] += g * dpre;
      dot_zd[j] += dpre * zd;
      sum[j] += gy_slope;
      line[j] = gy_slope;
      gdyi[j] = inverted.slope * (g * d[j] + ratio[j] * zd + (ddoffset + ddb[j]));
      gyi[j] = gy_value;
    }
    if (gnoise) gnoise[i] = -sum_of(line, c);
  }
}

template <class T>
void modulated_conv2d_epilogue_bwd_bwd_kernel(const ModulatedConv2dEpilogueParams& p, int threads) {
  using A = Accumulator<T>;
  const PiecewiseLinear<A> act(p.act);
  const Coefficients<A> coefficients(p);
  const Tiling tiling(p.c, p.h * p.w);
  const Partials partials(p.n, tiling.chunks, 3, p.c);
  for_each_chunk(p.n * tiling.chunks, threads, [&](int64_t chunk) {
    const int64_t n = chunk / tiling.chunks, part = chunk % tiling.chunks, image = n * p.c * tiling.hw;
    const Buffers<T> buffers(3, tiling.pixels_per_tile * p.c);
    const auto map_pixels = [&](const void* map, int64_t stride, int64_t pixel) {
      return map ? static_cast<const A*>(map) + n * stride + pixel : nullptr;
    };
    A* line = static_cast<A*>(scratch(4, size_t(p.c) * sizeof(A)));
    tiling.tiles(part, [&](int64_t first_pixel, int64_t pixels) {
      const auto read = [&](const void* tensor, int i) {
        return read_tile(static_cast<const T*>(tensor) + image, p.layout, p.c, tiling.hw, first_pixel, pixels,
                         buffers.raw_for_tile(i), buffers.tiles[i]);
      };
      const A *dy = read(p.dy, 0), *y = read(p.y, 1);
      const A* ddz = load(static_cast<const T*>(p.z) + image + first_pixel * p.c, buffers.tiles[2], pixels * p.c);
      T *gdy_out = static_cast<T*>(p.out) + image, *gy_out = static_cast<T*>(p.gy) + image;
      A* gdy = tile_target(gdy_out, p.layout, p.c, first_pixel, buffers.tiles[0]);
      A* gy = tile_target(gy_out, p.layout, p.c, first_pixel, buffers.tiles[1]);
      const A *noise = map_pixels(p.noise, p.noise_stride, first_pixel),
              *ddnoise = map_pixels(p.ddnoise, tiling.hw, first_pixel);
      A* gnoise = p.dnoise ? static_cast<A*>(p.dnoise) + n * tiling.hw + first_pixel : nullptr;
      sum_in_runs<A>(pixels, 3 * p.c, partials.sums(n, part, 0), [&](int64_t i, int64_t run, A* sums) {
        const int64_t offset = i * p.c;
        epilogue_bwd_bwd_tile(
            ddz + offset, dy + offset, y + offset, gdy + offset, gy + offset, run, p.c,
            SecondOrderVectors<A>{coefficients.d + n * p.c, coefficients.b, static_cast<const A*>(p.ratio) + n * p.c,
                                  static_cast<const A*>(p.ddb), sums, sums + p.c, sums + 2 * p.c, line},
            noise ? noise + i : nullptr, ddnoise ? ddnoise + i : nullptr, gnoise ? gnoise + i : nullptr, act);
      });
      write_tile(gdy, gdy_out, p.layout, p.c, tiling.hw, first_pixel, pixels, buffers.raw);
      write_tile(gy, gy_out, p.layout, p.c, tiling.hw, first_pixel, pixels, buffers.raw);
    });
  });
  for (int64_t kind = 0; kind < 3; kind++) partials.reduce(kind, p.c, p.sums + kind * p.n * p.c);
}

}  // namespace

void launch_modulated_conv2d_epilogue(const ModulatedConv2dEpilogueParams& p, int threads) {
  with_dtype(p.dtype, [&](auto zero) { modulated_conv2d_epilogue_kernel<decltype(zero)>(p, threads); });
}
void launch_modulated_conv2d_fir_epilogue(const ModulatedConv2dEpilogueParams& p, int threads) {
  with_dtype(p.dtype, [&](auto zero) { modulated_conv2d_fir_epilogue_kernel<decltype(zero)>(p, threads); });
}
void launch_modulated_conv2d_epilogue_bwd(const ModulatedConv2dEpilogueParams& p, int threads) {
  with_dtype(p.dtype, [&](auto zero) { modulated_conv2d_epilogue_bwd_kernel<decltype(zero)>(p, threads); });
}
void launch_modulated_conv2d_epilogue_bwd_bwd(const ModulatedConv2dEpilogueParams& p, int threads) {
  with_dtype(p.dtype, [&](auto zero) { modulated_conv2d_epilogue_bwd_bwd_kernel<decltype(zero)>(p, threads); });
}

}  // namespace HSR_ISA
}  // namespace hsr
