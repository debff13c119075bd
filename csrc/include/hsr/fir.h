// SPDX-License-Identifier: Apache-2.0
// Polyphase arithmetic of FIR resampling, for host and device.
#pragma once

#include <cstdint>

#include "hsr/host_device.h"

namespace hsr {

// Along an axis output o reads the zero-inserted positions o * down - pad + k for taps k. Those that hold a pixel are
// k = tap, tap + up, ...: they read the pixels `pixel`, pixel + 1, ...
struct TapRange {
  int tap;
  int64_t pixel;
};

// Returns it, computed in an integer type I that holds o * down and pad.
template <class I>
HSR_HD TapRange tap_range_in(I o, int up, int down, I pad) {
  const I base = o * down - pad;
  I tap = -base % up;
  if (tap < 0) tap += up;
  return {int(tap), int64_t((base + tap) / up)};
}

HSR_HD TapRange tap_range(int64_t o, int up, int down, int64_t pad) { return tap_range_in<int64_t>(o, up, down, pad); }

// Returns how many taps of a filter meet pixels, the first of them being `tap`.
HSR_HD int tap_count(int taps, int tap, int up) { return tap < taps ? (taps - tap + up - 1) / up : 0; }

// `up` adjacent outputs, the first of which begins with tap 0, are a group: they are weighted sums of the same window
// of pixels. Output r of the group weights pixel d of the window with tap up * d - r, if there is such a tap.
HSR_HD constexpr int window_pixels(int taps, int up) { return (taps + up - 2) / up + 1; }
HSR_HD constexpr int window_tap(int d, int r, int up) { return up * d - r; }
HSR_HD constexpr bool window_has_tap(int d, int r, int up, int taps) {
  return d >= 0 && window_tap(d, r, up) >= 0 && window_tap(d, r, up) < taps;
}

// Returns the number of pixels that the windows of n adjacent outputs cover, which are complete groups.
HSR_HD constexpr int group_pixels(int n, int taps, int up, int down) {
  return (n / up - 1) * down + window_pixels(taps, up);
}

}  // namespace hsr
