// SPDX-License-Identifier: Apache-2.0
// The instructions of AMX that multiply matrices of bfloat16, under the names of their intrinsics. A tile has 16 rows
// of 64 bytes: 16 sums in float32, or 16 pairs of bfloat16. Where HSR_EMULATED_AMX is defined they are plain C++, so
// that tests run everywhere what uses them.
#pragma once

#if defined(__AMX_BF16__) || defined(HSR_EMULATED_AMX)
#define HSR_HAS_AMX

#include <cstdint>
#include <cstring>

#ifdef HSR_EMULATED_AMX
#include "hsr/storage.h"
#else
#include <immintrin.h>
#endif

namespace hsr {
namespace HSR_ISA {

constexpr int kTileRows = 16, kTileBytes = 64, kTileElements = kTileBytes / 4;

#ifdef HSR_EMULATED_AMX

struct Tile {
  uint32_t rows[kTileRows][kTileElements];
};
static thread_local Tile emulated_tiles[8];

static inline void configure_tiles() {}
static inline void _tile_release() {}
static inline void _tile_zero(int tile) { std::memset(&emulated_tiles[tile], 0, sizeof(Tile)); }
static inline void _tile_loadd(int tile, const void* memory, int64_t row_bytes) {
  for (int r = 0; r < kTileRows; r++)
    std::memcpy(emulated_tiles[tile].rows[r], static_cast<const char*>(memory) + r * row_bytes, kTileBytes);
}
static inline void _tile_stored(int tile, void* memory, int64_t row_bytes) {
  for (int r = 0; r < kTileRows; r++)
    std::memcpy(static_cast<char*>(memory) + r * row_bytes, emulated_tiles[tile].rows[r], kTileBytes);
}
// sums [16, 16] += a [16, 16 pairs] @ b [16 pairs, 16].
static inline void _tile_dpbf16ps(int sums, int a, int b) {
  const auto half_of = [](uint32_t pair, int half) { return widen(bfloat16{uint16_t(pair >> 16 * half)}); };
  for (int r = 0; r < kTileRows; r++)
    for (int c = 0; c < kTileElements; c++) {
      float sum = bits_to_float(emulated_tiles[sums].rows[r][c]);
      for (int pair = 0; pair < kTileElements; pair++)
        for (int half = 0; half < 2; half++)
          sum += half_of(emulated_tiles[a].rows[r][pair], half) * half_of(emulated_tiles[b].rows[pair][c], half);
      emulated_tiles[sums].rows[r][c] = float_to_bits(sum);
    }
}

#else

// Gives all tiles their full size. Until _tile_release() they are part of what is saved when the thread is interrupted.
static inline void configure_tiles() {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } configuration;
  for (int i = 0; i < 8; i++) configuration.row_bytes[i] = kTileBytes, configuration.rows[i] = kTileRows;
  _tile_loadconfig(&configuration);
}

#endif

}  // namespace HSR_ISA
}  // namespace hsr

#endif
