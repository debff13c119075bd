// SPDX-License-Identifier: Apache-2.0
// What the kernels around the convolution of a modulated layer share: images [n, c, h * w] cut into tiles [channels,
// pixels], each within one sample.
//
// A thread holds 16 bytes of consecutive channels of two adjacent pixels (8 bytes where it keeps sums of 16-bit
// images), so images in nhwc are read and written as they lie in memory. Images in nchw pass through shared memory,
// which is written and read in rows of pixels on the image's side, and in pairs of pixels on the thread's side.
//
// Pointers to a tile have 64 bits, as images may be of any size; offsets within a tile have 32 bits, except
// those of planes.
#pragma once

#include <initializer_list>

#include "hsr/error.h"
#include "launch.h"

namespace hsr {
namespace cuda {
namespace tiles {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kPixelsPerThread = 2;
// The binary logarithm of a tile's pixels where one thread has all of its channels.
constexpr int kLogPixels = 9;
// Threads side by side along channels: kTargetLanes, or up to kMaxLanes where images have few pixels.
constexpr int kTargetLanes = 8;
constexpr int kMaxLanes = 16;
// The channels of a thread in kernels with sums, which take registers too.
constexpr int kSumChannels = 4;
// About so many blocks fill a GPU; with more work, the blocks of a kernel with sums take several tiles
// each.
constexpr int64_t kTargetBlocks = 2048;

// How images are cut into blocks.
struct Tiling {
  int64_t hw;
  int c;
  int pixels_per_block;
  // The blocks that share the pixels of a sample.
  int parts;
  int channel_blocks;
  int log_lanes;
  // The layout of the images that may have either.
  bool nhwc;
  // Whether images in nhwc are moved in vectors of channels, images in nchw in vectors of pixels, and the vectors with
  // a value per channel four at a time.
  bool channel_vectors, pixel_vectors, coefficient_vectors;
};

// Returns the binary logarithm of the threads side by side along channels. The fewer they are, the more pixels a
// tile has.
inline int log_lanes_of(int64_t c, int64_t hw, int vector) {
  int log = 0;
  const auto has_channels_left = [&] { return int64_t(vector) << log < c; };
  while (1 << log < kTargetLanes && has_channels_left()) log++;
  while (1 << log < kMaxLanes && has_channels_left() && (1 << kLogPixels >> log) / 2 >= hw) log++;
  return log;
}

inline Tiling tiling_of(int64_t n, int64_t c, int64_t hw, int vector, bool sums) {
  require(c <= kMaxInt32Elements >> kLogPixels, "the cuda backend takes images of up to 2097152 channels");
  Tiling t{};
  t.c = int(c), t.hw = hw, t.log_lanes = log_lanes_of(c, hw, vector);
  t.channel_blocks = int(ceil_div(c, int64_t(vector) << t.log_lanes));
  const int64_t pixels = 1 << kLogPixels >> t.log_lanes, per_sample = ceil_div(hw, pixels);
  int64_t tiles = sums ? n * per_sample * t.channel_blocks / kTargetBlocks : 1;
  if (tiles > per_sample) tiles = per_sample;
  if (tiles < 1) tiles = 1;
  require(tiles * pixels < kMaxInt32Elements, "the cuda backend doesn't take images of so many pixels");
  t.pixels_per_block = int(tiles * pixels);
  t.parts = int(ceil_div(per_sample, tiles));
  return t;
}

// The same for the images and vectors of a launch, of which any may be null.
inline Tiling tiling_of(int64_t n, int64_t c, int64_t hw, int vector, bool sums, Layout layout,
                        std::initializer_list<const void*> images, std::initializer_list<const void*> vectors) {
  const auto all_aligned = [](std::initializer_list<const void*> tensors) {
    bool result = true;
    for (const void* tensor : tensors) result = result && aligned(tensor);
    return result;
  };
  Tiling t = tiling_of(n, c, hw, vector, sums);
  t.nhwc = layout == Layout::nhwc;
  t.channel_vectors = c % vector == 0 && all_aligned(images), t.pixel_vectors = hw % vector == 0 && all_aligned(images);
  t.coefficient_vectors = c % 4 == 0 && all_aligned(vectors);
  return t;
}

inline int64_t blocks_of(int64_t n, const Tiling& t) { return n * t.parts * t.channel_blocks; }

// The tiles of a block, one after the other; of the current one this thread holds V channels of kPixelsPerThread
// pixels.
template <class T, int V>
class Tile {
 public:
  static constexpr int kElements = kThreads * kPixelsPerThread * V;
  static constexpr int kSums = kWarps * kMaxLanes * V;
  using Memory = Shared<T, kElements>;
  using Sums = Shared<float, kSums>;

  int64_t sample;

  HSR_DEVICE explicit Tile(const Tiling& image_tiling) : tiling(image_tiling) {
    const int block = int(block_index()), row = block / tiling.channel_blocks, n = row / tiling.parts;
    channel_block = block - row * tiling.channel_blocks;
    sample = n, part = row - n * tiling.parts;
    lane = thread_index() & (lanes() - 1), pixel_lane = thread_index() >> tiling.log_lanes;
    block_channel = channel_block * (V << tiling.log_lanes);
    const int channels_left = tiling.c - channel();
    count = channels_left < V ? channels_left : V;
    first_pixel = 0;
    const int64_t rest = tiling.hw - begin();
    pixel_count = rest < tiling.pixels_per_block ? int(rest) : tiling.pixels_per_block;
  }

  HSR_DEVICE bool has_pixels() const { return first_pixel < pixel_count; }
  HSR_DEVICE void advance() { first_pixel += pixels(); }

  // Return where the pixels of the block begin: in images in nhwc, and in images of the layout `tiling.nhwc` says.
  HSR_DEVICE const T* nhwc_start(const void* images) const { return static_cast<const T*>(images) + nhwc_offset(); }
  HSR_DEVICE T* nhwc_start(void* images) const { return static_cast<T*>(images) + nhwc_offset(); }
  HSR_DEVICE const T* image_start(const void* images) const { return static_cast<const T*>(images) + image_offset(); }
  HSR_DEVICE T* image_start(void* images) const { return static_cast<T*>(images) + image_offset(); }

  // Reads this thread's part of a vector with a value per channel that begins at `start`; `default_value` if it is
  // null.
  HSR_DEVICE void read_vector(const void* vector, int64_t start, float default_value, float (&out)[V]) const {
#pragma unroll
    for (int j = 0; j < V; j += 4) {
      float values[4] = {default_value, default_value, default_value, default_value};
      const int valid_count = count - j;
      if (vector)
        read(static_cast<const float*>(vector) + (start + channel() + j), valid_count,
             tiling.coefficient_vectors && valid_count >= 4, values);
#pragma unroll
      for (int i = 0; i < 4; i++) out[j + i] = values[i];
    }
  }

  // Move this thread's part of an image in nhwc.
  HSR_DEVICE void read_nhwc(const T* image, float (&out)[kPixelsPerThread][V]) const {
    const T* source = image + int64_t(pixel()) * tiling.c;
#pragma unroll
    for (int i = 0; i < kPixelsPerThread; i++) {
      const int valid_count = pixel() + i < pixel_count ? count : 0;
      read(source + i * tiling.c, valid_count, tiling.channel_vectors && valid_count == V, out[i]);
    }
  }
  HSR_DEVICE void write_nhwc(T* image, const float (&in)[kPixelsPerThread][V]) const {
    T* target = image + int64_t(pixel()) * tiling.c;
#pragma unroll
    for (int i = 0; i < kPixelsPerThread; i++) {
      const int valid_count = pixel() + i < pixel_count ? count : 0;
      write(target + i * tiling.c, valid_count, tiling.channel_vectors && valid_count == V, in[i]);
    }
  }

  // Copies a tile of an image in nchw to shared memory, which all threads may read after a barrier.
  HSR_DEVICE void fetch(const T* image, Memory& memory) const {
    if (tiling.pixel_vectors) {
      for_each_vector([&](int64_t offset, int index, bool inside) {
        Pack<T, V> pack{};
        if (inside) pack = load(reinterpret_cast<const Pack<T, V>*>(image + offset));
        shared_store<V>(memory, index, pack);
      });
    } else {
      for_each_element([&](int64_t offset, int index, bool inside) {
        T value{};
        if (inside) value = load(image + offset);
        memory[index] = value;
      });
    }
  }
  // Copies it back. Each thread copies the elements that it fetched, so a fetch may follow without a barrier.
  HSR_DEVICE void flush(Memory& memory, T* image) const {
    if (tiling.pixel_vectors) {
      for_each_vector([&](int64_t offset, int index, bool inside) {
        if (inside) store(reinterpret_cast<Pack<T, V>*>(image + offset), shared_load<V>(memory, index));
      });
    } else {
      for_each_element([&](int64_t offset, int index, bool inside) {
        if (!inside) return;
        const T value = memory[index];
        store(image + offset, value);
      });
    }
  }

  // Move this thread's part of a tile in shared memory.
  HSR_DEVICE void read_memory(Memory& memory, float (&out)[kPixelsPerThread][V]) const {
    const int index = thread_index_in_memory();
#pragma unroll
    for (int j = 0; j < V; j++) {
      const Pack<T, kPixelsPerThread> pair = shared_load<kPixelsPerThread>(memory, index + (j << log_pixels()));
#pragma unroll
      for (int i = 0; i < kPixelsPerThread; i++) out[i][j] = widen(pair.v[i]);
    }
  }
  HSR_DEVICE void write_memory(Memory& memory, const float (&in)[kPixelsPerThread][V]) const {
    const int index = thread_index_in_memory();
#pragma unroll
    for (int j = 0; j < V; j++) {
      Pack<T, kPixelsPerThread> pair;
#pragma unroll
      for (int i = 0; i < kPixelsPerThread; i++) pair.v[i] = narrow(in[i][j], T{});
      shared_store<kPixelsPerThread>(memory, index + (j << log_pixels()), pair);
    }
  }

  // Reads this thread's pixels of a map of one channel, which begins at `start`; 0 if it is null.
  HSR_DEVICE void read_map(const void* map, int64_t start, float (&out)[kPixelsPerThread]) const {
    const int64_t offset = start + begin() + pixel();
#pragma unroll
    for (int i = 0; i < kPixelsPerThread; i++)
      out[i] = map && pixel() + i < pixel_count ? load(static_cast<const float*>(map) + (offset + i)) : 0.0f;
  }
  // Adds up over the channels of the tile and writes the sums to maps [channel_blocks, n, hw].
  HSR_DEVICE void write_map(void* maps, int64_t samples, const float (&in)[kPixelsPerThread]) const {
    const int64_t offset = (channel_block * samples + sample) * tiling.hw + begin() + pixel();
#pragma unroll
    for (int i = 0; i < kPixelsPerThread; i++) {
      const float sum = sum_over_lanes(in[i], lanes());
      if (lane == 0 && pixel() + i < pixel_count) store(static_cast<float*>(maps) + (offset + i), sum);
    }
  }

  // Adds up over the pixels of the block and writes the partial sums [n, parts, c] of one kind, divided by `divisors`
  // [n, c] unless that is null.
  HSR_DEVICE void write_sums(float* partial, const float (&in)[V], const void* divisors, Sums& memory) const {
    const int t = thread_index(), width = V << tiling.log_lanes;
    // Other threads may still read the memory.
    sync();
#pragma unroll
    for (int j = 0; j < V; j++) {
      float sum = in[j];
      for (int mask = lanes(); mask < 32; mask *= 2) sum += exchange(sum, mask);
      if (t % 32 < lanes()) memory[t / 32 * width + lane * V + j] = sum;
    }
    sync();
    const int channel = block_channel + t;
    if (t >= width || channel >= tiling.c) return;
    float total = 0;
    for (int warp = 0; warp < kWarps; warp++) total += memory[warp * width + t];
    if (divisors) total /= load(static_cast<const float*>(divisors) + (sample * tiling.c + channel));
    store(partial + ((sample * tiling.parts + part) * tiling.c + channel), total);
  }

 private:
  HSR_DEVICE int lanes() const { return 1 << tiling.log_lanes; }
  HSR_DEVICE int log_pixels() const { return kLogPixels - tiling.log_lanes; }
  HSR_DEVICE int pixels() const { return 1 << log_pixels(); }
  HSR_DEVICE int channel() const { return block_channel + lane * V; }
  HSR_DEVICE int pixel() const { return first_pixel + pixel_lane * kPixelsPerThread; }
  HSR_DEVICE int64_t begin() const { return int64_t(part) * tiling.pixels_per_block; }
  HSR_DEVICE int64_t nhwc_offset() const { return (sample * tiling.hw + begin()) * tiling.c + channel(); }
  HSR_DEVICE int64_t image_offset() const {
    return tiling.nhwc ? nhwc_offset() : (sample * tiling.c + block_channel) * tiling.hw + begin();
  }

  // Calls f(offset in an image in nchw, index in shared memory, whether the image has it) for each vector of V pixels
  // that this thread copies.
  template <class F>
  HSR_DEVICE void for_each_vector(F&& f) const {
    const int e = thread_index() * V, row = e >> log_pixels(), p = e & (pixels() - 1);
    const int row_step = kThreads * V >> log_pixels();
#pragma unroll
    for (int i = 0; i < kPixelsPerThread; i++) {
      const int r = row + i * row_step;
      f(r * tiling.hw + (first_pixel + p), memory_index(r, p / V),
        block_channel + r < tiling.c && first_pixel + p < pixel_count);
    }
  }
  // The same for single elements.
  template <class F>
  HSR_DEVICE void for_each_element(F&& f) const {
#pragma unroll 1
    for (int i = 0; i < kPixelsPerThread * V; i++) {
      const int e = thread_index() + i * kThreads, row = e >> log_pixels(), p = e & (pixels() - 1);
      f(row * tiling.hw + (first_pixel + p), memory_index(row, p / V) + p % V,
        block_channel + row < tiling.c && first_pixel + p < pixel_count);
    }
  }

  // Returns the index of a group of V pixels of a channel in shared memory, which holds a row per channel. The groups
  // of a row are permuted, so that threads with different channels use different banks.
  HSR_DEVICE int memory_index(int row, int group) const {
    // The binary logarithm of the groups in all banks.
    constexpr int kLogBankGroups = V * sizeof(T) == 16 ? 3 : 4;
    const int spread = tiling.log_lanes < kLogBankGroups ? kLogBankGroups - tiling.log_lanes : 0;
    const int permutation = (row / V << spread) & (pixels() / V - 1);
    return (row << log_pixels()) + (group ^ permutation) * V;
  }
  // Returns the index of this thread's pixels of its first channel; those of the next channel are pixels()
  // further on.
  HSR_DEVICE int thread_index_in_memory() const {
    return memory_index(lane * V, pixel_lane * kPixelsPerThread / V) + pixel_lane * kPixelsPerThread % V;
  }

  Tiling tiling;
  int part, channel_block;
  // This thread's place along channels and along pixels.
  int lane, pixel_lane;
  // The first channel of the block.
  int block_channel;
  // How many of this thread's channels exist; 0 or less if none does.
  int count;
  // The first pixel of the current tile within the block, and the pixels of the block.
  int first_pixel, pixel_count;
};

}  // namespace tiles
}  // namespace cuda
}  // namespace hsr
