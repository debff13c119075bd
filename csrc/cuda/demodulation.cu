// SPDX-License-Identifier: Apache-2.0
// Computes what the convolution and the epilogue of a demodulating layer take from its parameters, in one launch: the
// weight in the dtype, tap order and layout of the convolution, the styles in float32, and the demodulation
// coefficients
//   d[n, o] = rsqrt(sum over c of styles[n, c]^2 * energy[o, c] + eps)
//   with energy[o, c] = sum over k of weight[o, c, k]^2.
// For float16 results, weight and styles are first divided by their largest magnitudes; the factors cancel in d.
//
// A block takes one output channel. Its row of weights passes through shared memory, which then holds the energy of
// each input channel. The warps take the samples in turn.
//
// The backward pass takes two launches. In the first one a block has the row of an output channel again, for the
// gradient of weight and the energies; the second one multiplies these for the gradient of styles. All sums have a
// fixed order.
#include <cmath>

#include "hsr/error.h"
#include "launch.h"
#include "launchers.h"

namespace hsr {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
// Shared memory holds so many weights at a time, such as 512 channels of 3 x 3 taps.
constexpr int kMaxPieceWeights = 4608;
constexpr int kMaxPieceChannels = 1024;
constexpr int kMaxSamplesPerBlock = 256;
constexpr int kWeightsPerRead = 4;
// The samples and the channels of a block that computes the gradient of styles.
constexpr int kStyleSamples = 4;
constexpr int kStyleChannels = 32;
constexpr int kStyleSums = kWarps * kStyleSamples * kStyleChannels;
constexpr float kEps = 1e-8f;
// Smaller magnitudes count as this, so that a channel or sample of zeros stays zero.
constexpr float kMinMagnitude = 1e-7f;

// How a row of weights is cut.
struct Pieces {
  // The channels of a piece.
  int channels;
  int count;
  // Whether weights can be read kWeightsPerRead at a time.
  bool vector_reads;
  // The magnitude of the largest prescaled weight.
  float magnitude;
};

HSR_DEVICE float maximum(float a, float b) { return a > b ? a : b; }
HSR_DEVICE float max_over_lanes(float value) {
  for (int mask = 1; mask < 32; mask *= 2) value = maximum(value, exchange(value, mask));
  return value;
}

// The channels [first_channel, first_channel + channels) of a row of weights.
struct Piece {
  int first_channel, channels;
};

HSR_DEVICE Piece piece_at(const DemodulationOperands& p, const Pieces& pieces, int i) {
  const int first_channel = i * pieces.channels, rest = int(p.c) - first_channel;
  return {first_channel, rest < pieces.channels ? rest : pieces.channels};
}

// Returns the offset of a weight in a row of [c, k] or, in channels_last, of [k, c].
HSR_DEVICE int row_offset(const DemodulationOperands& p, bool channels_last, int channel, int tap) {
  return channels_last ? tap * int(p.c) + channel : channel * int(p.k) + tap;
}

// Calls f(channel, tap) for this thread's weights of a piece; those of neighbouring threads are neighbours along
// channels or along taps.
template <class F>
HSR_DEVICE void for_each_weight(const Piece& piece, int k, bool along_channels, F&& f) {
  const int inner_size = along_channels ? piece.channels : k;
  const int step_outer = kThreads / inner_size, step_inner = kThreads % inner_size;
  int outer = thread_index() / inner_size, inner = thread_index() % inner_size;
#pragma unroll 4
  for (int e = thread_index(); e < piece.channels * k; e += kThreads) {
    f(along_channels ? inner : outer, along_channels ? outer : inner);
    outer += step_outer, inner += step_inner;
    if (inner >= inner_size) outer++, inner -= inner_size;
  }
}

using Weights = Shared<float, kMaxPieceWeights>;

// Stages a piece of a row of weights in shared memory as [channels, k]; returns the largest magnitude that this thread
// has read.
template <class T>
HSR_DEVICE float stage_weights(const DemodulationOperands& p, const T* row, const Piece& piece, bool vector_reads,
                               Weights& memory) {
  const int k = int(p.k), count = piece.channels * k;
  float magnitude = 0;
  if (p.weight_channels_last) {
    for_each_weight(piece, k, true, [&](int channel, int tap) {
      const float value = widen(load(row + row_offset(p, true, piece.first_channel + channel, tap)));
      memory[channel * k + tap] = value;
      magnitude = maximum(magnitude, std::fabs(value));
    });
    return magnitude;
  }
#pragma unroll 4
  for (int e = thread_index() * kWeightsPerRead; e < count; e += kThreads * kWeightsPerRead) {
    float values[kWeightsPerRead];
    read(row + (piece.first_channel * k + e), count - e, vector_reads && count - e >= kWeightsPerRead, values);
#pragma unroll
    for (int j = 0; j < kWeightsPerRead; j++) magnitude = maximum(magnitude, std::fabs(values[j]));
    shared_store<kWeightsPerRead>(memory, e,
                                  Pack<float, kWeightsPerRead>{{values[0], values[1], values[2], values[3]}});
  }
  return magnitude;
}

// Returns what a row of weights is multiplied by, from the largest magnitude that each thread has read. It has a
// barrier.
HSR_DEVICE float row_factor(float magnitude, const Pieces& pieces, Shared<float, kWarps>& warp_magnitudes) {
  magnitude = max_over_lanes(magnitude);
  if (thread_index() % 32 == 0) warp_magnitudes[thread_index() / 32] = magnitude;
  sync();
  for (int i = 0; i < kWarps; i++) magnitude = maximum(magnitude, warp_magnitudes[i]);
  return pieces.magnitude / maximum(magnitude, kMinMagnitude);
}

// Returns the sum of a channel's squares.
HSR_DEVICE float energy_of(int channel, int k, float factor, Weights& memory) {
  float sum = 0;
  for (int tap = 0; tap < k; tap++) {
    const float value = memory[channel * k + tap] * factor;
    sum += value * value;
  }
  return sum;
}

// Returns what a sample's styles are multiplied by, to every lane of the warp.
template <class S>
HSR_DEVICE float style_factor(const S* styles, int c) {
  float magnitude = 0;
#pragma unroll 8
  for (int i = thread_index() % 32; i < c; i += 32) magnitude = maximum(magnitude, std::fabs(widen(load(styles + i))));
  return 1 / maximum(max_over_lanes(magnitude), kMinMagnitude);
}

// Writes a piece of a row of w, which begins at `start`, in the order of its layout.
HSR_DEVICE void write_row(const DemodulationParams& p, int64_t start, const Piece& piece, float factor,
                          Weights& memory) {
  const int k = int(p.k);
  for_each_weight(piece, k, p.channels_last, [&](int channel, int tap) {
    const int offset = row_offset(p, p.channels_last, piece.first_channel + channel, tap);
    store_as(p.dtype, p.w, start + offset, memory[channel * k + (p.flip ? k - 1 - tap : tap)] * factor);
  });
}

// Returns the sum of (styles * factor)^2 * energy over the channels of a piece; writes styles * factor to `s` unless
// that is null.
template <class S>
HSR_DEVICE float dot(const S* styles, float factor, const Piece& piece, Shared<float, kMaxPieceChannels>& energy,
                     float* s) {
  float sum = 0;
#pragma unroll 8
  for (int i = thread_index() % 32; i < piece.channels; i += 32) {
    const float style = widen(load(styles + (piece.first_channel + i))) * factor;
    sum += style * style * energy[i];
    if (s) store(s + (piece.first_channel + i), style);
  }
  return sum_over_lanes(sum, 32);
}

// Calls f with a pointer to elements of the storage type.
template <class F>
HSR_DEVICE float with_elements(const void* elements, DType dtype, F&& f) {
  if (dtype == DType::float32) return f(static_cast<const float*>(elements));
  if (dtype == DType::float16) return f(static_cast<const half*>(elements));
  return f(static_cast<const bfloat16*>(elements));
}

// Stages the row of weights that begins at `start`, and calls f(index, piece, factor) with each of its pieces, after a
// barrier; factor is what the weights have yet to be multiplied by. f ends with a barrier after its last access to the
// piece. A row of several pieces takes a pass before, of negative steps, for its largest magnitude.
template <class F>
HSR_DEVICE void for_each_piece(const DemodulationOperands& p, const Pieces& pieces, int64_t start, Weights& memory,
                               Shared<float, kWarps>& warp_magnitudes, F&& f) {
  float magnitude = 0, factor = 1;
  for (int step = p.prescale && pieces.count > 1 ? -pieces.count : 0; step < pieces.count; step++) {
    const Piece piece = piece_at(p, pieces, step < 0 ? step + pieces.count : step);
    magnitude = maximum(magnitude, with_elements(p.weight, p.weight_dtype, [&](auto* weight) {
                          return stage_weights(p, weight + start, piece, pieces.vector_reads, memory);
                        }));
    if (p.prescale && step == 0) {
      factor = row_factor(magnitude, pieces, warp_magnitudes);
    } else {
      sync();
    }
    if (step >= 0) f(step, piece, factor);
  }
}

HSR_KERNEL(kThreads) demodulation_kernel(DemodulationParams p, Pieces pieces) {
  HSR_SHARED(float, kMaxPieceWeights, memory);
  HSR_SHARED(float, kMaxPieceChannels, energy);
  HSR_SHARED(float, kMaxSamplesPerBlock, sums);
  HSR_SHARED(float, kMaxSamplesPerBlock, style_factors);
  HSR_SHARED(float, kWarps, warp_magnitudes);
  const int o = int(block_index() % p.o), warp = thread_index() / 32, lane = thread_index() % 32;
  const int64_t first_sample = block_index() / p.o * kMaxSamplesPerBlock, start = o * p.c * p.k;
  const int samples = p.n - first_sample < kMaxSamplesPerBlock ? int(p.n - first_sample) : kMaxSamplesPerBlock;
  const auto with_styles = [&](int j, auto&& f) {
    const int64_t offset = (first_sample + j) * p.c;
    return with_elements(p.styles, p.styles_dtype, [&](auto* styles) { return f(styles + offset); });
  };

  for_each_piece(p, pieces, start, memory, warp_magnitudes, [&](int step, const Piece& piece, float factor) {
    if (p.prescale && step == 0) {
      for (int j = warp; j < samples; j += kWarps) {
        const float of_sample = with_styles(j, [&](auto* styles) { return style_factor(styles, int(p.c)); });
        if (lane == 0) style_factors[j] = of_sample;
      }
    }
    for (int channel = thread_index(); channel < piece.channels; channel += kThreads)
      energy[channel] = energy_of(channel, int(p.k), factor, memory);
    if (p.w && first_sample == 0) write_row(p, start, piece, factor, memory);
    sync();
    for (int j = warp; j < samples; j += kWarps) {
      const int64_t n = first_sample + j;
      const float of_sample = p.prescale ? float(style_factors[j]) : 1.0f;
      // Only one block writes the styles of a sample.
      float* s = p.s && n % p.o == o ? p.s + n * p.c : nullptr;
      float sum = with_styles(j, [&](auto* styles) { return dot(styles, of_sample, piece, energy, s); });
      if (lane != 0) continue;
      if (step > 0) sum += sums[j];
      sums[j] = sum;
      if (step + 1 == pieces.count) store(p.d + (n * p.o + o), 1 / std::sqrt(sum + kEps));
    }
  });
}

// Returns twice the gradient of the sum under the root of d.
HSR_DEVICE float root_gradient(const DemodulationBwdParams& p, int64_t sample, int64_t o) {
  const int64_t index = sample * p.o + o;
  const float d = load(p.d + index);
  return load(p.dd + index) * d * d * -d;
}

// Adds up root_gradient * s^2 over all samples, for each channel of a piece. It has barriers, the last one before the
// sums are written.
HSR_DEVICE void add_up_samples(const DemodulationBwdParams& p, int64_t o, const Piece& piece,
                               Shared<float, kMaxSamplesPerBlock>& gradients, Shared<float, kMaxPieceChannels>& sums) {
  static_assert(kMaxSamplesPerBlock == kThreads, "a thread takes a sample");
  for (int64_t first_sample = 0; first_sample < p.n; first_sample += kMaxSamplesPerBlock) {
    const int samples = p.n - first_sample < kMaxSamplesPerBlock ? int(p.n - first_sample) : kMaxSamplesPerBlock;
    sync();
    if (thread_index() < samples) gradients[thread_index()] = root_gradient(p, first_sample + thread_index(), o);
    sync();
    for (int channel = thread_index(); channel < piece.channels; channel += kThreads) {
      const float* s = p.s + (first_sample * p.c + piece.first_channel + channel);
      float sum = 0;
#pragma unroll 4
      for (int j = 0; j < samples; j++) {
        const float style = load(s + j * p.c);
        sum += gradients[j] * style * style;
      }
      sums[channel] += sum;
    }
  }
}

// Turns a piece of a row of weights in shared memory into their gradients, from those of their channels' energies.
HSR_DEVICE void differentiate(const DemodulationBwdParams& p, int64_t o, const Piece& piece, float factor,
                              Shared<float, kMaxPieceChannels>& gradients, Weights& memory) {
  const int k = int(p.k);
  for_each_weight(piece, k, p.dw_stride_c < p.dw_stride_k, [&](int channel, int tap) {
    const int index = channel * k + (p.flip ? k - 1 - tap : tap);
    float value = memory[index] * factor * gradients[channel];
    if (p.dw)
      value += load_as(p.dtype, p.dw,
                       o * p.dw_stride_o + (piece.first_channel + channel) * p.dw_stride_c + tap * p.dw_stride_k);
    memory[index] = value * factor;
  });
}

HSR_KERNEL(kThreads) demodulation_bwd_kernel(DemodulationBwdParams p, Pieces pieces) {
  HSR_SHARED(float, kMaxPieceWeights, memory);
  // Of each channel, twice the gradient of its energy.
  HSR_SHARED(float, kMaxPieceChannels, gradients);
  HSR_SHARED(float, kMaxSamplesPerBlock, sample_gradients);
  HSR_SHARED(float, kWarps, warp_magnitudes);
  const int64_t o = block_index(), start = o * p.c * p.k;
  const int k = int(p.k);
  for_each_piece(p, pieces, start, memory, warp_magnitudes, [&](int, const Piece& piece, float factor) {
    for (int channel = thread_index(); channel < piece.channels; channel += kThreads) {
      gradients[channel] = 0;
      if (p.energy) store(p.energy + (o * p.c + piece.first_channel + channel), energy_of(channel, k, factor, memory));
    }
    if (!p.dweight) {
      sync();
      return;
    }
    add_up_samples(p, o, piece, sample_gradients, gradients);
    sync();
    differentiate(p, o, piece, factor, gradients, memory);
    sync();
    for_each_weight(piece, k, p.weight_channels_last, [&](int channel, int tap) {
      const int offset = row_offset(p, p.weight_channels_last, piece.first_channel + channel, tap);
      store_as(p.weight_dtype, p.dweight, start + offset, memory[channel * k + tap]);
    });
    sync();
  });
}

// dstyles = (ds + s * sum over o of root_gradient * energy) * what the styles were multiplied by. The warps share the
// output channels; then each of the first ones takes a sample.
HSR_KERNEL(kThreads) demodulation_bwd_styles_kernel(DemodulationBwdParams p) {
  HSR_SHARED(float, kStyleSums, partial_sums);
  const int64_t channel_blocks = (p.c + kStyleChannels - 1) / kStyleChannels;
  const int64_t first_sample = block_index() / channel_blocks * kStyleSamples;
  const int warp = thread_index() / 32, lane = thread_index() % 32;
  const int64_t channel = block_index() % channel_blocks * kStyleChannels + lane;
  float sums[kStyleSamples] = {};
#pragma unroll 4
  for (int o = warp; o < p.o; o += kWarps) {
    const float energy = channel < p.c ? load(p.energy + (o * p.c + channel)) : 0.0f;
#pragma unroll
    for (int j = 0; j < kStyleSamples; j++)
      if (first_sample + j < p.n) sums[j] += root_gradient(p, first_sample + j, o) * energy;
  }
#pragma unroll
  for (int j = 0; j < kStyleSamples; j++) partial_sums[(warp * kStyleSamples + j) * kStyleChannels + lane] = sums[j];
  sync();
  const int64_t sample = first_sample + warp;
  if (warp >= kStyleSamples || sample >= p.n) return;
  float factor = 1;
  if (p.prescale)
    factor = with_elements(p.styles, p.styles_dtype,
                           [&](auto* styles) { return style_factor(styles + sample * p.c, int(p.c)); });
  if (channel >= p.c) return;
  float sum = 0;
  for (int i = 0; i < kWarps; i++) sum += partial_sums[(i * kStyleSamples + warp) * kStyleChannels + lane];
  const int64_t index = sample * p.c + channel;
  const float gradient = load(p.s + index) * sum + (p.ds ? load(p.ds + index) : 0.0f);
  store_as(p.styles_dtype, p.dstyles, index, gradient * factor);
}

Pieces pieces_of(const DemodulationOperands& p) {
  require(p.k <= kMaxPieceWeights && p.c * p.k < kMaxInt32Elements,
          "the kernel of a demodulated convolution is too large");
  int64_t channels = kMaxPieceWeights / p.k < kMaxPieceChannels ? kMaxPieceWeights / p.k : kMaxPieceChannels;
  if (channels >= kWeightsPerRead) channels -= channels % kWeightsPerRead;
  if (channels > p.c) channels = p.c;
  const int64_t count = ceil_div(p.c, channels);
  const bool vector_reads =
      aligned(p.weight) && p.c * p.k % kWeightsPerRead == 0 && (count == 1 || channels % kWeightsPerRead == 0);
  return {int(channels), int(count), vector_reads, float(1 / std::sqrt(double(p.c * p.k)))};
}

}  // namespace

void launch_demodulation(const DemodulationParams& p, const Stream& stream) {
  if (p.o * p.c * p.k == 0) return;
  const int64_t groups = p.n > kMaxSamplesPerBlock ? ceil_div(p.n, kMaxSamplesPerBlock) : 1;
  launch("demodulation", demodulation_kernel, stream, p.o * groups, kThreads, p, pieces_of(p));
}

void launch_demodulation_bwd(const DemodulationBwdParams& p, const Stream& stream) {
  if (p.o * p.c * p.k == 0) return;
  launch("demodulation_bwd", demodulation_bwd_kernel, stream, p.o, kThreads, p, pieces_of(p));
  if (!p.dstyles) return;
  const int64_t blocks = ceil_div(p.n, kStyleSamples) * ceil_div(p.c, kStyleChannels);
  launch("demodulation_bwd_styles", demodulation_bwd_styles_kernel, stream, blocks, kThreads, p);
}

}  // namespace cuda
}  // namespace hsr
