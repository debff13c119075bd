// SPDX-License-Identifier: Apache-2.0
// What the kernels around the convolution of a modulated layer share: images [n, c, h * w] cut into tiles [channels,
// pixels] that never cross a sample.
//
// A thread holds 16 bytes of consecutive channels of two adjacent pixels (8 bytes where it keeps sums of 16-bit
// images), so images in nhwc are read and written as they lie in memory. Those in nchw go through shared memory: as
// rows of pixels on the outside, as pairs of pixels on the inside.
//
// Pointers to a tile are 64 bits wide, as images may be of any size; offsets inside it are 32-bit integers, but for
// those of whole planes.
#pragma once

#include <initializer_list>

#include "hsr/error.h"
#include "launch.h"

namespace hsr {
namespace cuda {
namespace tiles {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kHeld = 2;           // pixels that a thread holds
constexpr int kLogPixels = 9;      // log2 of a tile's pixels where one thread has all of its channels
constexpr int kMostLanes = 16;     // threads side by side along channels
constexpr int kUsualLanes = 8;     // where there are channels and pixels enough
constexpr int kFew = 4;            // channels that a thread of them holds, as sums take registers too
constexpr int64_t kBlocks = 2048;  // where sums are kept, blocks take several tiles each rather than be many more

// How blocks share out images.
struct Tiling {
  int64_t hw;
  int c;
  int pixels_per_block;
  int parts;  // blocks that share a sample's pixels
  int channel_blocks;
  int log_lanes;
  bool nhwc;            // layout of the images that have either
  bool whole_channels;  // what lies in nhwc can be moved in vectors
  bool whole_pixels;    // what lies in nchw can
  bool whole_vectors;   // vectors per channel can
};

// log2 of the threads side by side along channels. The fewer they are, the more pixels a tile has.
inline int log_lanes_of(int64_t c, int64_t hw, int vector) {
  int log = 0;
  const auto more = [&] { return int64_t(vector) << log < c; };
  while (1 << log < kUsualLanes && more()) log++;
  while (1 << log < kMostLanes && more() && (1 << kLogPixels >> log) / 2 >= hw) log++;
  return log;
}

inline Tiling tiling_of(int64_t n, int64_t c, int64_t hw, int vector, bool sums) {
  require(c <= kInt32 >> kLogPixels, "the cuda backend takes images of up to 2097152 channels");
  Tiling t{};
  t.c = int(c), t.hw = hw, t.log_lanes = log_lanes_of(c, hw, vector);
  t.channel_blocks = int(ceil_div(c, int64_t(vector) << t.log_lanes));
  const int64_t pixels = 1 << kLogPixels >> t.log_lanes, per_sample = ceil_div(hw, pixels);
  int64_t tiles = sums ? n * per_sample * t.channel_blocks / kBlocks : 1;
  if (tiles > per_sample) tiles = per_sample;
  if (tiles < 1) tiles = 1;
  require(tiles * pixels < kInt32, "the cuda backend doesn't take images of so many pixels");
  t.pixels_per_block = int(tiles * pixels);
  t.parts = int(ceil_div(per_sample, tiles));
  return t;
}

// The same for the images and vectors of a launch, null ones aside.
inline Tiling tiling_of(int64_t n, int64_t c, int64_t hw, int vector, bool sums, Layout layout,
                        std::initializer_list<const void*> images, std::initializer_list<const void*> vectors) {
  const auto all_aligned = [](std::initializer_list<const void*> tensors) {
    bool all = true;
    for (const void* tensor : tensors) all = all && aligned(tensor);
    return all;
  };
  Tiling t = tiling_of(n, c, hw, vector, sums);
  t.nhwc = layout == Layout::nhwc;
  t.whole_channels = c % vector == 0 && all_aligned(images), t.whole_pixels = hw % vector == 0 && all_aligned(images);
  t.whole_vectors = c % 4 == 0 && all_aligned(vectors);
  return t;
}

inline int64_t blocks_of(int64_t n, const Tiling& t) { return n * t.parts * t.channel_blocks; }

// A block's tiles, one after the other, and of the one at hand this thread's share: V channels of kHeld pixels.
template <class T, int V>
class Tile {
 public:
  static constexpr int kElements = kThreads * kHeld * V;
  static constexpr int kSums = kWarps * kMostLanes * V;
  using Memory = Shared<T, kElements>;
  using Sums = Shared<float, kSums>;

  int64_t sample;

  HSR_DEVICE explicit Tile(const Tiling& tiling) : by(tiling) {
    const int block = int(block_index()), row = block / by.channel_blocks, n = row / by.parts;
    channel_block = block - row * by.channel_blocks;
    sample = n, part = row - n * by.parts;
    lane = thread_index() & (lanes() - 1), line = thread_index() >> by.log_lanes;
    block_channel = channel_block * (V << by.log_lanes);
    const int rest = by.c - channel();
    count = rest < V ? rest : V;
    first = 0;
    const int64_t after = by.hw - begin();
    size = after < by.pixels_per_block ? int(after) : by.pixels_per_block;
  }

  HSR_DEVICE bool there() const { return first < size; }
  HSR_DEVICE void advance() { first += pixels(); }

  // Where the block's pixels begin in images in nhwc; and in those that have either layout.
  HSR_DEVICE const T* nhwc(const void* images) const { return static_cast<const T*>(images) + nhwc_offset(); }
  HSR_DEVICE T* nhwc(void* images) const { return static_cast<T*>(images) + nhwc_offset(); }
  HSR_DEVICE const T* either(const void* images) const { return static_cast<const T*>(images) + either_offset(); }
  HSR_DEVICE T* either(void* images) const { return static_cast<T*>(images) + either_offset(); }

  // This thread's part of a vector per channel that begins at `start`, or `absent` where there is none.
  HSR_DEVICE void read_vector(const void* vector, int64_t start, float absent, float (&out)[V]) const {
#pragma unroll
    for (int j = 0; j < V; j += 4) {
      float four[4] = {absent, absent, absent, absent};
      const int valid = count - j;
      if (vector)
        read(static_cast<const float*>(vector) + (start + channel() + j), valid, by.whole_vectors && valid >= 4, four);
#pragma unroll
      for (int i = 0; i < 4; i++) out[j + i] = four[i];
    }
  }

  // Of an image in nhwc.
  HSR_DEVICE void read_nhwc(const T* image, float (&out)[kHeld][V]) const {
    const T* from = image + int64_t(pixel()) * by.c;
#pragma unroll
    for (int i = 0; i < kHeld; i++) {
      const int valid = pixel() + i < size ? count : 0;
      read(from + i * by.c, valid, by.whole_channels && valid == V, out[i]);
    }
  }
  HSR_DEVICE void write_nhwc(T* image, const float (&in)[kHeld][V]) const {
    T* to = image + int64_t(pixel()) * by.c;
#pragma unroll
    for (int i = 0; i < kHeld; i++) {
      const int valid = pixel() + i < size ? count : 0;
      write(to + i * by.c, valid, by.whole_channels && valid == V, in[i]);
    }
  }

  // Brings a tile of an image in nchw to shared memory, where all threads have it after a barrier.
  HSR_DEVICE void fetch(const T* image, Memory& memory) const {
    if (by.whole_pixels) {
      for_each_vector([&](int64_t at, int slot, bool inside) {
        Pack<T, V> pack{};
        if (inside) pack = load(reinterpret_cast<const Pack<T, V>*>(image + at));
        shared_store<V>(memory, slot, pack);
      });
    } else {
      for_each_element([&](int64_t at, int slot, bool inside) {
        T value{};
        if (inside) value = load(image + at);
        memory[slot] = value;
      });
    }
  }
  // The way back. What a thread writes to the image is what it fetched, so a fetch may follow without a barrier.
  HSR_DEVICE void flush(Memory& memory, T* image) const {
    if (by.whole_pixels) {
      for_each_vector([&](int64_t at, int slot, bool inside) {
        if (inside) store(reinterpret_cast<Pack<T, V>*>(image + at), shared_load<V>(memory, slot));
      });
    } else {
      for_each_element([&](int64_t at, int slot, bool inside) {
        if (!inside) return;
        const T value = memory[slot];
        store(image + at, value);
      });
    }
  }

  // Of what lies in shared memory.
  HSR_DEVICE void take(Memory& memory, float (&out)[kHeld][V]) const {
    const int at = own();
#pragma unroll
    for (int j = 0; j < V; j++) {
      const Pack<T, kHeld> pair = shared_load<kHeld>(memory, at + (j << log_pixels()));
#pragma unroll
      for (int i = 0; i < kHeld; i++) out[i][j] = widen(pair.v[i]);
    }
  }
  HSR_DEVICE void give(Memory& memory, const float (&in)[kHeld][V]) const {
    const int at = own();
#pragma unroll
    for (int j = 0; j < V; j++) {
      Pack<T, kHeld> pair;
#pragma unroll
      for (int i = 0; i < kHeld; i++) pair.v[i] = narrow(in[i][j], T{});
      shared_store<kHeld>(memory, at + (j << log_pixels()), pair);
    }
  }

  // This thread's pixels of a map of one channel, that of `sample`, or 0 where there is none.
  HSR_DEVICE void read_map(const void* map, int64_t start, float (&out)[kHeld]) const {
    const int64_t at = start + begin() + pixel();
#pragma unroll
    for (int i = 0; i < kHeld; i++)
      out[i] = map && pixel() + i < size ? load(static_cast<const float*>(map) + (at + i)) : 0.0f;
  }
  // Adds up over the tile's channels and writes to the maps [channel blocks, n, hw] of partial sums.
  HSR_DEVICE void write_map(void* maps, int64_t samples, const float (&in)[kHeld]) const {
    const int64_t at = (channel_block * samples + sample) * by.hw + begin() + pixel();
#pragma unroll
    for (int i = 0; i < kHeld; i++) {
      const float sum = sum_over_lanes(in[i], lanes());
      if (lane == 0 && pixel() + i < size) store(static_cast<float*>(maps) + (at + i), sum);
    }
  }

  // Adds up over the block's pixels and writes to the partial sums [n, parts, c] of one kind; divided by the vector of
  // this sample in `divisors` [n, c], where that is given.
  HSR_DEVICE void write_sums(float* to, const float (&in)[V], const void* divisors, Sums& memory) const {
    const int t = thread_index(), width = V << by.log_lanes;
    sync();  // the memory may still be read
#pragma unroll
    for (int j = 0; j < V; j++) {
      float sum = in[j];
      for (int mask = lanes(); mask < 32; mask *= 2) sum += exchange(sum, mask);
      if (t % 32 < lanes()) memory[t / 32 * width + lane * V + j] = sum;
    }
    sync();
    const int at = block_channel + t;
    if (t >= width || at >= by.c) return;
    float total = 0;
    for (int warp = 0; warp < kWarps; warp++) total += memory[warp * width + t];
    if (divisors) total /= load(static_cast<const float*>(divisors) + (sample * by.c + at));
    store(to + ((sample * by.parts + part) * by.c + at), total);
  }

 private:
  HSR_DEVICE int lanes() const { return 1 << by.log_lanes; }
  HSR_DEVICE int log_pixels() const { return kLogPixels - by.log_lanes; }
  HSR_DEVICE int pixels() const { return 1 << log_pixels(); }
  HSR_DEVICE int channel() const { return block_channel + lane * V; }
  HSR_DEVICE int pixel() const { return first + line * kHeld; }
  HSR_DEVICE int64_t begin() const { return int64_t(part) * by.pixels_per_block; }
  HSR_DEVICE int64_t nhwc_offset() const { return (sample * by.hw + begin()) * by.c + channel(); }
  HSR_DEVICE int64_t either_offset() const {
    return by.nhwc ? nhwc_offset() : (sample * by.c + block_channel) * by.hw + begin();
  }

  // Calls f with where this thread's vectors of V pixels lie, in an image in nchw and in shared memory, and whether
  // there are such pixels.
  template <class F>
  HSR_DEVICE void for_each_vector(F&& f) const {
    const int e = thread_index() * V, row = e >> log_pixels(), p = e & (pixels() - 1);
    const int step = kThreads * V >> log_pixels();  // rows
#pragma unroll
    for (int i = 0; i < kHeld; i++) {
      const int r = row + i * step;
      f(r * by.hw + (first + p), place(r, p / V), block_channel + r < by.c && first + p < size);
    }
  }
  // The same one by one.
  template <class F>
  HSR_DEVICE void for_each_element(F&& f) const {
#pragma unroll 1
    for (int i = 0; i < kHeld * V; i++) {
      const int e = thread_index() + i * kThreads, row = e >> log_pixels(), p = e & (pixels() - 1);
      f(row * by.hw + (first + p), place(row, p / V) + p % V, block_channel + row < by.c && first + p < size);
    }
  }

  // Where V pixels of a channel lie in shared memory: rows of channels, in each of which groups of V pixels change
  // places, so that threads with different channels meet different banks.
  HSR_DEVICE int place(int row, int group) const {
    constexpr int kLog = V * sizeof(T) == 16 ? 3 : 4;  // log2 of the groups in all banks
    const int spread = by.log_lanes < kLog ? kLog - by.log_lanes : 0;
    const int turn = (row / V << spread) & (pixels() / V - 1);
    return (row << log_pixels()) + (group ^ turn) * V;
  }
  // Where this thread's pixels of its first channel lie; the next channel's are pixels() further on.
  HSR_DEVICE int own() const { return place(lane * V, line * kHeld / V) + line * kHeld % V; }

  Tiling by;
  int part, channel_block;
  int lane, line;
  int block_channel;  // the block's first
  int count;          // of this thread's channels that there are; none or less: it has none
  int first, size;    // the tile at hand begins at this pixel of the block, which has so many
};

}  // namespace tiles
}  // namespace cuda
}  // namespace hsr
