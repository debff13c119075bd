// SPDX-License-Identifier: Apache-2.0
// FIR of a few taps over tiles of images: what kernels of both layouts share, and the machinery for channels_last.
//
// A block stages the pixels that its outputs weigh, zeros around the image included, so that taps need no bounds
// checks. A thread keeps a few outputs, side by side and below each other, in registers, which share most of their
// pixels. Offsets are 32-bit: a 64-bit pointer to the tile's first pixel is told once per block.
#pragma once

#include "hsr/fir.h"
#include "launch.h"

namespace hsr {
namespace cuda {

constexpr int kLoads = 2;  // of a thread that are under way at a time

HSR_HD constexpr int larger(int a, int b) { return a > b ? a : b; }

// Divides numbers from 0 to 2^31 - 1 by one that is known before the launch: a product and a shift.
struct Divisor {
  int divisor, shift;
  uint32_t multiplier;

  Divisor() : Divisor(1) {}
  explicit Divisor(int64_t by) : divisor(int(by)), shift(31) {
    while ((int64_t(1) << (shift - 31)) < by) shift++;
    multiplier = uint32_t(((uint64_t(1) << shift) + by - 1) / by);
  }
  // Returns the remainder and leaves the quotient in n.
  HSR_DEVICE int split(int& n) const {
    const int quotient = int((uint64_t(uint32_t(n)) * multiplier) >> shift), rest = n - quotient * divisor;
    n = quotient;
    return rest;
  }
};

// Factors and taps, the same along both axes.
template <int UP, int DOWN, int TAPS>
struct Fir {
  static constexpr int up = UP, down = DOWN, taps = TAPS, square = TAPS * TAPS;
  HSR_HD static constexpr int pixels(int n) { return group_pixels(n, TAPS, UP, DOWN); }
};

// Images of outputs are cut into tiles of whole groups: the first tile may begin before the image.
struct FirImage {
  int h, w, oh, ow, pad_x, pad_y;
  int before_x, before_y;  // outputs of the first tile that lie before the image

  explicit FirImage(const Upfirdn2dParams& p)
      : h(int(p.h)), w(int(p.w)), oh(int(p.oh)), ow(int(p.ow)), pad_x(int(p.pad_x)), pad_y(int(p.pad_y)) {
    before_x = (pad_x % p.up_x + p.up_x) % p.up_x, before_y = (pad_y % p.up_y + p.up_y) % p.up_y;
  }
};

// Whether positions along both axes, zero-inserted and padded, fit 32 bits.
inline bool short_axes(const Upfirdn2dParams& p) {
  const auto fits = [](int64_t n) { return n < kInt32 / 2 && n > -kInt32 / 2; };
  return fits(p.h * p.up_y) && fits(p.w * p.up_x) && fits(p.oh * p.down_y) && fits(p.ow * p.down_x) && fits(p.pad_x) &&
         fits(p.pad_y);
}

// The pixel that the first tap of output o, which starts a group, falls on.
template <class F>
HSR_HD int first_pixel(int o, int pad) {
  return int(tap_range_in<int>(o, F::up, F::down, pad).pixel);
}

// The threads of a block fetch [taps, taps] taps, times gain.
template <int TAPS>
HSR_DEVICE void stage_taps(const FirTaps& f, bool separable, int threads, Shared<float, TAPS * TAPS>& staged) {
#pragma unroll 1
  for (int k = thread_index(); k < TAPS * TAPS; k += threads) {
    const int y = k / TAPS, x = k % TAPS;
    float tap = f.gain;
    if (f.f) tap *= load(f.f + (f.start + (separable ? 0 : y * f.step_y) + x * f.step_x));
    if (f.f && separable) tap *= load(f.f + (f.start + y * f.step_y));
    staged[k] = tap;
  }
}

// How channels_last images of storage type T are cut.
template <class T, class F>
struct ChannelShape {
  static constexpr int vector = kVector<T>;
  static constexpr int across = F::up, below = F::up * F::down == 1 ? 4 : 2;  // outputs of a thread
  static constexpr int threads = F::down == 2 ? 128 : 256;
  static constexpr int lanes = 8;                                          // along channels: 128 bytes of each pixel
  static constexpr int width = F::down == 2 ? 8 : 16, height = width / 2;  // of the largest tile with so many lanes
  // Vectors of its pixels, and of its outputs where they are rearranged before they are stored.
  static constexpr int staged = lanes * larger(F::pixels(width) * F::pixels(height), width* height);
};

// The same as numbers.
struct ChannelCut {
  int vector, across, below, threads, lanes, staged, up, down, taps;

  template <class S, class F>
  static ChannelCut of() {
    return {S::vector, S::across, S::below, S::threads, S::lanes, S::staged, F::up, F::down, F::taps};
  }
  int columns(int log_x) const { return group_pixels(across << log_x, taps, up, down); }
  int rows(int log_y) const { return group_pixels(below << log_y, taps, up, down); }
  bool fits(int log_c, int log_x, int log_y) const {
    const int log_threads = log_c + log_x + log_y;
    return columns(log_x) * rows(log_y) << log_c <= staged && across * below << log_threads <= staged &&
           1 << log_threads <= threads;
  }
};

// The tiles of channels_last images. A block's threads are 2^log_y x 2^log_x x 2^log_c, the last along channels.
struct ChannelTiles {
  FirImage image;
  int c;
  int log_c, log_x, log_y, threads;
  int rows, columns;  // of pixels of a tile
  bool whole;         // vectors of pixels are aligned and complete
  Divisor by_columns, chunks, tiles_x, tiles_y;
  int64_t blocks;

  // Tiles grow in turn along x and y, twice as wide as high; threads that are left take more channels.
  ChannelTiles(const Upfirdn2dParams& p, const ChannelCut& cut) : image(p), c(int(p.c)), log_c(0), log_x(0), log_y(0) {
    const int width = image.ow + image.before_x, height = image.oh + image.before_y;
    const int vectors = int(ceil_div(c, cut.vector));
    while (1 << log_c < vectors && 1 << log_c < cut.lanes) log_c++;
    for (;;) {
      const int across = cut.across << log_x, below = cut.below << log_y;
      const bool wider = across < width && cut.fits(log_c, log_x + 1, log_y);
      const bool higher = below < height && cut.fits(log_c, log_x, log_y + 1);
      if (!wider && !higher) break;
      if (wider && (!higher || across <= 2 * below)) {
        log_x++;
      } else {
        log_y++;
      }
    }
    while (1 << log_c < vectors && cut.fits(log_c + 1, log_x, log_y)) log_c++;
    threads = 1 << (log_c + log_x + log_y);
    rows = cut.rows(log_y), columns = cut.columns(log_x);
    by_columns = Divisor(columns), chunks = Divisor(ceil_div(vectors, 1 << log_c));
    tiles_x = Divisor(ceil_div(width, cut.across << log_x)), tiles_y = Divisor(ceil_div(height, cut.below << log_y));
    whole = c % cut.vector == 0 && aligned(p.x);
    blocks = int64_t(chunks.divisor) * tiles_x.divisor * tiles_y.divisor * p.n;
  }

  // Whether offsets within a tile fit 32 bits, and the blocks a grid. A tile has at most `up` times as many rows of
  // outputs as of pixels.
  bool small(int up) const {
    const int64_t in = int64_t(image.w + columns) * rows, out = int64_t(image.ow + up * columns) * up * rows;
    return (in > out ? in : out) * c < 2 * kInt32 && blocks <= kMostBlocks;
  }
};

// Where this thread works.
template <class S>
struct ChannelPlace {
  int lane, x, y;   // of the thread in its block
  int channel;      // the block's first
  int column, row;  // the tile's first output, which may lie before the image
  int sample;

  HSR_DEVICE explicit ChannelPlace(const ChannelTiles& t) {
    const int thread = thread_index();
    lane = thread & ((1 << t.log_c) - 1);
    x = (thread >> t.log_c) & ((1 << t.log_x) - 1);
    y = thread >> (t.log_c + t.log_x);
    int block = int(block_index());
    channel = (t.chunks.split(block) << t.log_c) * S::vector;
    column = (t.tiles_x.split(block) << t.log_x) * S::across - t.image.before_x;
    row = (t.tiles_y.split(block) << t.log_y) * S::below - t.image.before_y;
    sample = block;
  }
};

// Stages a tile's pixels as they are: [rows, columns, channels of the block].
template <class S, class F, class T, int N>
HSR_DEVICE void stage_channels(const T* x, const ChannelTiles& t, const ChannelPlace<S>& at, Shared<T, N>& tile) {
  constexpr int V = S::vector;
  const int first_column = first_pixel<F>(at.column, t.image.pad_x);
  const int first_row = first_pixel<F>(at.row, t.image.pad_y);
  const int line = t.image.w * t.c, pixels = t.rows * t.columns;
  const T* origin = x + (int64_t(at.sample) * t.image.h + first_row) * line + int64_t(first_column) * t.c + at.channel;
  // A channel of a staged pixel. Outside, any element is read in vain: a load without a branch, so that several are
  // under way.
  const auto source = [&](int pixel, int channel, bool& inside) -> const T* {
    int row = pixel;
    const int column = t.by_columns.split(row);
    inside = unsigned(first_row + row) < unsigned(t.image.h) && unsigned(first_column + column) < unsigned(t.image.w) &&
             at.channel + channel < t.c;
    return inside ? origin + (row * line + column * t.c + channel) : x;
  };
  if (t.whole) {
    const int step = t.threads >> t.log_c, channel = at.lane * V;
#pragma unroll 1
    for (int pixel = thread_index() >> t.log_c; pixel < pixels; pixel += kLoads * step) {
      Pack<T, V> packs[kLoads];
      bool inside[kLoads];
#pragma unroll
      for (int i = 0; i < kLoads; i++)
        packs[i] = load(reinterpret_cast<const Pack<T, V>*>(source(pixel + i * step, channel, inside[i])));
#pragma unroll
      for (int i = 0; i < kLoads; i++) {
        const int to = ((pixel + i * step) << t.log_c) * V + channel;
        if (pixel + i * step >= pixels) continue;
        if (inside[i]) {
          shared_store<V>(tile, to, packs[i]);
        } else {
          shared_store<V>(tile, to, Pack<T, V>{});
        }
      }
    }
    return;
  }
  const int log_lanes = t.log_c + (V == 8 ? 3 : 2);
#pragma unroll 1
  for (int item = thread_index(); item < pixels << log_lanes; item += t.threads) {
    bool inside;
    const T value = load(source(item >> log_lanes, item & ((1 << log_lanes) - 1), inside));
    tile[item] = inside ? value : T{};
  }
}

// The outputs of a thread: sums[row][column][channel].
template <class S, class F, class T, int N, int M>
HSR_DEVICE void filter_channels(Shared<T, N>& tile, Shared<float, M>& staged_taps, const ChannelTiles& t,
                                const ChannelPlace<S>& at, float (&sums)[S::below][S::across][S::vector]) {
  constexpr int V = S::vector;
  float taps[M];
#pragma unroll
  for (int k = 0; k < M; k++) taps[k] = staged_taps[k];
#pragma unroll
  for (int r = 0; r < S::below; r++)
#pragma unroll
    for (int p = 0; p < S::across; p++)
#pragma unroll
      for (int v = 0; v < V; v++) sums[r][p][v] = 0;
  const int column = at.x * (S::across / F::up * F::down), row = at.y * (S::below / F::up * F::down);
  const int corner = ((row * t.columns + column) << t.log_c) + at.lane;
#pragma unroll
  for (int i = 0; i < F::pixels(S::below); i++)
#pragma unroll
    for (int j = 0; j < F::pixels(S::across); j++) {
      const Pack<T, V> pack = shared_load<V>(tile, (corner + ((i * t.columns + j) << t.log_c)) * V);
      float pixel[V];
#pragma unroll
      for (int v = 0; v < V; v++) pixel[v] = widen(pack.v[v]);
#pragma unroll
      for (int r = 0; r < S::below; r++)
#pragma unroll
        for (int p = 0; p < S::across; p++) {
          const int near_y = i - r / F::up * F::down, near_x = j - p / F::up * F::down;
          const int tap_y = near_tap(near_y, r % F::up, F::up), tap_x = near_tap(near_x, p % F::up, F::up);
          if (near_meets(near_y, r % F::up, F::up, F::taps) && near_meets(near_x, p % F::up, F::up, F::taps)) {
#pragma unroll
            for (int v = 0; v < V; v++) sums[r][p][v] += pixel[v] * taps[tap_y * F::taps + tap_x];
          }
        }
    }
}

// Writes the outputs of a thread. Where channels can't be written in vectors, outputs pass through `tile`, whose pixels
// are no longer wanted once all threads have come here.
template <class S, class T, int N>
HSR_DEVICE void write_channels(T* y, const ChannelTiles& t, const ChannelPlace<S>& at, bool whole, Shared<T, N>& tile,
                               const float (&sums)[S::below][S::across][S::vector]) {
  constexpr int V = S::vector, R = S::below, P = S::across;
  const FirImage& image = t.image;
  const int line = image.ow * t.c, log_width = t.log_x + (P == 2), log_lanes = t.log_c + (V == 8 ? 3 : 2);
  T* origin = y + (int64_t(at.sample) * image.oh + at.row) * line + int64_t(at.column) * t.c + at.channel;
  const auto there = [&](int row, int column, int channel) {
    return unsigned(at.row + row) < unsigned(image.oh) && unsigned(at.column + column) < unsigned(image.ow) &&
           at.channel + channel < t.c;
  };
  if (!whole) sync();
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int p = 0; p < P; p++) {
      const int row = at.y * R + r, column = at.x * P + p;
      if (whole) {
        if (there(row, column, at.lane * V))
          write(origin + (row * line + column * t.c + at.lane * V), V, true, sums[r][p]);
      } else {
        Pack<T, V> pack;
#pragma unroll
        for (int v = 0; v < V; v++) pack.v[v] = narrow(sums[r][p][v], T{});
        shared_store<V>(tile, (((row << log_width) + column) << log_lanes) + at.lane * V, pack);
      }
    }
  if (whole) return;
  sync();
  const int total = t.threads * R * P * V;
#pragma unroll 1
  for (int item = thread_index(); item < total; item += t.threads) {
    const int channel = item & ((1 << log_lanes) - 1), pixel = item >> log_lanes;
    const int column = pixel & ((1 << log_width) - 1), row = pixel >> log_width;
    const T value = tile[item];
    if (there(row, column, channel)) store(origin + (row * line + column * t.c + channel), value);
  }
}

// A thread's outputs from images in memory: what every kernel of such tiles begins with.
template <class S, class F, class T, int N>
HSR_DEVICE void filter_tile(const T* x, const FirTaps& filter, bool separable, const ChannelTiles& t,
                            const ChannelPlace<S>& at, Shared<T, N>& tile, Shared<float, F::square>& taps,
                            float (&sums)[S::below][S::across][S::vector]) {
  stage_taps<F::taps>(filter, separable, t.threads, taps);
  stage_channels<S, F>(x, t, at, tile);
  sync();
  filter_channels<S, F>(tile, taps, t, at, sums);
}

}  // namespace cuda
}  // namespace hsr
