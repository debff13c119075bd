// SPDX-License-Identifier: Apache-2.0
#include "parallel.h"

#include <dlfcn.h>
#include <link.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

namespace hsr {
namespace {

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

int find_openmp(dl_phdr_info* info, size_t, void* symbol_found) {
  const char* name = std::strrchr(info->dlpi_name, '/');
  name = name ? name + 1 : info->dlpi_name;
  if (std::strncmp(name, "libgomp", 7) != 0 && std::strncmp(name, "libiomp", 7) != 0 &&
      std::strncmp(name, "libomp", 6) != 0)
    return 0;
  void* library = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
  void* symbol = library ? dlsym(library, "GOMP_parallel") : nullptr;
  if (!symbol) return 0;
  *static_cast<void**>(symbol_found) = symbol;
  return 1;
}

// Returns GOMP_parallel of the OpenMP runtime that PyTorch has loaded, or null. Two pools of spinning threads on the
// same cores would slow each other down, so PyTorch's pool is used if there is one; this module needs no OpenMP to be
// built or loaded.
GompParallel openmp() {
  static const GompParallel function = [] {
    void* symbol = nullptr;
    dl_iterate_phdr(find_openmp, &symbol);
    GompParallel result = nullptr;
    std::memcpy(&result, &symbol, sizeof(result));
    return result;
  }();
  return function;
}

struct Work {
  std::atomic<int64_t> next{0};
  int64_t chunks;
  void (*body)(int64_t, void*);
  void* context;
};

void run(void* pointer) {
  auto* work = static_cast<Work*>(pointer);
  for (int64_t chunk; (chunk = work->next.fetch_add(1, std::memory_order_relaxed)) < work->chunks;)
    work->body(chunk, work->context);
}

struct Buffers {
  void* memory[8] = {};
  size_t bytes[8] = {};
  ~Buffers() {
    for (void* m : memory) std::free(m);
  }
};

}  // namespace

void parallel_chunks(int64_t chunks, int threads, void (*body)(int64_t, void*), void* context) {
  if (chunks < threads) threads = int(chunks);
  if (threads <= 1) {
    for (int64_t chunk = 0; chunk < chunks; chunk++) body(chunk, context);
    return;
  }
  Work work;
  work.chunks = chunks;
  work.body = body;
  work.context = context;
  if (GompParallel parallel = openmp()) {
    parallel(run, &work, unsigned(threads), 0);
    return;
  }
  std::vector<std::thread> workers;
  for (int i = 1; i < threads; i++) workers.emplace_back(run, &work);
  run(&work);
  for (auto& thread : workers) thread.join();
}

void* scratch(int slot, size_t bytes) {
  static thread_local Buffers buffers;
  if (buffers.bytes[slot] < bytes) {
    const size_t rounded = (bytes + 4095) / 4096 * 4096;
    std::free(buffers.memory[slot]);
    buffers.bytes[slot] = 0;
    buffers.memory[slot] = std::aligned_alloc(64, rounded);
    if (!buffers.memory[slot]) throw std::bad_alloc();
    buffers.bytes[slot] = rounded;
  }
  return buffers.memory[slot];
}

}  // namespace hsr
