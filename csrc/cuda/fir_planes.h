// SPDX-License-Identifier: Apache-2.0
// FIR of a few taps over tiles of contiguous images: what fir_tile.h is to channels_last ones. A block takes a tile of
// one plane, or several small planes.
#pragma once

#include "fir_tile.h"

namespace hsr {
namespace cuda {

// Both 16-bit types: pixels are floats in shared memory, so that one kernel does for either.
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

// Rows of a thread's outputs, and the threads of the largest tile along x and y: as much as leaves room for several
// blocks.
struct Extent {
  int below, log_x, log_y;
};
HSR_HD constexpr Extent largest_tile(int down, bool separable, int vector) {
  if (down == 2) return separable ? Extent{1, 3, 4} : Extent{8 / vector, 4, 3};
  return Extent{4, 4, 3};
}

// How contiguous images are cut. A thread has V outputs side by side. Threads next to each other begin reading `step`
// pixels apart, and a word is left free after as many, so that they meet different banks. Outer products of many taps
// filter the rows first, then the columns.
template <int V, class F>
struct PlaneShape {
  static constexpr int vector = V;
  static constexpr bool separable = F::taps > 4;
  static constexpr Extent tile = largest_tile(F::down, separable, V);
  static constexpr int below = tile.below, log_x = tile.log_x, threads = 1 << (tile.log_x + tile.log_y);
  static constexpr int width = V << log_x, height = below << tile.log_y;
  static constexpr int step = V * F::down / F::up;
  static constexpr int row_step = below * F::down / F::up;  // pixels between threads below each other

  HSR_HD static constexpr int place(int column) { return column + int(unsigned(column) / step); }
  static constexpr int extra = 16;  // words that may be added to rows
  // Pixels, and outputs where they are rearranged before they are stored.
  static constexpr int staged =
      larger(F::pixels(height) * (place(F::pixels(width)) + extra), (V + 1) * width * height / V);
  static constexpr int middle = separable ? F::pixels(height) * width : 4;  // pixels whose rows are filtered
};

// The same as numbers.
struct PlaneCut {
  int vector, below, log_x, threads, step, row_step, extra, staged, middle, up, down, taps;

  template <class S, class F>
  static PlaneCut of() {
    return {S::vector,  S::below,  S::log_x,
            S::threads, S::step,   S::row_step,
            S::extra,   S::staged, S::separable ? S::middle : 0,
            F::up,      F::down,   F::taps};
  }
  int columns(int log_x) const { return group_pixels(vector << log_x, taps, up, down); }
  int rows(int log_y) const { return group_pixels(below << log_y, taps, up, down); }
  bool fits(int planes, int log_x, int log_y, int pitch) const {
    const int lines = planes * rows(log_y);
    return lines * pitch <= staged && (middle == 0 || lines * (vector << log_x) <= middle);
  }
};

// The tiles of contiguous images: of one plane, or of several small ones. A block's threads are planes x 2^log_y x
// 2^log_x.
struct PlaneTiles {
  FirImage image;
  int count;   // of planes
  int planes;  // to a block
  int log_x, log_y, threads;
  int rows, columns, pitch;  // of a plane's staged pixels; pitch: words from row to row
  int before;                // pixels from the last multiple of 16 bytes to the tile's first pixel
  bool whole_in, whole_out;  // rows are read and written in vectors
  DType dtype;
  Divisor by_reads, by_rows;  // by_reads: of a row, vectors or pixels
  Divisor tiles_x, tiles_y;
  int64_t blocks;

  PlaneTiles(const Upfirdn2dParams& p, const PlaneCut& cut)
      : image(p), count(int(p.n * p.c)), planes(1), log_x(0), log_y(0), dtype(p.dtype) {
    const int width = image.ow + image.before_x, height = image.oh + image.before_y;
    while (log_x < cut.log_x && cut.vector << log_x < width) log_x++;
    columns = cut.columns(log_x), pitch = columns + (columns - 1) / cut.step;
    while (cut.below << log_y < height && 2 << (log_x + log_y) <= cut.threads && cut.fits(1, log_x, log_y + 1, pitch))
      log_y++;
    const int most = cut.threads >> (log_x + log_y);
    while (planes < most && planes < count && cut.fits(planes + 1, log_x, log_y, pitch)) planes++;
    rows = cut.rows(log_y), threads = planes << (log_x + log_y);
    // Threads below each other should meet other banks than those beside them.
    for (int extra = 0; extra < cut.extra && cut.fits(planes, log_x, log_y, pitch + extra); extra++) {
      if (cut.row_step * (pitch + extra) % (2 << log_x) != 1 << log_x) continue;
      pitch += extra;
      break;
    }
    tiles_x = Divisor(ceil_div(width, cut.vector << log_x)), tiles_y = Divisor(ceil_div(height, cut.below << log_y));
    blocks = int64_t(tiles_x.divisor) * tiles_y.divisor * ceil_div(count, planes);
    whole_out = image.ow % cut.vector == 0 && aligned(p.y) && image.before_x == 0;
    // Reads are 16 bytes wide. Where there are several tiles, they begin multiples of that apart.
    const int reads = dtype == DType::float32 ? 4 : 8;
    whole_in = image.w % reads == 0 && aligned(p.x);
    const int first = int(tap_range_in<int>(-image.before_x, cut.up, cut.down, image.pad_x).pixel);
    before = whole_in ? (first % reads + reads) % reads : 0;
    by_reads = Divisor(whole_in ? ceil_div(before + columns, reads) : columns), by_rows = Divisor(rows);
  }

  bool small() const {
    return int64_t(image.h + 1024) * (image.w + 1024) < kInt32 && int64_t(image.oh) * image.ow < kInt32 &&
           blocks <= kMostBlocks;
  }
};

// Where this thread works.
template <class S>
struct PlanePlace {
  int x, y, plane;  // of the thread in its block
  int first_plane;
  int column, row;  // the tile's first output, which may lie before the image

  HSR_DEVICE explicit PlanePlace(const PlaneTiles& t) {
    const int thread = thread_index();
    x = thread & ((1 << t.log_x) - 1), y = (thread >> t.log_x) & ((1 << t.log_y) - 1);
    plane = thread >> (t.log_x + t.log_y);
    int block = int(block_index());
    column = t.tiles_x.split(block) * (S::vector << t.log_x) - t.image.before_x;
    row = t.tiles_y.split(block) * (S::below << t.log_y) - t.image.before_y;
    first_plane = block * t.planes;
  }
};

// Stages the pixels of a tile as floats: [planes, rows, pitch].
template <class S, class F, class T, int N>
HSR_DEVICE void stage_planes(const T* x, const PlaneTiles& t, const PlanePlace<S>& at, Shared<float, N>& tile) {
  constexpr int V = kVector<T>;
  const FirImage& image = t.image;
  const int first_column = first_pixel<F>(at.column, image.pad_x) - t.before;
  const int first_row = first_pixel<F>(at.row, image.pad_y);
  const int total = t.planes * t.rows * t.by_reads.divisor, size = image.h * image.w;
  const T* origin = x + int64_t(at.first_plane) * size;
  // The pixel that the item-th read begins with. Outside, any pixel is read in vain: a load without a branch, so that
  // several are under way.
  const auto source = [&](int item, int width, int& line, int& column, bool& inside) -> const T* {
    line = item;
    column = t.by_reads.split(line) * width;
    int plane = line;
    const int row = t.by_rows.split(plane) + first_row, from = column + first_column;
    inside = item < total && at.first_plane + plane < t.count && unsigned(row) < unsigned(image.h) &&
             unsigned(from) < unsigned(image.w);
    column = item < total ? column - t.before : t.columns;
    return inside ? origin + (int64_t(plane) * size + (row * image.w + from)) : x;
  };
  const auto put = [&](int line, int column, float value) {
    if (unsigned(column) < unsigned(t.columns)) tile[line * t.pitch + S::place(column)] = value;
  };
  int item = thread_index(), line[kLoads], column[kLoads];
  bool inside[kLoads];
#pragma unroll 1
  for (; t.whole_in && item < total; item += kLoads * t.threads) {
    Pack<T, V> packs[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; i++)
      packs[i] =
          load(reinterpret_cast<const Pack<T, V>*>(source(item + i * t.threads, V, line[i], column[i], inside[i])));
#pragma unroll
    for (int i = 0; i < kLoads; i++) {
      float pixels[V];
      widen_all(packs[i], t.dtype == DType::float16, pixels);
#pragma unroll
      for (int v = 0; v < V; v++) put(line[i], column[i] + v, inside[i] ? pixels[v] : 0.0f);
    }
  }
#pragma unroll 1
  for (; item < total; item += kLoads * t.threads) {
    Pack<T, 1> packs[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; i++)
      packs[i].v[0] = load(source(item + i * t.threads, 1, line[i], column[i], inside[i]));
#pragma unroll
    for (int i = 0; i < kLoads; i++) {
      float pixel[1];
      widen_all(packs[i], t.dtype == DType::float16, pixel);
      put(line[i], column[i], inside[i] ? pixel[0] : 0.0f);
    }
  }
}

// Writes the outputs of a tile. Where rows can't be written in vectors, they change places first: `free` is a shared
// array whose contents are no longer wanted once all threads have come here.
template <class S, class T, int N>
HSR_DEVICE void write_planes(T* y, const PlaneTiles& t, const PlanePlace<S>& at, Shared<float, N>& free,
                             const float (&sums)[S::below][S::vector]) {
  constexpr int V = S::vector, R = S::below;
  const FirImage& image = t.image;
  T* origin = y + int64_t(at.first_plane) * (image.oh * image.ow);
  if (t.whole_out) {
    const int column = at.column + at.x * V, row = at.row + at.y * R;
    T* to = origin + (int64_t(at.plane) * (image.oh * image.ow) + (row * image.ow + column));
#pragma unroll
    for (int r = 0; r < R; r++) {
      Pack<T, V> pack;
      narrow_all(sums[r], t.dtype == DType::float16, pack);
      if (at.first_plane + at.plane < t.count && row + r >= 0 && row + r < image.oh && column < image.ow)
        store(reinterpret_cast<Pack<T, V>*>(to + r * image.ow), pack);
    }
    return;
  }
  sync();
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int v = 0; v < V; v++) free[(r * t.threads + int(thread_index())) * (V + 1) + v] = sums[r][v];
  sync();
  const int total = t.threads * R * V, log_v = V == 8 ? 3 : 2;
#pragma unroll 1
  for (int item = thread_index(); item < total; item += t.threads) {
    const int x = item & ((V << t.log_x) - 1);
    int rest = item >> (log_v + t.log_x);
    const int r = rest % R, thread_row = rest / R;
    const int row = at.row + (thread_row & ((1 << t.log_y) - 1)) * R + r, plane = thread_row >> t.log_y;
    const int column = at.column + x, thread = (thread_row << t.log_x) + (x >> log_v);
    if (at.first_plane + plane >= t.count || unsigned(row) >= unsigned(image.oh) ||
        unsigned(column) >= unsigned(image.ow))
      continue;
    Pack<T, 1> one;
    const float value[1] = {free[(r * t.threads + thread) * (V + 1) + (x & (V - 1))]};
    narrow_all(value, t.dtype == DType::float16, one);
    store(origin + (int64_t(plane) * (image.oh * image.ow) + (row * image.ow + column)), one.v[0]);
  }
}

// Adds what a row of pixels is to V adjacent outputs, weighed with the taps from `first` on.
template <class F, int V, int P, int M>
HSR_DEVICE void filter_row(const float (&pixels)[P], const float (&taps)[M], int first, float (&sums)[V]) {
#pragma unroll
  for (int v = 0; v < V; v++)
#pragma unroll
    for (int d = 0; d < near_pixels(F::taps, F::up); d++)
      if (near_meets(d, v % F::up, F::up, F::taps))
        sums[v] += pixels[v / F::up * F::down + d] * taps[first + near_tap(d, v % F::up, F::up)];
}

}  // namespace cuda
}  // namespace hsr
