// SPDX-License-Identifier: Apache-2.0
// What kernels around the convolution of a modulated layer share: images cut into tiles [pixels, channels] of either
// layout, a thread's memory for them, and sums over pixels. Included once per instruction set.
#pragma once

#include "parallel.h"
#include "storage.h"
#include "transpose.h"

namespace hsr {
namespace HSR_ISA {

constexpr int64_t kTile = 1 << 15;        // elements of a tile: a few of them fit in the second-level cache
constexpr int64_t kChunk = 1 << 16;       // elements a thread takes at a time
constexpr int64_t kChunksPerSample = 32;  // upper limit: each chunk keeps partial sums

// Reads pixels [first, first + pixels) of a sample as a tile [pixels, c]; uses raw and buffer where it must.
template <class T>
static const Accumulator<T>* read_tile(const T* sample, Layout layout, int64_t c, int64_t hw, int64_t first,
                                       int64_t pixels, T* raw, Accumulator<T>* buffer) {
  if (layout == Layout::nhwc) return load(sample + first * c, buffer, pixels * c);
  transpose(sample + first, hw, raw, c, c, pixels);
  return load(raw, buffer, pixels * c);
}

// Writes a tile [pixels, c], computed at `tile`, to pixels [first, ...) of a sample.
template <class T>
static void write_tile(const Accumulator<T>* tile, T* sample, Layout layout, int64_t c, int64_t hw, int64_t first,
                       int64_t pixels, T* raw) {
  if (layout == Layout::nhwc) {
    T* to = sample + first * c;
    if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
      if (tile != to) std::memcpy(to, tile, size_t(pixels * c) * sizeof(T));
    } else {
      commit(tile, to, pixels * c);
    }
    return;
  }
  const T* from = raw;
  if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
    from = tile;
  } else {
    commit(tile, raw, pixels * c);
  }
  transpose(from, c, sample + first, hw, pixels, c);
}

// Where to compute a tile that write_tile will store: in place where that is possible.
template <class T>
static Accumulator<T>* tile_target(T* sample, Layout layout, int64_t c, int64_t first, Accumulator<T>* buffer) {
  return layout == Layout::nhwc ? stage(sample + first * c, buffer) : buffer;
}

// A sample's pixels, cut into chunks and those into tiles.
struct Tiling {
  int64_t hw, tile, chunk, chunks;

  Tiling(int64_t c, int64_t pixels) : hw(pixels) {
    const int64_t width = c > 0 ? c : 1;
    tile = kTile / width < 16 ? 16 : kTile / width;
    chunk = kChunk / width > tile ? kChunk / width : tile;
    const int64_t least = (hw + kChunksPerSample - 1) / kChunksPerSample;
    if (chunk < least) chunk = least;
    chunk = (chunk + tile - 1) / tile * tile;
    chunks = (hw + chunk - 1) / chunk;
  }
  template <class F>
  void tiles(int64_t index, F&& f) const {
    const int64_t begin = index * chunk, end = begin + chunk < hw ? begin + chunk : hw;
    for (int64_t first = begin; first < end; first += tile) f(first, first + tile < end ? tile : end - first);
  }
};

// Partial sums [n, chunks of a sample, kinds, c], added up in order.
struct Partials {
  double* memory;
  int64_t n, chunks, kinds, c;

  Partials(int64_t samples, int64_t chunks_, int64_t kinds_, int64_t channels)
      : n(samples), chunks(chunks_), kinds(kinds_), c(channels) {
    const size_t bytes = size_t(n * chunks * kinds * c) * sizeof(double);
    memory = static_cast<double*>(scratch(6, bytes + 64));
    std::memset(static_cast<void*>(memory), 0, bytes);
  }
  double* at(int64_t sample, int64_t chunk, int64_t kind) const {
    return memory + ((sample * chunks + chunk) * kinds + kind) * c;
  }
  // out[sample * stride + channel] += sums of one kind; stride 0 adds all samples.
  void reduce(int64_t kind, int64_t stride, double* out) const {
    for (int64_t i = 0; i < (stride ? n : 1) * c; i++) out[i] = 0;
    for (int64_t sample = 0; sample < n; sample++)
      for (int64_t chunk = 0; chunk < chunks; chunk++)
        for (int64_t i = 0; i < c; i++) out[sample * stride + i] += at(sample, chunk, kind)[i];
  }
};

// Sums over a tile's pixels, in short runs: f adds those of [first, first + n) to `sums`, which then go to `totals`, so
// that rounding doesn't grow with the image.
template <class A, class F>
static void sum_in_runs(int64_t pixels, int64_t count, double* totals, F&& f) {
  constexpr int64_t run = 64;
  A* sums = static_cast<A*>(scratch(3, size_t(count) * sizeof(A)));
  for (int64_t first = 0; first < pixels; first += run) {
    for (int64_t i = 0; i < count; i++) sums[i] = A(0);
    f(first, first + run < pixels ? run : pixels - first, sums);
    for (int64_t i = 0; i < count; i++) totals[i] += double(sums[i]);
  }
}

// Working memory of a thread: `count` tiles of the type computed in, and a raw one of the storage type.
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
  // Where read_tile transposes to: the tile itself where no conversion follows.
  T* raw_for(int i) const {
    if constexpr (sizeof(T) == sizeof(Accumulator<T>)) return tiles[i];
    return raw;
  }
};

}  // namespace HSR_ISA
}  // namespace hsr
