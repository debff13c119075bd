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

HSR_DEVICE Piece piece_at(const DemodulationParams& p, const Pieces& pieces, int i) {
  const int first_channel = i * pieces.channels, rest = int(p.c) - first_channel;
  return {first_channel, rest < pieces.channels ? rest : pieces.channels};
}

using Weights = Shared<float, kMaxPieceWeights>;

// Stages a piece of a row of weights in shared memory as [channels, k]; returns the largest magnitude that this thread
// has read.
template <class T>
HSR_DEVICE float stage_weights(const DemodulationParams& p, const T* row, const Piece& piece, bool vector_reads,
                               Weights& memory) {
  const int k = int(p.k), count = piece.channels * k;
  float magnitude = 0;
  if (p.weight_channels_last) {
    const int step_tap = kThreads / piece.channels, step_channel = kThreads % piece.channels;
    int tap = thread_index() / piece.channels, channel = thread_index() % piece.channels;
#pragma unroll 4
    for (int e = thread_index(); e < count; e += kThreads) {
      const float value = widen(load(row + (tap * int(p.c) + piece.first_channel + channel)));
      memory[channel * k + tap] = value;
      magnitude = maximum(magnitude, std::fabs(value));
      tap += step_tap, channel += step_channel;
      if (channel >= piece.channels) tap++, channel -= piece.channels;
    }
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

// Writes a piece of a row of w, which begins at `start`, in the order of its layout.
HSR_DEVICE void write_row(const DemodulationParams& p, int64_t start, const Piece& piece, float factor,
                          Weights& memory) {
  const int k = int(p.k), count = piece.channels * k;
  // Consecutive elements run along channels or along taps.
  const int inner_size = p.channels_last ? piece.channels : k;
  const int step_outer = kThreads / inner_size, step_inner = kThreads % inner_size;
  int outer = thread_index() / inner_size, inner = thread_index() % inner_size;
  for (int e = thread_index(); e < count; e += kThreads) {
    const int channel = p.channels_last ? inner : outer, tap = p.channels_last ? outer : inner;
    const int64_t index =
        start + (p.channels_last ? tap * int(p.c) + piece.first_channel + channel : piece.first_channel * k + e);
    store_as(p.dtype, p.w, index, memory[channel * k + (p.flip ? k - 1 - tap : tap)] * factor);
    outer += step_outer, inner += step_inner;
    if (inner >= inner_size) outer++, inner -= inner_size;
  }
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

// Returns the largest magnitude of a sample's styles to every lane of the warp.
template <class S>
HSR_DEVICE float style_magnitude(const S* styles, int c) {
  float magnitude = 0;
#pragma unroll 8
  for (int i = thread_index() % 32; i < c; i += 32) magnitude = maximum(magnitude, std::fabs(widen(load(styles + i))));
  return max_over_lanes(magnitude);
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

  float magnitude = 0, factor = 1;
  // A row of several pieces takes a first pass for its largest magnitude.
  for (int step = p.prescale && pieces.count > 1 ? -pieces.count : 0; step < pieces.count; step++) {
    const Piece piece = piece_at(p, pieces, step < 0 ? step + pieces.count : step);
    magnitude = maximum(magnitude, with_elements(p.weight, p.weight_dtype, [&](auto* weight) {
                          return stage_weights(p, weight + start, piece, pieces.vector_reads, memory);
                        }));
    if (step < 0) {
      sync();
      continue;
    }
    if (p.prescale && step == 0) {
      magnitude = max_over_lanes(magnitude);
      if (lane == 0) warp_magnitudes[warp] = magnitude;
      for (int j = warp; j < samples; j += kWarps) {
        const float style = with_styles(j, [&](auto* styles) { return style_magnitude(styles, int(p.c)); });
        if (lane == 0) style_factors[j] = 1 / maximum(style, kMinMagnitude);
      }
      sync();
      for (int i = 0; i < kWarps; i++) magnitude = maximum(magnitude, warp_magnitudes[i]);
      factor = pieces.magnitude / maximum(magnitude, kMinMagnitude);
    } else {
      sync();
    }
    for (int channel = thread_index(); channel < piece.channels; channel += kThreads)
      energy[channel] = energy_of(channel, int(p.k), factor, memory);
    if (p.w && first_sample == 0) write_row(p, start, piece, factor, memory);
    sync();
    for (int j = warp; j < samples; j += kWarps) {
      const int64_t n = first_sample + j;
      const float style_factor = p.prescale ? float(style_factors[j]) : 1.0f;
      // Only one block writes the styles of a sample.
      float* s = p.s && n % p.o == o ? p.s + n * p.c : nullptr;
      float sum = with_styles(j, [&](auto* styles) { return dot(styles, style_factor, piece, energy, s); });
      if (lane != 0) continue;
      if (step > 0) sum += sums[j];
      sums[j] = sum;
      if (step + 1 == pieces.count) store(p.d + (n * p.o + o), 1 / std::sqrt(sum + kEps));
    }
  }
}

Pieces pieces_of(const DemodulationParams& p) {
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

}  // namespace cuda
}  // namespace hsr
