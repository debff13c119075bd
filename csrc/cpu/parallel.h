// SPDX-License-Identifier: Apache-2.0
// Work over a fixed list of chunks: which thread takes a chunk never changes a result.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hsr {

// Calls body(chunk, context) for each chunk in [0, chunks) on up to `threads` threads.
void parallel_chunks(int64_t chunks, int threads, void (*body)(int64_t, void*), void* context);

// Returns a buffer of this thread, 64-byte aligned and valid until the next call with the same slot (0 <= slot < 8).
void* scratch(int slot, size_t bytes);

}  // namespace hsr
