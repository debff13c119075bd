// SPDX-License-Identifier: Apache-2.0
// FIR of a few taps over tiles of images: what the kernels of both layouts share, and the tiles of channels_last
// images.
//
// A block stages the pixels of its outputs' windows in shared memory, zeros around the image included, so that taps
// need no bounds checks. A thread keeps several outputs, side by side and below each other, in registers, as they share
// most of their pixels. Offsets have 32 bits: a 64-bit pointer to the tile's first pixel is computed once per block.
#pragma once

#include "hsr/fir.h"
#include "launch.h"

namespace hsr {
namespace cuda {

// A thread issues so many loads before it uses their values.
constexpr int kLoadsInFlight = 2;

HSR_HD constexpr int maximum(int a, int b) { return a > b ? a : b; }

// Divides numbers from 0 to 2^31 - 1 by one that is known before the launch, with a product and a shift.
struct Divisor {
  int divisor, shift;
  uint32_t multiplier;

  Divisor() : Divisor(1) {}
  explicit Divisor(int64_t number) : divisor(int(number)), shift(31) {
    while ((int64_t(1) << (shift - 31)) < number) shift++;
    multiplier = uint32_t(((uint64_t(1) << shift) + number - 1) / number);
  }
  // Returns the remainder and sets n to the quotient.
  HSR_DEVICE int divide(int& n) const {
    const int quotient = int((uint64_t(uint32_t(n)) * multiplier) >> shift), remainder = n - quotient * divisor;
    n = quotient;
    return remainder;
  }
};

// A FIR whose factors and taps are the same along both axes.
template <int UP, int DOWN, int TAPS>
struct Fir {
  static constexpr int up = UP, down = DOWN, taps = TAPS, square = TAPS * TAPS;
  HSR_HD static constexpr int pixels(int n) { return group_pixels(n, TAPS, UP, DOWN); }
};

// The sizes of an image and of its output. Outputs are cut into tiles of complete groups, so the first tile may begin
// before the image.
struct FirImage {
  int h, w, oh, ow, pad_x, pad_y;
  // The outputs of the first tile that lie before the image.
  int margin_x, margin_y;

  explicit FirImage(const Upfirdn2dParams& p)
      : h(int(p.h)), w(int(p.w)), oh(int(p.oh)), ow(int(p.ow)), pad_x(int(p.pad_x)), pad_y(int(p.pad_y)) {
    margin_x = (pad_x % p.up_x + p.up_x) % p.up_x, margin_y = (pad_y % p.up_y + p.up_y) % p.up_y;
  }
};

// Whether positions along both axes, zero-inserted and padded, fit 32 bits.
inline bool axes_fit_int32(const Upfirdn2dParams& p) {
  const auto fits = [](int64_t n) { return n < kMaxInt32Elements / 2 && n > -kMaxInt32Elements / 2; };
  return fits(p.h * p.up_y) && fits(p.w * p.up_x) && fits(p.oh * p.down_y) && fits(p.ow * p.down_x) && fits(p.pad_x) &&
         fits(p.pad_y);
}

// Returns the pixel that the first tap of output o meets, which begins a group.
template <class F>
HSR_HD int first_pixel(int o, int pad) {
  return int(tap_range_in<int>(o, F::up, F::down, pad).pixel);
}

// Stages [taps, taps] taps times the gain; the threads of the block share the work.
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

// How channels_last images of storage type T are cut into tiles.
template <class T, class F>
struct ChannelShape {
  static constexpr int vector = kVector<T>;
  // The outputs of a thread.
  static constexpr int across = F::up, below = F::up * F::down == 1 ? 4 : 2;
  static constexpr int threads = F::down == 2 ? 128 : 256;
  // Threads along channels, which read 128 bytes of each pixel.
  static constexpr int lanes = 8;
  // The outputs of the largest tile with so many lanes.
  static constexpr int width = F::down == 2 ? 8 : 16, height = width / 2;
  // The vectors of its pixels, or of its outputs where they are rearranged before they are stored.
  static constexpr int staged = lanes * maximum(F::pixels(width) * F::pixels(height), width* height);
};

// The same as values for the host.
struct ChannelCut {
  int vector, across, below, threads, lanes, staged, up, down, taps;

  template <class S, class F>
  static ChannelCut make() {
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

// The tiles of channels_last images. The threads of a block are 2^log_y x 2^log_x x 2^log_c, the last along channels.
struct ChannelTiles {
  FirImage image;
  int c;
  int log_c, log_x, log_y, threads;
  // The pixels of a tile.
  int rows, columns;
  // Whether pixels consist of aligned, complete vectors.
  bool vector_reads;
  Divisor column_divisor, chunks, tiles_x, tiles_y;
  int64_t blocks;

  // Tiles grow along x and y in turn and are twice as wide as high; threads that remain take more channels.
  ChannelTiles(const Upfirdn2dParams& p, const ChannelCut& cut) : image(p), c(int(p.c)), log_c(0), log_x(0), log_y(0) {
    const int width = image.ow + image.margin_x, height = image.oh + image.margin_y;
    const int vectors = int(ceil_div(c, cut.vector));
    while (1 << log_c < vectors && 1 << log_c < cut.lanes) log_c++;
    for (;;) {
      const int across = cut.across << log_x, below = cut.below << log_y;
      const bool grows_x = across < width && cut.fits(log_c, log_x + 1, log_y);
      const bool grows_y = below < height && cut.fits(log_c, log_x, log_y + 1);
      if (!grows_x && !grows_y) break;
      if (grows_x && (!grows_y || across <= 2 * below)) {
        log_x++;
      } else {
        log_y++;
      }
    }
    while (1 << log_c < vectors && cut.fits(log_c + 1, log_x, log_y)) log_c++;
    threads = 1 << (log_c + log_x + log_y);
    rows = cut.rows(log_y), columns = cut.columns(log_x);
    column_divisor = Divisor(columns), chunks = Divisor(ceil_div(vectors, 1 << log_c));
    tiles_x = Divisor(ceil_div(width, cut.across << log_x)), tiles_y = Divisor(ceil_div(height, cut.below << log_y));
    vector_reads = c % cut.vector == 0 && aligned(p.x);
    blocks = int64_t(chunks.divisor) * tiles_x.divisor * tiles_y.divisor * p.n;
  }

  // Whether offsets within a tile fit 32 bits, and the blocks a grid. A tile has at most `up` times as many rows of
  // outputs as of pixels.
  bool fits_int32(int up) const {
    const int64_t in = int64_t(image.w + columns) * rows, out = int64_t(image.ow + up * columns) * up * rows;
    return (in > out ? in : out) * c < 2 * kMaxInt32Elements && blocks <= kMaxBlocks;
  }
};

// The place of a thread.
template <class S>
struct ChannelPlace {
  // Of the thread in its block.
  int lane, x, y;
  // The first channel of the block.
  int channel;
  // The first output of the tile, which may lie before the image.
  int column, row;
  int sample;

  HSR_DEVICE explicit ChannelPlace(const ChannelTiles& t) {
    const int thread = thread_index();
    lane = thread & ((1 << t.log_c) - 1);
    x = (thread >> t.log_c) & ((1 << t.log_x) - 1);
    y = thread >> (t.log_c + t.log_x);
    int block = int(block_index());
    channel = (t.chunks.divide(block) << t.log_c) * S::vector;
    column = (t.tiles_x.divide(block) << t.log_x) * S::across - t.image.margin_x;
    row = (t.tiles_y.divide(block) << t.log_y) * S::below - t.image.margin_y;
    sample = block;
  }
};

// Stages the pixels of a tile in the storage type: [rows, columns, channels of the block].
template <class S, class F, class T, int N>
HSR_DEVICE void stage_channels(const T* x, const ChannelTiles& t, const ChannelPlace<S>& place, Shared<T, N>& tile) {
  constexpr int V = S::vector;
  const int first_column = first_pixel<F>(place.column, t.image.pad_x);
  const int first_row = first_pixel<F>(place.row, t.image.pad_y);
  const int line = t.image.w * t.c, pixels = t.rows * t.columns;
  const T* origin =
      x + (int64_t(place.sample) * t.image.h + first_row) * line + int64_t(first_column) * t.c + place.channel;
  // Returns the address of a channel of a staged pixel. Outside the image it is that of any element, which is read in
  // vain: without a branch, several loads can be in flight.
  const auto source = [&](int pixel, int channel, bool& inside) -> const T* {
    int row = pixel;
    const int column = t.column_divisor.divide(row);
    inside = unsigned(first_row + row) < unsigned(t.image.h) && unsigned(first_column + column) < unsigned(t.image.w) &&
             place.channel + channel < t.c;
    return inside ? origin + (row * line + column * t.c + channel) : x;
  };
  if (t.vector_reads) {
    const int step = t.threads >> t.log_c, channel = place.lane * V;
#pragma unroll 1
    for (int pixel = thread_index() >> t.log_c; pixel < pixels; pixel += kLoadsInFlight * step) {
      Pack<T, V> packs[kLoadsInFlight];
      bool inside[kLoadsInFlight];
#pragma unroll
      for (int i = 0; i < kLoadsInFlight; i++)
        packs[i] = load(reinterpret_cast<const Pack<T, V>*>(source(pixel + i * step, channel, inside[i])));
#pragma unroll
      for (int i = 0; i < kLoadsInFlight; i++) {
        const int index = ((pixel + i * step) << t.log_c) * V + channel;
        if (pixel + i * step >= pixels) continue;
        if (inside[i]) {
          shared_store<V>(tile, index, packs[i]);
        } else {
          shared_store<V>(tile, index, Pack<T, V>{});
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

// Computes the outputs of a thread: sums[row][column][channel].
template <class S, class F, class T, int N, int M>
HSR_DEVICE void filter_channels(Shared<T, N>& tile, Shared<float, M>& staged_taps, const ChannelTiles& t,
                                const ChannelPlace<S>& place, float (&sums)[S::below][S::across][S::vector]) {
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
  const int column = place.x * (S::across / F::up * F::down), row = place.y * (S::below / F::up * F::down);
  const int corner = ((row * t.columns + column) << t.log_c) + place.lane;
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
          const int window_y = i - r / F::up * F::down, window_x = j - p / F::up * F::down;
          const int tap_y = window_tap(window_y, r % F::up, F::up), tap_x = window_tap(window_x, p % F::up, F::up);
          if (window_has_tap(window_y, r % F::up, F::up, F::taps) &&
              window_has_tap(window_x, p % F::up, F::up, F::taps)) {
#pragma unroll
            for (int v = 0; v < V; v++) sums[r][p][v] += pixel[v] * taps[tap_y * F::taps + tap_x];
          }
        }
    }
}

// Writes the outputs of a thread. If channels can't be written in vectors, the outputs pass through `tile`, whose
// pixels aren't needed any more once all threads have arrived here.
template <class S, class T, int N>
HSR_DEVICE void write_channels(T* y, const ChannelTiles& t, const ChannelPlace<S>& place, bool vector_writes,
                               Shared<T, N>& tile, const float (&sums)[S::below][S::across][S::vector]) {
  constexpr int V = S::vector, R = S::below, P = S::across;
  const FirImage& image = t.image;
  const int line = image.ow * t.c, log_width = t.log_x + (P == 2), log_lanes = t.log_c + (V == 8 ? 3 : 2);
  T* origin = y + (int64_t(place.sample) * image.oh + place.row) * line + int64_t(place.column) * t.c + place.channel;
  const auto inside = [&](int row, int column, int channel) {
    return unsigned(place.row + row) < unsigned(image.oh) && unsigned(place.column + column) < unsigned(image.ow) &&
           place.channel + channel < t.c;
  };
  if (!vector_writes) sync();
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int p = 0; p < P; p++) {
      const int row = place.y * R + r, column = place.x * P + p;
      if (vector_writes) {
        if (inside(row, column, place.lane * V))
          write(origin + (row * line + column * t.c + place.lane * V), V, true, sums[r][p]);
      } else {
        Pack<T, V> pack;
#pragma unroll
        for (int v = 0; v < V; v++) pack.v[v] = narrow(sums[r][p][v], T{});
        shared_store<V>(tile, (((row << log_width) + column) << log_lanes) + place.lane * V, pack);
      }
    }
  if (vector_writes) return;
  sync();
  const int total = t.threads * R * P * V;
#pragma unroll 1
  for (int item = thread_index(); item < total; item += t.threads) {
    const int channel = item & ((1 << log_lanes) - 1), pixel = item >> log_lanes;
    const int column = pixel & ((1 << log_width) - 1), row = pixel >> log_width;
    const T value = tile[item];
    if (inside(row, column, channel)) store(origin + (row * line + column * t.c + channel), value);
  }
}

// Computes the outputs of a thread from images in memory, with which every kernel on such tiles begins.
template <class S, class F, class T, int N>
HSR_DEVICE void filter_tile(const T* x, const FirTaps& filter, bool separable, const ChannelTiles& t,
                            const ChannelPlace<S>& place, Shared<T, N>& tile, Shared<float, F::square>& taps,
                            float (&sums)[S::below][S::across][S::vector]) {
  stage_taps<F::taps>(filter, separable, t.threads, taps);
  stage_channels<S, F>(x, t, place, tile);
  sync();
  filter_channels<S, F>(tile, taps, t, place, sums);
}

}  // namespace cuda
}  // namespace hsr
