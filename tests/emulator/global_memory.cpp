// SPDX-License-Identifier: Apache-2.0
#include "global_memory.h"

#include <array>
#include <memory>
#include <unordered_map>

#include "emulator.h"

namespace hsr {
namespace cuda {
namespace {

struct Extent {
  uintptr_t begin, end;
  bool writable;
  // Whether a part of it may be stored to, so that races are possible.
  bool tracked;
};

// The buffers that a thread of Python declared for its launches; threads that launch at the same time have their own.
thread_local std::vector<Extent> declared;

constexpr uintptr_t kPageBytes = 4096;
// Stands for several readers.
constexpr uint32_t kSeveralThreads = 0xffffffffu;

// For each byte, the thread that stored it and the one that loaded it, counted from 1; 0 if there is none.
struct Page {
  uint32_t writer[kPageBytes] = {};
  uint32_t reader[kPageBytes] = {};
};

struct CachedPage {
  uintptr_t number;
  Page* page;
};

// The state of the running launch; there is one at a time.
std::vector<Extent>* extents;
int block_threads;
std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
std::array<CachedPage, 64> cache;

std::string thread_name(uint32_t id) {
  if (id == kSeveralThreads) return "other threads";
  return "thread " + std::to_string((id - 1) % block_threads) + " of block " + std::to_string((id - 1) / block_threads);
}

Page& page_of(uintptr_t number) {
  CachedPage& cached = cache[number % cache.size()];
  if (cached.page && cached.number == number) return *cached.page;
  std::unique_ptr<Page>& page = pages[number];
  if (!page) page = std::make_unique<Page>();
  cached = {number, page.get()};
  return *page;
}

// Returns a phrase with the buffer that is closest to an address.
std::string nearest_buffer(uintptr_t address) {
  std::string text;
  uintptr_t min_distance = UINTPTR_MAX;
  for (const Extent& e : *extents) {
    const bool past_begin = address >= e.begin;
    const uintptr_t distance = !past_begin ? e.begin - address : address >= e.end ? address - e.end : e.end - address;
    if (distance >= min_distance) continue;
    min_distance = distance;
    const std::string size = " a buffer of " + std::to_string(e.end - e.begin) + " bytes";
    text = past_begin ? std::to_string(address - e.begin) + " bytes into" + size
                      : std::to_string(distance) + " bytes before" + size;
  }
  return text;
}

// Checks an access by itself; returns whether it has to be remembered.
bool check_access(uintptr_t address, int bytes, int alignment, bool storing) {
  const auto access = [&] { return (storing ? "store of " : "load of ") + std::to_string(bytes) + " bytes"; };
  if (address % uintptr_t(alignment)) fail("misaligned " + access());
  if (extents->empty()) return true;
  bool in_bounds = false;
  for (const Extent& e : *extents) {
    if (address < e.begin || address > e.end || e.end - address < uintptr_t(bytes)) continue;
    in_bounds = true;
    if (!storing || e.writable) return e.tracked;
  }
  if (in_bounds) fail(access() + " into a read-only buffer");
  fail(access() + " out of bounds, " + nearest_buffer(address));
}

uint32_t thread_id() { return uint32_t(position.block * block_threads + position.thread + 1); }

}  // namespace

void extent(const void* p, int64_t bytes, bool writable) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(p);
  declared.push_back({begin, begin + uintptr_t(bytes), writable, false});
}

void clear_extents() { declared.clear(); }

void begin_memory(int threads) {
  block_threads = threads;
  extents = &declared;
  for (Extent& e : declared) {
    e.tracked = false;
    for (const Extent& other : declared) e.tracked |= other.writable && other.begin < e.end && e.begin < other.end;
  }
}

void end_memory() {
  pages.clear();
  cache.fill({});
}

void check_load(const void* p, int bytes, int alignment) {
  if (!position.launch) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(p);
  if (!check_access(address, bytes, alignment, false)) return;
  const uint32_t self = thread_id();
  for (uintptr_t byte = address; byte < address + uintptr_t(bytes); byte++) {
    Page& page = page_of(byte / kPageBytes);
    const uint32_t writer = page.writer[byte % kPageBytes];
    if (writer && writer != self) fail("race in global memory: load of what " + thread_name(writer) + " stored");
    uint32_t& reader = page.reader[byte % kPageBytes];
    reader = reader == 0 || reader == self ? self : kSeveralThreads;
  }
}

void check_store(const void* p, int bytes, int alignment) {
  if (!position.launch) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(p);
  check_access(address, bytes, alignment, true);
  const uint32_t self = thread_id();
  for (uintptr_t byte = address; byte < address + uintptr_t(bytes); byte++) {
    Page& page = page_of(byte / kPageBytes);
    const uint32_t reader = page.reader[byte % kPageBytes];
    if (reader && reader != self) fail("race in global memory: store to what " + thread_name(reader) + " loaded");
    uint32_t& writer = page.writer[byte % kPageBytes];
    if (writer && writer != self) fail("race in global memory: store to what " + thread_name(writer) + " stored");
    writer = self;
  }
}

}  // namespace cuda
}  // namespace hsr
