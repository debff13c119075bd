// SPDX-License-Identifier: Apache-2.0
// What the kernels around the convolution of a modulated layer share: images of either layout cut into tiles [pixels,
// channels], a thread's memory for them, and sums over pixels. Included once per instruction set.
#pragma once

#include "parallel.h"
#include "storage.h"
#include "transpose.h"

namespace hsr {
namespace HSR_ISA {

// Several tiles of so many elements fit in the second-level cache.
constexpr int64_t kElementsPerTile = 1 << 15;
// A thread takes about so many elements at a time.
constexpr int64_t kElementsPerChunk = 1 << 16;
// Each chunk keeps partial sums.
constexpr int64_t kMaxChunksPerSample = 32;

// Returns pixels [first_pixel, first_pixel + pixels) of a sample as a tile [pixels, c]: in place if possible, otherwise
// transposed to `raw` and converted to `buffer`.
template <class T>
static const Accumulator<T>* read_tile(const T* sample, Layout layout, int64_t c, int64_t hw, int64_t first_pixel,
                                       int64_t pixels, T* raw, Accumulator<T>* buffer) {
  if (layout == Layout::nhwc) return load(sample + first_pixel * c, buffer, pixels * c);
  transpose(sample + first_pixel, hw, raw, c, c, pixels);
  return load(raw, buffer, pixels * c);
}

// Writes a tile [pixels, c] that was computed at `tile_target` to the pixels of a sample from `first_pixel` on.
template <class T>
static void write_tile(const Accumulator<T>* tile, T* sample, Layout layout, int64_t c, int64_t hw, int64_t first_pixel,
                       int64_t pixels, T* raw) {
  if (layout == Layout::nhwc) {
    T* target = sample + first_pixel * c;
    if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
      if (tile != target) std::memcpy(target, tile, size_t(pixels * c) * sizeof(T));
    } else {
      commit(tile, target, pixels * c);
    }
    return;
  }
  const T* source = raw;
  if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
    source = tile;
  } else {
    commit(tile, raw, pixels * c);
  }
  transpose(source, c, sample + first_pixel, hw, pixels, c);
}

// Returns where to compute a tile that write_tile will store: in place if possible.
template <class T>
static Accumulator<T>* tile_target(T* sample, Layout layout, int64_t c, int64_t first_pixel, Accumulator<T>* buffer) {
  return layout == Layout::nhwc ? stage(sample + first_pixel * c, buffer) : buffer;
}

// The pixels of a sample, cut into chunks of tiles.
struct Tiling {
  int64_t hw, pixels_per_tile, pixels_per_chunk, chunks;

  Tiling(int64_t c, int64_t pixels) : hw(pixels) {
    const int64_t width = c > 0 ? c : 1;
    pixels_per_tile = kElementsPerTile / width < 16 ? 16 : kElementsPerTile / width;
    pixels_per_chunk = kElementsPerChunk / width > pixels_per_tile ? kElementsPerChunk / width : pixels_per_tile;
    const int64_t min_pixels = (hw + kMaxChunksPerSample - 1) / kMaxChunksPerSample;
    if (pixels_per_chunk < min_pixels) pixels_per_chunk = min_pixels;
    pixels_per_chunk = (pixels_per_chunk + pixels_per_tile - 1) / pixels_per_tile * pixels_per_tile;
    chunks = (hw + pixels_per_chunk - 1) / pixels_per_chunk;
  }
  template <class F>
  void tiles(int64_t index, F&& f) const {
    const int64_t begin = index * pixels_per_chunk, end = begin + pixels_per_chunk < hw ? begin + pixels_per_chunk : hw;
    for (int64_t first_pixel = begin; first_pixel < end; first_pixel += pixels_per_tile)
      f(first_pixel, first_pixel + pixels_per_tile < end ? pixels_per_tile : end - first_pixel);
  }
};

// Partial sums [n, chunks of a sample, kinds, c], added up in order.
struct Partials {
  double* memory;
  int64_t n, chunks, kinds, c;

  Partials(int64_t samples, int64_t sample_chunks, int64_t sum_kinds, int64_t channels)
      : n(samples), chunks(sample_chunks), kinds(sum_kinds), c(channels) {
    const size_t bytes = size_t(n * chunks * kinds * c) * sizeof(double);
    memory = static_cast<double*>(scratch(6, bytes + 64));
    std::memset(static_cast<void*>(memory), 0, bytes);
  }
  double* sums(int64_t sample, int64_t chunk, int64_t kind) const {
    return memory + ((sample * chunks + chunk) * kinds + kind) * c;
  }
  // Sets out[sample * stride + channel] to the sums of one kind; stride 0 adds up all samples.
  void reduce(int64_t kind, int64_t stride, double* out) const {
    for (int64_t i = 0; i < (stride ? n : 1) * c; i++) out[i] = 0;
    for (int64_t sample = 0; sample < n; sample++)
      for (int64_t chunk = 0; chunk < chunks; chunk++)
        for (int64_t i = 0; i < c; i++) out[sample * stride + i] += sums(sample, chunk, kind)[i];
  }
};

// Sums over the pixels of a tile, in short runs, so that rounding errors don't grow with the image: f(first pixel,
// pixels, sums) adds a run to `sums`, which are then added to `totals` in float64.
template <class A, class F>
static void sum_in_runs(int64_t pixels, int64_t count, double* totals, F&& f) {
  constexpr int64_t run_pixels = 64;
  A* sums = static_cast<A*>(scratch(3, size_t(count) * sizeof(A)));
  for (int64_t first_pixel = 0; first_pixel < pixels; first_pixel += run_pixels) {
    for (int64_t i = 0; i < count; i++) sums[i] = A(0);
    f(first_pixel, first_pixel + run_pixels < pixels ? run_pixels : pixels - first_pixel, sums);
    for (int64_t i = 0; i < count; i++) totals[i] += double(sums[i]);
  }
}

// Working memory of a thread: `count` tiles of the accumulation type, and a raw one of the storage type.
template <class T>
struct Buffers {
  Accumulator<T>* tiles[3];
  T* raw;

  Buffers(int count, int64_t elements) {
    for (int i = 0; i < count; i++)
      tiles[i] = static_cast<Accumulator<T>*>(scratch(i, size_t(elements) * sizeof(Accumulator<T>)));
    raw = static_cast<T*>(scratch(5, size_t(elements) * sizeof(T)));
    if constexpr (sizeof(T) == sizeof(Accumulator<T>)) raw = nullptr;
  }
  // Returns where read_tile transposes to: the tile itself where no conversion follows.
  T* raw_for_tile(int i) const {
    if constexpr (sizeof(T) == sizeof(Accumulator<T>)) return tiles[i];
    return raw;
  }
};

}  // namespace HSR_ISA
}  // namespace hsr
