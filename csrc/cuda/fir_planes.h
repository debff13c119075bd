// SPDX-License-Identifier: Apache-2.0
// FIR of a few taps over tiles of contiguous images, as fir_tile.h for channels_last images. A block takes a tile of
// one plane, or several small planes.
#pragma once

#include "fir_tile.h"

namespace hsr {
namespace cuda {

// Either 16-bit type. Pixels are floats in shared memory, so that one kernel serves both.
struct Bits16 {
  uint16_t bits;
};

template <int V>
HSR_DEVICE void widen_all(const Pack<float, V>& pack, bool, float (&out)[V]) {
#pragma unroll
  for (int v = 0; v < V; v++) out[v] = pack.v[v];
}
template <int V>
HSR_DEVICE void widen_all(const Pack<Bits16, V>& pack, bool is_half, float (&out)[V]) {
  if (is_half) {
#pragma unroll
    for (int v = 0; v < V; v++) out[v] = widen(half{pack.v[v].bits});
  } else {
#pragma unroll
    for (int v = 0; v < V; v++) out[v] = widen(bfloat16{pack.v[v].bits});
  }
}

template <int V>
HSR_DEVICE void narrow_all(const float (&in)[V], bool, Pack<float, V>& pack) {
#pragma unroll
  for (int v = 0; v < V; v++) pack.v[v] = in[v];
}
template <int V>
HSR_DEVICE void narrow_all(const float (&in)[V], bool is_half, Pack<Bits16, V>& pack) {
  if (is_half) {
#pragma unroll
    for (int v = 0; v < V; v++) pack.v[v] = {narrow(in[v], half{}).bits};
  } else {
#pragma unroll
    for (int v = 0; v < V; v++) pack.v[v] = {narrow(in[v], bfloat16{}).bits};
  }
}

// The rows of a thread's outputs, and the binary logarithms of the largest tile's threads along x and y. Several blocks
// fit on a multiprocessor.
struct TileSize {
  int below, log_x, log_y;
};
HSR_HD constexpr TileSize largest_tile(int down, bool separable, int vector) {
  if (down == 2) return separable ? TileSize{1, 3, 4} : TileSize{8 / vector, 4, 3};
  return TileSize{4, 4, 3};
}

// How contiguous images are cut into tiles. A thread has V outputs side by side. Adjacent threads begin to read `step`
// pixels apart, and one word after each `step` pixels stays free, so that the threads use different banks. Outer
// products of many taps filter the rows first, then the columns.
template <int V, class F>
struct PlaneShape {
  static constexpr int vector = V;
  static constexpr bool separable = F::taps > 4;
  static constexpr TileSize tile = largest_tile(F::down, separable, V);
  static constexpr int below = tile.below, log_x = tile.log_x, threads = 1 << (tile.log_x + tile.log_y);
  static constexpr int width = V << log_x, height = below << tile.log_y;
  static constexpr int step = V * F::down / F::up;
  // The rows of pixels between threads below each other.
  static constexpr int row_step = below * F::down / F::up;

  // Returns the word of a staged row that holds a pixel.
  HSR_HD static constexpr int word(int column) { return column + int(unsigned(column) / step); }
  // Fewer words than this may be added to a row.
  static constexpr int max_padding = 16;
  // The words of pixels, or of outputs where they are rearranged before they are stored.
  static constexpr int staged =
      maximum(F::pixels(height) * (word(F::pixels(width)) + max_padding), (V + 1) * width * height / V);
  // The outputs of the filter along rows.
  static constexpr int row_outputs = separable ? F::pixels(height) * width : 4;
};

// The same as values for the host.
struct PlaneCut {
  int vector, below, log_x, threads, step, row_step, max_padding, staged, row_outputs, up, down, taps;

  template <class S, class F>
  static PlaneCut make() {
    return {S::vector,      S::below,  S::log_x,
            S::threads,     S::step,   S::row_step,
            S::max_padding, S::staged, S::separable ? S::row_outputs : 0,
            F::up,          F::down,   F::taps};
  }
  int columns(int log_x) const { return group_pixels(vector << log_x, taps, up, down); }
  int rows(int log_y) const { return group_pixels(below << log_y, taps, up, down); }
  bool fits(int planes, int log_x, int log_y, int pitch) const {
    const int lines = planes * rows(log_y);
    return lines * pitch <= staged && (row_outputs == 0 || lines * (vector << log_x) <= row_outputs);
  }
};

// The tiles of contiguous images: of one plane, or of several small ones. The threads of a block are planes_per_block x
// 2^log_y x 2^log_x.
struct PlaneTiles {
  FirImage image;
  int planes, planes_per_block;
  int log_x, log_y, threads;
  // The staged pixels of a plane; a row begins `pitch` words after the one before.
  int rows, columns, pitch;
  // The pixels between a multiple of 16 bytes and the first pixel of the tile.
  int alignment_pixels;
  // Whether rows are read and written in vectors.
  bool vector_reads, vector_writes;
  DType dtype;
  // The reads of a row, of vectors or pixels, and the rows of a plane.
  Divisor read_divisor, row_divisor;
  Divisor tiles_x, tiles_y;
  int64_t blocks;

  PlaneTiles(const Upfirdn2dParams& p, const PlaneCut& cut)
      : image(p), planes(int(p.n * p.c)), planes_per_block(1), log_x(0), log_y(0), dtype(p.dtype) {
    const int width = image.ow + image.margin_x, height = image.oh + image.margin_y;
    while (log_x < cut.log_x && cut.vector << log_x < width) log_x++;
    columns = cut.columns(log_x), pitch = columns + (columns - 1) / cut.step;
    while (cut.below << log_y < height && 2 << (log_x + log_y) <= cut.threads && cut.fits(1, log_x, log_y + 1, pitch))
      log_y++;
    const int max_planes = cut.threads >> (log_x + log_y);
    while (planes_per_block < max_planes && planes_per_block < planes &&
           cut.fits(planes_per_block + 1, log_x, log_y, pitch))
      planes_per_block++;
    rows = cut.rows(log_y), threads = planes_per_block << (log_x + log_y);
    // Threads below each other should use other banks than those beside them.
    for (int padding = 0; padding < cut.max_padding && cut.fits(planes_per_block, log_x, log_y, pitch + padding);
         padding++) {
      if (cut.row_step * (pitch + padding) % (2 << log_x) != 1 << log_x) continue;
      pitch += padding;
      break;
    }
    tiles_x = Divisor(ceil_div(width, cut.vector << log_x)), tiles_y = Divisor(ceil_div(height, cut.below << log_y));
    blocks = int64_t(tiles_x.divisor) * tiles_y.divisor * ceil_div(planes, planes_per_block);
    vector_writes = image.ow % cut.vector == 0 && aligned(p.y) && image.margin_x == 0;
    // Reads have 16 bytes. Several tiles begin multiples of that apart.
    const int pixels_per_read = dtype == DType::float32 ? 4 : 8;
    vector_reads = image.w % pixels_per_read == 0 && aligned(p.x);
    const int pixel = int(tap_range_in<int>(-image.margin_x, cut.up, cut.down, image.pad_x).pixel);
    alignment_pixels = vector_reads ? (pixel % pixels_per_read + pixels_per_read) % pixels_per_read : 0;
    read_divisor = Divisor(vector_reads ? ceil_div(alignment_pixels + columns, pixels_per_read) : columns),
    row_divisor = Divisor(rows);
  }

  // Whether offsets fit 32 bits, and the blocks a grid.
  bool fits_int32() const {
    return int64_t(image.h + 1024) * (image.w + 1024) < kMaxInt32Elements &&
           int64_t(image.oh) * image.ow < kMaxInt32Elements && blocks <= kMaxBlocks;
  }
};

// The place of a thread.
template <class S>
struct PlanePlace {
  // Of the thread in its block.
  int x, y, plane;
  // The first plane of the block.
  int first_plane;
  // The first output of the tile, which may lie before the image.
  int column, row;

  HSR_DEVICE explicit PlanePlace(const PlaneTiles& t) {
    const int thread = thread_index();
    x = thread & ((1 << t.log_x) - 1), y = (thread >> t.log_x) & ((1 << t.log_y) - 1);
    plane = thread >> (t.log_x + t.log_y);
    int block = int(block_index());
    column = t.tiles_x.divide(block) * (S::vector << t.log_x) - t.image.margin_x;
    row = t.tiles_y.divide(block) * (S::below << t.log_y) - t.image.margin_y;
    first_plane = block * t.planes_per_block;
  }
};

// Stages the pixels of a tile as floats: [planes_per_block, rows, pitch].
template <class S, class F, class T, int N>
HSR_DEVICE void stage_planes(const T* x, const PlaneTiles& t, const PlanePlace<S>& place, Shared<float, N>& tile) {
  constexpr int V = kVector<T>;
  const FirImage& image = t.image;
  const int first_column = first_pixel<F>(place.column, image.pad_x) - t.alignment_pixels;
  const int first_row = first_pixel<F>(place.row, image.pad_y);
  const int total = t.planes_per_block * t.rows * t.read_divisor.divisor, size = image.h * image.w;
  const T* origin = x + int64_t(place.first_plane) * size;
  // Returns the address of the first pixel of a read. Outside the image it is that of any pixel, which is read in vain:
  // without a branch, several loads can be in flight.
  const auto source = [&](int item, int width, int& line, int& column, bool& inside) -> const T* {
    line = item;
    column = t.read_divisor.divide(line) * width;
    int plane = line;
    const int row = t.row_divisor.divide(plane) + first_row, image_column = column + first_column;
    inside = item < total && place.first_plane + plane < t.planes && unsigned(row) < unsigned(image.h) &&
             unsigned(image_column) < unsigned(image.w);
    column = item < total ? column - t.alignment_pixels : t.columns;
    return inside ? origin + (int64_t(plane) * size + (row * image.w + image_column)) : x;
  };
  const auto put = [&](int line, int column, float value) {
    if (unsigned(column) < unsigned(t.columns)) tile[line * t.pitch + S::word(column)] = value;
  };
  int item = thread_index(), line[kLoadsInFlight], column[kLoadsInFlight];
  bool inside[kLoadsInFlight];
#pragma unroll 1
  for (; t.vector_reads && item < total; item += kLoadsInFlight * t.threads) {
    Pack<T, V> packs[kLoadsInFlight];
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; i++)
      packs[i] =
          load(reinterpret_cast<const Pack<T, V>*>(source(item + i * t.threads, V, line[i], column[i], inside[i])));
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; i++) {
      float pixels[V];
      widen_all(packs[i], t.dtype == DType::float16, pixels);
#pragma unroll
      for (int v = 0; v < V; v++) put(line[i], column[i] + v, inside[i] ? pixels[v] : 0.0f);
    }
  }
#pragma unroll 1
  for (; item < total; item += kLoadsInFlight * t.threads) {
    Pack<T, 1> packs[kLoadsInFlight];
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; i++)
      packs[i].v[0] = load(source(item + i * t.threads, 1, line[i], column[i], inside[i]));
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; i++) {
      float pixel[1];
      widen_all(packs[i], t.dtype == DType::float16, pixel);
      put(line[i], column[i], inside[i] ? pixel[0] : 0.0f);
    }
  }
}

// Writes the outputs of a tile. If rows can't be written in vectors, the outputs are rearranged in `memory` first, a
// shared array whose contents aren't needed any more once all threads have arrived here.
template <class S, class T, int N>
HSR_DEVICE void write_planes(T* y, const PlaneTiles& t, const PlanePlace<S>& place, Shared<float, N>& memory,
                             const float (&sums)[S::below][S::vector]) {
  constexpr int V = S::vector, R = S::below;
  const FirImage& image = t.image;
  T* origin = y + int64_t(place.first_plane) * (image.oh * image.ow);
  if (t.vector_writes) {
    const int column = place.column + place.x * V, row = place.row + place.y * R;
    T* target = origin + (int64_t(place.plane) * (image.oh * image.ow) + (row * image.ow + column));
#pragma unroll
    for (int r = 0; r < R; r++) {
      Pack<T, V> pack;
      narrow_all(sums[r], t.dtype == DType::float16, pack);
      if (place.first_plane + place.plane < t.planes && row + r >= 0 && row + r < image.oh && column < image.ow)
        store(reinterpret_cast<Pack<T, V>*>(target + r * image.ow), pack);
    }
    return;
  }
  sync();
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int v = 0; v < V; v++) memory[(r * t.threads + int(thread_index())) * (V + 1) + v] = sums[r][v];
  sync();
  const int total = t.threads * R * V, log_v = V == 8 ? 3 : 2;
#pragma unroll 1
  for (int item = thread_index(); item < total; item += t.threads) {
    const int x = item & ((V << t.log_x) - 1);
    int rest = item >> (log_v + t.log_x);
    const int r = rest % R, thread_row = rest / R;
    const int row = place.row + (thread_row & ((1 << t.log_y) - 1)) * R + r, plane = thread_row >> t.log_y;
    const int column = place.column + x, thread = (thread_row << t.log_x) + (x >> log_v);
    if (place.first_plane + plane >= t.planes || unsigned(row) >= unsigned(image.oh) ||
        unsigned(column) >= unsigned(image.ow))
      continue;
    Pack<T, 1> pack;
    const float value[1] = {memory[(r * t.threads + thread) * (V + 1) + (x & (V - 1))]};
    narrow_all(value, t.dtype == DType::float16, pack);
    store(origin + (int64_t(plane) * (image.oh * image.ow) + (row * image.ow + column)), pack.v[0]);
  }
}

// Adds a row of pixels, weighted with the taps from `first_tap` on, to V adjacent outputs.
template <class F, int V, int P, int M>
HSR_DEVICE void filter_row(const float (&pixels)[P], const float (&taps)[M], int first_tap, float (&sums)[V]) {
#pragma unroll
  for (int v = 0; v < V; v++)
#pragma unroll
    for (int d = 0; d < window_pixels(F::taps, F::up); d++)
      if (window_has_tap(d, v % F::up, F::up, F::taps))
        sums[v] += pixels[v / F::up * F::down + d] * taps[first_tap + window_tap(d, v % F::up, F::up)];
}

}  // namespace cuda
}  // namespace hsr
