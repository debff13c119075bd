// SPDX-License-Identifier: Apache-2.0
// filtered_lrelu: upsampling, leaky ReLU and downsampling in one pass. Of the upsampled images only the rows that one
// output row needs exist at a time, in the cache. An upsampled row is a sum of image rows that were filtered along x;
// an output row is a sum of upsampled rows that is filtered along x.
#include "fir_row.h"
#include "kernels.h"

namespace hsr {
namespace HSR_ISA {
namespace {

// In nhwc a thread works on so many channels at a time: the rows that it keeps then fit in the second-level cache.
constexpr int64_t kChannelsPerBlock = 16;
// A thread takes about so many upsampled elements at a time.
constexpr int64_t kElementsPerChunk = 1 << 18;
// The rows of a chunk are so many times the downsampling taps, since chunks compute the rows between them twice.
constexpr int64_t kMinTapsPerChunk = 4;
// The sums of a chunk: one per channel of a block, or independent parts of that of a plane.
constexpr int64_t kSums = kChannelsPerBlock;
// The bits of the mask's two-bit codes.
constexpr int kBelowZero = 1, kClamped = 2;

// The leaky ReLU with gain and clamp, in the accumulation type A.
template <class A>
struct LeakyRelu {
  // No number compares with a limit of NaN, so it limits nothing.
  A alpha, gain, limit;

  explicit LeakyRelu(const ActivationParams& p)
      : alpha(A(p.alpha)), gain(A(p.gain)), limit(p.clamp < 0 ? A(NAN) : A(p.clamp)) {}

  A value(A x) const {
    const A y = (x > A(0) ? x : x * alpha) * gain, below_limit = y > limit ? limit : y;
    return below_limit < -limit ? -limit : below_limit;
  }
  // y is value(x).
  int code(A x, A y) const {
    const int above = y >= limit ? kClamped : 0, below = y <= -limit ? kClamped : 0;
    return (x > A(0) ? 0 : kBelowZero) | above | below;
  }
  // The gradient of x, given that of y and the code.
  A gradient(A dy, int code) const {
    const A dx = dy * gain, below_zero = dx * alpha;
    const A slope = code & kBelowZero ? below_zero : dx;
    return code & kClamped ? A(0) : slope;
  }
};

template <class A>
void activate(LeakyRelu<A> act, A* row, int64_t n) {
  for (int64_t i = 0; i < n; i++) row[i] = act.value(row[i]);
}

// A row of the mask holds the codes of so many elements after each other: of its bytes, byte i has those of elements i,
// i + 16, i + 32 and i + 48, so that loops touch neither elements nor bytes with a stride.
constexpr int64_t kBytesPerMaskBlock = 16, kElementsPerMaskBlock = 4 * kBytesPerMaskBlock;

// Calls f(block of elements, block of bytes) for a row and its mask. The last block may reach beyond the row: it is
// worked on in a copy.
template <class A, class Byte, class F>
inline void for_each_mask_block(A* row, int64_t n, Byte* mask, F&& f) {
  for (; n >= kElementsPerMaskBlock;
       n -= kElementsPerMaskBlock, row += kElementsPerMaskBlock, mask += kBytesPerMaskBlock)
    f(row, mask);
  if (n == 0) return;
  A block[kElementsPerMaskBlock] = {};
  std::memcpy(block, row, size_t(n) * sizeof(A));
  f(block, mask);
  std::memcpy(row, block, size_t(n) * sizeof(A));
}

// The codes of a block stand in an array of int in between, short loops aren't unrolled and the leaky ReLU is captured
// by value, since a store might change what a reference refers to: only so does the compiler vectorise all of it.
template <class A>
void activate_and_note(LeakyRelu<A> act, A* row, int64_t n, uint8_t* mask) {
  for_each_mask_block(row, n, mask, [act](A* __restrict block, uint8_t* __restrict bytes) {
    int codes[kElementsPerMaskBlock];
    for (int i = 0; i < kElementsPerMaskBlock; i++) {
      const A x = block[i], y = act.value(x);
      block[i] = y;
      codes[i] = act.code(x, y);
    }
#pragma GCC unroll 1
    for (int i = 0; i < kBytesPerMaskBlock; i++)
      bytes[i] = uint8_t(codes[i] | codes[i + 16] << 2 | codes[i + 32] << 4 | codes[i + 48] << 6);
  });
}

template <class A>
void apply_mask(LeakyRelu<A> act, A* row, int64_t n, const uint8_t* mask) {
  for_each_mask_block(row, n, mask, [act](A* __restrict block, const uint8_t* __restrict bytes) {
    int codes[kElementsPerMaskBlock];
#pragma GCC unroll 1
    for (int i = 0; i < kBytesPerMaskBlock; i++) {
      const int byte = bytes[i];
      codes[i] = byte, codes[i + 16] = byte >> 2, codes[i + 32] = byte >> 4, codes[i + 48] = byte >> 6;
    }
    for (int i = 0; i < kElementsPerMaskBlock; i++) block[i] = act.gradient(block[i], codes[i]);
  });
}

// Consecutive rows, of which the last `count` are kept.
template <class A>
struct Ring {
  A* memory;
  int64_t stride, count;

  A* row(int64_t index) const { return memory + index % count * stride; }
};

// Rows of several channels have as many as each of these would have; they need no more.
int64_t bytes_per_mask_row(int64_t width) {
  return (width + kElementsPerMaskBlock - 1) / kElementsPerMaskBlock * kBytesPerMaskBlock;
}

int64_t rounded(int64_t elements) { return (elements + 15) / 16 * 16; }

// Computes output rows of a plane (nchw), or of a block of channels of a sample (nhwc).
template <class T>
struct Pipeline {
  using A = Accumulator<T>;

  const FilteredLreluParams& p;
  Upfirdn2dParams up, down;
  const Horizontal<A>*up_rows, *down_rows;
  LeakyRelu<A> act;
  // The elements of a pixel, of an upsampled row, and of each row of the two rings.
  int64_t elements, line, x_stride, upsampled_stride;
  // The image rows that an upsampled row needs, and the bytes of a row of the mask.
  int64_t x_rows, mask_bytes;

  // All threads share the plans of the rows, in the scratch memory `slot` and the one after.
  Pipeline(const FilteredLreluParams& params, int64_t channels, int slot)
      : p(params), up(params.up), down(params.down), act(params.act) {
    up.c = down.c = channels;
    up_rows = plan_rows<A>(up, scratch(slot, plan_bytes<A>(up)));
    down_rows = plan_rows<A>(down, scratch(slot + 1, plan_bytes<A>(down)));
    elements = up_rows->elements;
    line = up.ow * elements;
    x_stride = rounded(up.separable ? line : up_rows->staged_elements());
    upsampled_stride = rounded(down_rows->staged_elements());
    x_rows = (up.taps_y + up.up_y - 1) / up.up_y;
    mask_bytes = bytes_per_mask_row(up.ow) * elements;
  }

  size_t working_bytes() const { return size_t(2 * staged_elements() + ring_elements() + work_elements()) * sizeof(A); }

  // The first upsampled row that an output row needs, and the one after the last.
  int64_t first_needed(int64_t oy) const { return inside(oy * down.down_y - down.pad_y); }
  int64_t end_needed(int64_t oy) const { return inside(oy * down.down_y - down.pad_y + down.taps_y); }

  // Computes the output rows [first_row, end_row) of the block that begins with `channel`. Writes their kSums partial
  // sums, and the rows of the mask from the first that they need up to the first that the next output row needs.
  void run(int64_t sample, int64_t channel, int64_t first_row, int64_t end_row, void* memory, double* sums) const {
    Block block(*this, sample, channel, first_row, static_cast<A*>(memory));
    const bool is_last = end_row == down.oh;
    const int64_t end_of_mask = is_last ? up.oh : first_needed(end_row);
    for (int64_t oy = first_row; oy < end_row; oy++) {
      block.upsample_to(end_needed(oy), end_of_mask);
      block.output_row(oy);
    }
    if (p.writes_mask) block.upsample_to(end_of_mask, end_of_mask);
    if (sums) std::memcpy(sums, block.sums, sizeof(block.sums));
  }

 private:
  int64_t inside(int64_t row) const { return row < 0 ? 0 : row < up.oh ? row : up.oh; }
  int64_t staged_elements() const { return rounded(up_rows->staged_elements()) + upsampled_stride; }
  int64_t ring_elements() const { return x_rows * x_stride + down.taps_y * upsampled_stride; }
  int64_t work_elements() const {
    const int64_t up_bytes = up_rows->working_bytes(), down_bytes = down_rows->working_bytes();
    return rounded((up_bytes > down_bytes ? up_bytes : down_bytes) / int64_t(sizeof(A))) + rounded(down.ow * elements);
  }

  // What a thread works on: a block, and the rows of it that are in the cache.
  struct Block {
    const Pipeline& pipeline;
    const T* source;
    T* target;
    uint8_t* mask;
    // From pixel to pixel in memory.
    int64_t pixel_stride;
    A bias[kChannelsPerBlock] = {};
    double sums[kSums] = {};
    // Image rows, filtered along x if the filter is separable, and upsampled rows with the margins that downsampling
    // needs.
    Ring<A> x, upsampled;
    A *staged_x, *staged_sum, *work, *out;
    // The rows that come next.
    int64_t next_x, next_upsampled;

    Block(const Pipeline& of, int64_t sample, int64_t channel, int64_t first_row, A* memory) : pipeline(of) {
      const FilteredLreluParams& p = of.p;
      const bool nhwc = p.up.layout == Layout::nhwc;
      const int64_t c = p.up.c, plane = sample * c + channel;
      pixel_stride = nhwc ? c : 1;
      source =
          static_cast<const T*>(p.up.x) + (nhwc ? sample * c * p.up.h * p.up.w + channel : plane * p.up.h * p.up.w);
      target = static_cast<T*>(p.down.y) +
               (nhwc ? sample * c * p.down.oh * p.down.ow + channel : plane * p.down.oh * p.down.ow);
      mask = p.mask ? p.mask + plane * p.up.oh * bytes_per_mask_row(p.up.ow) : nullptr;
      if (p.b) {
        A buffer[kChannelsPerBlock];
        const A* b = load(static_cast<const T*>(p.b) + channel, buffer, of.elements);
        for (int64_t i = 0; i < of.elements; i++) bias[i] = b[i];
      }
      x = {memory, of.x_stride, of.x_rows};
      upsampled = {x.memory + of.x_rows * of.x_stride, of.upsampled_stride, of.down.taps_y};
      staged_x = upsampled.memory + of.down.taps_y * of.upsampled_stride;
      staged_sum = staged_x + rounded(of.up_rows->staged_elements());
      out = staged_sum + of.upsampled_stride;
      work = out + rounded(of.down.ow * of.elements);
      if (!of.up.separable)
        for (int64_t i = 0; i < x.count; i++) of.up_rows->clear_margins(x.row(i));
      for (int64_t i = 0; i < upsampled.count; i++) of.down_rows->clear_margins(upsampled.row(i));
      of.up_rows->clear_margins(staged_x);
      of.down_rows->clear_margins(staged_sum);
      // No output row may need the first rows, but they have a mask.
      next_upsampled = first_row == 0 && p.writes_mask ? 0 : of.first_needed(first_row);
      const int64_t first_x = tap_range(next_upsampled, of.up.up_y, 1, of.up.pad_y).pixel;
      next_x = first_x > 0 ? first_x : 0;
    }

    // Reads an image row with its bias to the centre of a staged row.
    void read(int64_t row, A* staged) const {
      const Horizontal<A>& h = *pipeline.up_rows;
      const T* src = source + row * h.w * pixel_stride;
      A* centre = staged + h.left_margin * h.elements;
      if (pixel_stride == 1) {
        const A* pixels = load(src, centre, h.w);
        const A plane_bias = bias[0];
        for (int64_t i = 0; i < h.w; i++) centre[i] = pixels[i] + plane_bias;
        return;
      }
      for (int64_t i = 0; i < h.w; i++, src += pixel_stride, centre += h.elements) {
        const A* pixel = load(src, centre, h.elements);
        for (int64_t e = 0; e < h.elements; e++) centre[e] = pixel[e] + bias[e];
      }
    }

    // Makes the image rows before `end` available: filtered along x if the filter is separable, staged if it isn't.
    void read_to(int64_t end) {
      if (end > pipeline.up.h) end = pipeline.up.h;
      for (; next_x < end; next_x++) {
        if (pipeline.up.separable) {
          read(next_x, staged_x);
          pipeline.up_rows->run(staged_x, work, false, x.row(next_x));
        } else {
          read(next_x, x.row(next_x));
        }
      }
    }

    // Makes the upsampled rows before `end` available; those before `end_of_mask` write their rows of the mask.
    void upsample_to(int64_t end, int64_t end_of_mask) {
      for (; next_upsampled < end; next_upsampled++) {
        A* row = upsampled.row(next_upsampled) + pipeline.down_rows->left_margin * pipeline.elements;
        upsample(next_upsampled, row);
        uint8_t* mask_row = mask ? mask + next_upsampled * pipeline.mask_bytes : nullptr;
        if (mask_row && !pipeline.p.writes_mask) {
          apply_mask(pipeline.act, row, pipeline.line, mask_row);
        } else if (mask_row && next_upsampled < end_of_mask) {
          activate_and_note(pipeline.act, row, pipeline.line, mask_row);
          // A row of several channels leaves some of their bytes unused.
          const int64_t used = bytes_per_mask_row(pipeline.line);
          std::memset(mask_row + used, 0, size_t(pipeline.mask_bytes - used));
        } else {
          activate(pipeline.act, row, pipeline.line);
        }
      }
    }

    void upsample(int64_t uy, A* row) {
      const Upfirdn2dParams& up = pipeline.up;
      const TapRange range = tap_range(uy, up.up_y, 1, up.pad_y);
      const int count = tap_count(up.taps_y, range.tap, up.up_y);
      read_to(range.pixel + count);
      const A* rows[kMaxTaps];
      int taps[kMaxTaps], count_inside = 0;
      for (int j = 0; j < count; j++) {
        const int64_t y = range.pixel + j;
        if (y < 0 || y >= up.h) continue;
        taps[count_inside] = range.tap + j * up.up_y;
        rows[count_inside++] = x.row(y);
      }
      if (up.separable) {
        combine_taps(up, rows, taps, count_inside, row, pipeline.line);
      } else {
        run_rows(pipeline.up_rows, rows, taps, count_inside, row, pipeline.line);
      }
    }

    void output_row(int64_t oy) {
      const Upfirdn2dParams& down = pipeline.down;
      const Horizontal<A>& h = *pipeline.down_rows;
      const int64_t first = oy * down.down_y - down.pad_y, end = pipeline.end_needed(oy),
                    margin = h.left_margin * h.elements;
      const A* rows[kMaxTaps];
      int taps[kMaxTaps], count_inside = 0;
      for (int64_t y = pipeline.first_needed(oy); y < end; y++) {
        taps[count_inside] = int(y - first);
        rows[count_inside++] = upsampled.row(y) + (down.separable ? margin : 0);
      }
      T* dst = target + oy * down.ow * pixel_stride;
      A* result = pixel_stride == 1 ? stage(dst, out) : out;
      if (down.separable) {
        combine_taps(down, rows, taps, count_inside, staged_sum + margin, pipeline.line);
        h.run(staged_sum, work, false, result);
      } else {
        run_rows(&h, rows, taps, count_inside, result, down.ow * h.elements);
      }
      if (pipeline.p.sums) add_up(result);
      write(result, dst);
    }

    void add_up(const A* result) {
      const int64_t n = pipeline.down.ow * pipeline.elements, step = pixel_stride == 1 ? kSums : pipeline.elements;
      for (int64_t i = 0; i < n; i += step)
        for (int64_t l = 0; l < step && i + l < n; l++) sums[l] += double(result[i + l]);
    }

    void write(const A* result, T* dst) const {
      if (pixel_stride == 1) return commit(result, dst, pipeline.down.ow);
      const int64_t elements = pipeline.elements;
      for (int64_t i = 0; i < pipeline.down.ow; i++, dst += pixel_stride, result += elements) {
        if constexpr (sizeof(T) == sizeof(A)) {
          std::memcpy(dst, result, size_t(elements) * sizeof(T));
        } else {
          commit(result, dst, elements);
        }
      }
    }

    // Filters along the columns with a separable filter.
    static void combine_taps(const Upfirdn2dParams& fir, const A* const* rows, const int* taps, int count, A* out,
                             int64_t n) {
      A weights[kMaxTaps];
      for (int j = 0; j < count; j++) weights[j] = A(fir.taps[taps[j]]);
      combine(rows, weights, count, false, out, n);
    }

    // Adds up staged rows, each filtered with its own row of taps.
    void run_rows(const Horizontal<A>* filters, const A* const* rows, const int* taps, int count, A* out,
                  int64_t n) const {
      for (int j = 0; j < count; j++) filters[taps[j]].run(rows[j], work, j > 0, out);
      if (count == 0) std::memset(static_cast<void*>(out), 0, size_t(n) * sizeof(A));
    }
  };
};

template <class T>
void filtered_lrelu_kernel(const FilteredLreluParams& p, int threads) {
  const bool nhwc = p.up.layout == Layout::nhwc;
  const int64_t c = p.up.c, width = !nhwc ? 1 : c < kChannelsPerBlock ? c : kChannelsPerBlock;
  if (p.up.n * c * p.down.oh * p.down.ow == 0) return;
  const int64_t blocks_per_sample = (c + width - 1) / width, blocks = p.up.n * blocks_per_sample;
  // The last channels of a sample may be fewer than a block.
  const int64_t remainder = c % width;
  const Pipeline<T> pipeline(p, width, 6), last_pipeline(p, remainder ? remainder : width, 4);
  const int64_t min_rows = kMinTapsPerChunk * p.down.taps_y / p.down.down_y + 1;
  int64_t rows_per_chunk = kElementsPerChunk / (pipeline.line * p.down.down_y);
  if (rows_per_chunk < min_rows) rows_per_chunk = min_rows;
  const int64_t chunks_per_block = (p.down.oh + rows_per_chunk - 1) / rows_per_chunk;
  const int64_t chunks = blocks * chunks_per_block;
  double* sums = p.sums ? static_cast<double*>(scratch(3, size_t(chunks * kSums) * sizeof(double))) : nullptr;
  for_each_chunk(chunks, threads, [&](int64_t chunk) {
    const int64_t block = chunk / chunks_per_block, first_row = chunk % chunks_per_block * rows_per_chunk;
    const int64_t end_row = first_row + rows_per_chunk < p.down.oh ? first_row + rows_per_chunk : p.down.oh;
    const int64_t channel = block % blocks_per_sample * width;
    (channel + width > c ? last_pipeline : pipeline)
        .run(block / blocks_per_sample, channel, first_row, end_row, scratch(0, pipeline.working_bytes()),
             sums ? sums + chunk * kSums : nullptr);
  });
  // The sums of chunks are added up in order: the bits are the same for any number of threads.
  for (int64_t i = 0; p.sums && i < chunks * kSums; i++) {
    const int64_t channel = i / kSums / chunks_per_block % blocks_per_sample * width + (nhwc ? i % kSums : 0);
    if (channel < c) p.sums[channel] += sums[i];
  }
}

}  // namespace

void launch_filtered_lrelu(const FilteredLreluParams& p, int threads) {
  with_dtype(p.up.dtype, [&](auto zero) { filtered_lrelu_kernel<decltype(zero)>(p, threads); });
}

}  // namespace HSR_ISA
}  // namespace hsr
