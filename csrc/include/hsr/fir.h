// SPDX-License-Identifier: Apache-2.0
// Polyphase arithmetic of FIR resampling, shared by host and device.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define HSR_HD __host__ __device__ __forceinline__
#else
#ifndef HSR_HD
#define HSR_HD inline __attribute__((always_inline))
#endif
#endif

namespace hsr {

// Output o of one axis reads zero-inserted positions o * down - pad + k for taps k; those that hold a pixel are
// k = first, first + up, ...: they read pixels `pixel`, pixel + 1, ...
struct TapRange {
  int first;
  int64_t pixel;
};

HSR_HD TapRange tap_range(int64_t o, int up, int down, int64_t pad) {
  const int64_t base = o * down - pad;
  int64_t first = -base % up;
  if (first < 0) first += up;
  return {int(first), (base + first) / up};
}

// How many taps of a filter touch pixels, starting at `first`.
HSR_HD int tap_count(int taps, int first, int up) { return first < taps ? (taps - first + up - 1) / up : 0; }

}  // namespace hsr
