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
  bool tracked;  // a part of it may be stored to, so that races are possible
};

// A thread of Python declares buffers and launches; another one that does so at the same time has its own.
thread_local std::vector<Extent> declared;

constexpr uintptr_t kPage = 4096;
constexpr uint32_t kSeveral = 0xffffffffu;

// Per byte the thread that stored it and the one that loaded it, from 1 on; 0: none.
struct Page {
  uint32_t writer[kPage] = {};
  uint32_t reader[kPage] = {};
};

struct CachedPage {
  uintptr_t number;
  Page* page;
};

// Of the launch that runs; there is one at a time.
std::vector<Extent>* extents;
int block_threads;
std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
std::array<CachedPage, 64> cache;

std::string thread_name(uint32_t id) {
  if (id == kSeveral) return "other threads";
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

// The buffer closest to an address, for messages.
std::string nearest(uintptr_t at) {
  std::string text;
  uintptr_t least = UINTPTR_MAX;
  for (const Extent& e : *extents) {
    const bool after = at >= e.begin;
    const uintptr_t distance = !after ? e.begin - at : at >= e.end ? at - e.end : e.end - at;
    if (distance >= least) continue;
    least = distance;
    const std::string size = " a buffer of " + std::to_string(e.end - e.begin) + " bytes";
    text =
        after ? std::to_string(at - e.begin) + " bytes into" + size : std::to_string(distance) + " bytes before" + size;
  }
  return text;
}

// The checks that need no memory of other accesses; false where there is nothing to remember either.
bool check_place(uintptr_t at, int bytes, int alignment, bool storing) {
  const auto access = [&] { return (storing ? "store of " : "load of ") + std::to_string(bytes) + " bytes"; };
  if (at % uintptr_t(alignment)) fail("misaligned " + access());
  if (extents->empty()) return true;
  bool known = false;
  for (const Extent& e : *extents) {
    if (at < e.begin || at > e.end || e.end - at < uintptr_t(bytes)) continue;
    known = true;
    if (!storing || e.writable) return e.tracked;
  }
  if (known) fail(access() + " into a read-only buffer");
  fail(access() + " out of bounds, " + nearest(at));
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
  const uintptr_t at = reinterpret_cast<uintptr_t>(p);
  if (!check_place(at, bytes, alignment, false)) return;
  const uint32_t me = thread_id();
  for (uintptr_t byte = at; byte < at + uintptr_t(bytes); byte++) {
    Page& page = page_of(byte / kPage);
    const uint32_t writer = page.writer[byte % kPage];
    if (writer && writer != me) fail("race in global memory: load of what " + thread_name(writer) + " stored");
    uint32_t& reader = page.reader[byte % kPage];
    reader = reader == 0 || reader == me ? me : kSeveral;
  }
}

void check_store(const void* p, int bytes, int alignment) {
  if (!position.launch) return;
  const uintptr_t at = reinterpret_cast<uintptr_t>(p);
  check_place(at, bytes, alignment, true);
  const uint32_t me = thread_id();
  for (uintptr_t byte = at; byte < at + uintptr_t(bytes); byte++) {
    Page& page = page_of(byte / kPage);
    const uint32_t reader = page.reader[byte % kPage];
    if (reader && reader != me) fail("race in global memory: store to what " + thread_name(reader) + " loaded");
    uint32_t& writer = page.writer[byte % kPage];
    if (writer && writer != me) fail("race in global memory: store to what " + thread_name(writer) + " stored");
    writer = me;
  }
}

}  // namespace cuda
}  // namespace hsr
