// SPDX-License-Identifier: Apache-2.0
// Polyphase arithmetic of FIR resampling, shared by host and device.
#pragma once

#include <cstdint>

#include "hsr/host_device.h"

namespace hsr {

// Output o of one axis reads zero-inserted positions o * down - pad + k for taps k; those that hold a pixel are
// k = first, first + up, ...: they read pixels `pixel`, pixel + 1, ...
struct TapRange {
  int first;
  int64_t pixel;
};

// In an integer type I that holds o * down and pad.
template <class I>
HSR_HD TapRange tap_range_in(I o, int up, int down, I pad) {
  const I base = o * down - pad;
  I first = -base % up;
  if (first < 0) first += up;
  return {int(first), int64_t((base + first) / up)};
}

HSR_HD TapRange tap_range(int64_t o, int up, int down, int64_t pad) { return tap_range_in<int64_t>(o, up, down, pad); }

// How many taps of a filter touch pixels, starting at `first`.
HSR_HD int tap_count(int taps, int first, int up) { return first < taps ? (taps - first + up - 1) / up : 0; }

// `up` adjacent outputs are a group where the first of them starts with tap 0: they weigh the same `near` pixels,
// output r of them pixel d with tap up * d - r if there is such a tap.
HSR_HD constexpr int near_pixels(int taps, int up) { return (taps + up - 2) / up + 1; }
HSR_HD constexpr int near_tap(int d, int r, int up) { return up * d - r; }
HSR_HD constexpr bool near_meets(int d, int r, int up, int taps) {
  return d >= 0 && near_tap(d, r, up) >= 0 && near_tap(d, r, up) < taps;
}

// Pixels that n outputs weigh, whole groups side by side.
HSR_HD constexpr int group_pixels(int n, int taps, int up, int down) {
  return (n / up - 1) * down + near_pixels(taps, up);
}

}  // namespace hsr
