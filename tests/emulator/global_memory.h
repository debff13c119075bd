// SPDX-License-Identifier: Apache-2.0
// The emulator's view of global memory: which buffers a launch may touch, and which thread touched what.
#pragma once

#include <cstdint>

namespace hsr {
namespace cuda {

// Begins a launch with `threads` per block, which messages need to name a thread.
void begin_memory(int threads);
// Forgets which threads loaded and stored.
void end_memory();

}  // namespace cuda
}  // namespace hsr
