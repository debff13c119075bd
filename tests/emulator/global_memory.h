// SPDX-License-Identifier: Apache-2.0
// The emulator's view of global memory: which buffers a launch may touch, and which thread touched what.
#pragma once

#include <cstdint>

namespace hsr {
namespace cuda {

// A launch begins; `threads` per block, by which messages tell threads apart.
void begin_memory(int threads);
// Forgets who loaded and stored.
void end_memory();

}  // namespace cuda
}  // namespace hsr
