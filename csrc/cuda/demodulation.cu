// SPDX-License-Identifier: Apache-2.0
// What a demodulating layer's convolution and epilogue take, computed from its parameters in one launch: the weight in
// the dtype, the tap order and the layout of the convolution, the styles in float32, and the demodulation coefficients
//   d[n, o] = rsqrt(sum over c of styles[n, c]^2 * energy[o, c] + eps)
//   with energy[o, c] = sum over k of weight[o, c, k]^2.
// For float16 results, weight and styles are first scaled by their largest magnitudes: d cancels the factors.
//
// A block takes one output channel: its row of weights passes through shared memory, and leaves it an energy per input
// channel. Each warp then takes samples in turn.
#include <cmath>

#include "hsr/error.h"
#include "launch.h"
#include "launchers.h"

namespace hsr {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kRow = 4608;       // weights that shared memory holds at a time: 512 channels of 3x3
constexpr int kChannels = 1024;  // of which there are at most so many channels
constexpr int kSamples = 256;    // that a block takes
constexpr int kGroup = 4;        // weights that are read at once
constexpr float kEps = 1e-8f;
constexpr float kTiny = 1e-7f;  // a channel or sample of zeros stays zero

// How a row of weights is cut.
struct Pieces {
  int channels;  // of a piece
  int count;
  bool whole;       // weights can be read in groups
  float magnitude;  // of the largest prescaled weight
};

HSR_DEVICE float larger(float a, float b) { return a > b ? a : b; }
HSR_DEVICE float max_over_lanes(float value) {
  for (int mask = 1; mask < 32; mask *= 2) value = larger(value, exchange(value, mask));
  return value;
}

// Channels [first, first + channels) of a row of weights.
struct Piece {
  int first, channels;
};

HSR_DEVICE Piece piece_at(const DemodulationParams& p, const Pieces& pieces, int i) {
  const int first = i * pieces.channels, left = int(p.c) - first;
  return {first, left < pieces.channels ? left : pieces.channels};
}

using Row = Shared<float, kRow>;

// Brings a piece of a row of weights to shared memory, as [channels, k]; returns the largest magnitude that this thread
// has met.
template <class T>
HSR_DEVICE float bring(const DemodulationParams& p, const T* row, const Piece& piece, bool whole, Row& memory) {
  const int k = int(p.k), count = piece.channels * k;
  float most = 0;
  if (p.weight_channels_last) {
    const int step_tap = kThreads / piece.channels, step_channel = kThreads % piece.channels;
    int tap = thread_index() / piece.channels, channel = thread_index() % piece.channels;
#pragma unroll 4
    for (int e = thread_index(); e < count; e += kThreads) {
      const float value = widen(load(row + (tap * int(p.c) + piece.first + channel)));
      memory[channel * k + tap] = value;
      most = larger(most, std::fabs(value));
      tap += step_tap, channel += step_channel;
      if (channel >= piece.channels) tap++, channel -= piece.channels;
    }
    return most;
  }
#pragma unroll 4
  for (int e = thread_index() * kGroup; e < count; e += kThreads * kGroup) {
    float values[kGroup];
    read(row + (piece.first * k + e), count - e, whole && count - e >= kGroup, values);
#pragma unroll
    for (int j = 0; j < kGroup; j++) most = larger(most, std::fabs(values[j]));
    shared_store<kGroup>(memory, e, Pack<float, kGroup>{{values[0], values[1], values[2], values[3]}});
  }
  return most;
}

// Writes a piece of w's row, which starts at `start`, in the order of its layout.
HSR_DEVICE void write_row(const DemodulationParams& p, int64_t start, const Piece& piece, float factor, Row& memory) {
  const int k = int(p.k), count = piece.channels * k;
  // Consecutive elements run along channels or along taps.
  const int inner_size = p.channels_last ? piece.channels : k;
  const int step_outer = kThreads / inner_size, step_inner = kThreads % inner_size;
  int outer = thread_index() / inner_size, inner = thread_index() % inner_size;
  for (int e = thread_index(); e < count; e += kThreads) {
    const int channel = p.channels_last ? inner : outer, tap = p.channels_last ? outer : inner;
    const int64_t at = start + (p.channels_last ? tap * int(p.c) + piece.first + channel : piece.first * k + e);
    store_as(p.dtype, p.w, at, memory[channel * k + (p.flip ? k - 1 - tap : tap)] * factor);
    outer += step_outer, inner += step_inner;
    if (inner >= inner_size) outer++, inner -= inner_size;
  }
}

// The sum of a channel's squares.
HSR_DEVICE float energy_of(int channel, int k, float factor, Row& memory) {
  float sum = 0;
  for (int tap = 0; tap < k; tap++) {
    const float value = memory[channel * k + tap] * factor;
    sum += value * value;
  }
  return sum;
}

// The largest magnitude of a sample's styles, to every lane of a warp.
template <class S>
HSR_DEVICE float largest_style(const S* styles, int c) {
  float most = 0;
#pragma unroll 8
  for (int i = thread_index() % 32; i < c; i += 32) most = larger(most, std::fabs(widen(load(styles + i))));
  return max_over_lanes(most);
}

// The sum of (styles * factor)^2 * energy over a piece's channels; `s`: where the factored styles are to be written.
template <class S>
HSR_DEVICE float dot(const S* styles, float factor, const Piece& piece, Shared<float, kChannels>& energy, float* s) {
  float sum = 0;
#pragma unroll 8
  for (int i = thread_index() % 32; i < piece.channels; i += 32) {
    const float style = widen(load(styles + (piece.first + i))) * factor;
    sum += style * style * energy[i];
    if (s) store(s + (piece.first + i), style);
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
  HSR_SHARED(float, kRow, memory);
  HSR_SHARED(float, kChannels, energy);
  HSR_SHARED(float, kSamples, sums);
  HSR_SHARED(float, kSamples, style_factors);
  HSR_SHARED(float, kWarps, largest);
  const int o = int(block_index() % p.o), warp = thread_index() / 32, lane = thread_index() % 32;
  const int64_t first_sample = block_index() / p.o * kSamples, start = o * p.c * p.k;
  const int samples = p.n - first_sample < kSamples ? int(p.n - first_sample) : kSamples;
  const auto of_styles = [&](int j, auto&& f) {
    const int64_t at = (first_sample + j) * p.c;
    return with_elements(p.styles, p.styles_dtype, [&](auto* styles) { return f(styles + at); });
  };

  float most = 0, factor = 1;
  // Where a row is in pieces, its largest magnitude takes a pass of its own.
  for (int step = p.prescale && pieces.count > 1 ? -pieces.count : 0; step < pieces.count; step++) {
    const Piece piece = piece_at(p, pieces, step < 0 ? step + pieces.count : step);
    most = larger(most, with_elements(p.weight, p.weight_dtype, [&](auto* weight) {
                    return bring(p, weight + start, piece, pieces.whole, memory);
                  }));
    if (step < 0) {
      sync();
      continue;
    }
    if (p.prescale && step == 0) {
      most = max_over_lanes(most);
      if (lane == 0) largest[warp] = most;
      for (int j = warp; j < samples; j += kWarps) {
        const float style = of_styles(j, [&](auto* styles) { return largest_style(styles, int(p.c)); });
        if (lane == 0) style_factors[j] = 1 / larger(style, kTiny);
      }
      sync();
      for (int i = 0; i < kWarps; i++) most = larger(most, largest[i]);
      factor = pieces.magnitude / larger(most, kTiny);
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
      float* s = p.s && n % p.o == o ? p.s + n * p.c : nullptr;  // each sample is written by one block
      float sum = of_styles(j, [&](auto* styles) { return dot(styles, style_factor, piece, energy, s); });
      if (lane != 0) continue;
      if (step > 0) sum += sums[j];
      sums[j] = sum;
      if (step + 1 == pieces.count) store(p.d + (n * p.o + o), 1 / std::sqrt(sum + kEps));
    }
  }
}

Pieces pieces_of(const DemodulationParams& p) {
  require(p.k <= kRow && p.c * p.k < kInt32, "the kernel of a demodulated convolution is too large");
  int64_t channels = kRow / p.k < kChannels ? kRow / p.k : kChannels;
  if (channels >= kGroup) channels -= channels % kGroup;
  if (channels > p.c) channels = p.c;
  const int64_t count = ceil_div(p.c, channels);
  const bool whole = aligned(p.weight) && p.c * p.k % kGroup == 0 && (count == 1 || channels % kGroup == 0);
  return {int(channels), int(count), whole, float(1 / std::sqrt(double(p.c * p.k)))};
}

}  // namespace

void launch_demodulation(const DemodulationParams& p, const Stream& stream) {
  if (p.o * p.c * p.k == 0) return;
  const int64_t groups = p.n > kSamples ? ceil_div(p.n, kSamples) : 1;
  launch("demodulation", demodulation_kernel, stream, p.o * groups, kThreads, p, pieces_of(p));
}

}  // namespace cuda
}  // namespace hsr
