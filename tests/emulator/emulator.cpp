// SPDX-License-Identifier: Apache-2.0
// Fibres and their schedule. A fibre is created by ucontext and switched by _setjmp and _longjmp, which make no system
// call. It lives as long as the process and runs one thread of a block after another.

// The checked longjmp would reject a jump to another stack.
#undef _FORTIFY_SOURCE

#include "emulator.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>

#include "global_memory.h"

namespace hsr {
namespace cuda {

Position position;

namespace {

constexpr int kWarpSize = 32;
constexpr int kMaxThreads = 1024;
constexpr int64_t kMaxBlocks = 0x7fffffff;
constexpr int64_t kMaxSharedBytes = 48 * 1024;
constexpr size_t kStackBytes = 64 * 1024;

enum class State { ready, barrier, exchange, done };

struct Fibre {
  jmp_buf context;
  State state = State::done;
  bool started = false;
};

// The lanes of a warp in exchange(). The values of an exchange stay until the next one is complete.
struct Warp {
  int arrived = 0;
  int mask = 0;
  float arriving[kWarpSize], values[kWarpSize];
};

// Thrown in waiting fibres when a launch ends with an error, so that their objects are destroyed.
struct Abandoned {};

// Held by a launch, as there is one at a time.
std::mutex mutex;
std::vector<std::string> names;
int order_seed = 0;
bool idle = false;

// One for each thread of the largest block so far.
std::vector<std::unique_ptr<Fibre>> fibres;
std::vector<Warp> warps;
// The order of the block's threads in this epoch.
std::vector<int> order;
std::mt19937_64 shuffler;
const std::function<void()>* body;
int threads;
int64_t last_launch, shared_bytes;
std::string error;
bool abandoning;
jmp_buf scheduler;

void record(const std::string& what) {
  if (error.empty()) {
    error = what + ", thread " + std::to_string(position.thread) + " of block " + std::to_string(position.block);
  }
}

__attribute__((noinline)) void leave(Fibre& fibre) {
  if (!_setjmp(fibre.context)) _longjmp(scheduler, 1);
}

__attribute__((noinline)) void enter(Fibre& fibre) {
  if (!_setjmp(scheduler)) _longjmp(fibre.context, 1);
}

__attribute__((noinline)) void enter_first(const ucontext_t& context) {
  if (!_setjmp(scheduler)) setcontext(&context);
}

// Catches all exceptions, as none may leave the fibre's stack.
void run_body() {
  try {
    (*body)();
  } catch (const Abandoned&) {
  } catch (const std::exception& e) {
    record(e.what());
  } catch (...) {
    record("an exception of unknown type");
  }
}

void fibre_main(unsigned high, unsigned low) {
  Fibre& self = *reinterpret_cast<Fibre*>(uintptr_t(uint64_t(high) << 32 | low));
  for (;;) {
    leave(self);
    run_body();
    self.state = State::done;
  }
}

void create_fibre() {
  const size_t guard = size_t(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, guard + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("emulator: no memory for a stack");
  mprotect(memory, guard, PROT_NONE);
  fibres.push_back(std::make_unique<Fibre>());
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = static_cast<char*>(memory) + guard;
  // If all stacks began at the same offset in a page, they would share a few lines of the cache.
  context.uc_stack.ss_size = kStackBytes - fibres.size() % 16 * 256;
  context.uc_link = nullptr;
  const uint64_t address = reinterpret_cast<uintptr_t>(fibres.back().get());
  makecontext(&context, reinterpret_cast<void (*)()>(fibre_main), 2, unsigned(address >> 32), unsigned(address));
  enter_first(context);
}

// Runs a thread up to its next barrier or exchange, or its end.
void resume(int thread) {
  position.thread = thread;
  fibres[thread]->started = true;
  enter(*fibres[thread]);
}

void wait(State state) {
  Fibre& self = *fibres[position.thread];
  self.state = state;
  leave(self);
  if (abandoning) throw Abandoned{};
}

template <class T>
void arrange(std::vector<T>& numbers) {
  if (order_seed < 2) return;
  // std::shuffle gives other results with other libraries.
  for (size_t i = numbers.size(); i > 1; i--) std::swap(numbers[i - 1], numbers[shuffler() % i]);
}

void next_epoch() {
  position.epoch++;
  arrange(order);
  for (int t = 0; t < threads; t++) fibres[t]->state = State::ready;
}

void run_ready() {
  bool ran = true;
  while (ran) {
    ran = false;
    for (const int t : order) {
      if (fibres[t]->state != State::ready) continue;
      resume(t);
      if (!error.empty()) return;
      ran = true;
    }
  }
}

int count(State state) {
  return int(std::count_if(fibres.begin(), fibres.begin() + threads, [&](auto& f) { return f->state == state; }));
}

// Returns the first thread from `thread` on whose state is `state`, or differs from it if not `equal`; there has to be
// one.
int find(State state, bool equal, int thread) {
  while ((fibres[thread]->state == state) != equal) thread++;
  return thread;
}

// Records the error that some threads wait and none can continue.
void record_deadlock() {
  if (count(State::exchange)) {
    position.thread = find(State::exchange, true, 0);
    const int missing = find(State::exchange, false, position.thread / kWarpSize * kWarpSize);
    const bool done = fibres[missing]->state == State::done;
    record("thread " + std::to_string(missing) + (done ? " left the block" : " waits at a barrier") +
           " while others of its warp wait in exchange");
  } else {
    position.thread = find(State::barrier, true, 0);
    const int missing = find(State::done, true, 0);
    record("thread " + std::to_string(missing) + " left the block while others wait at a barrier");
  }
}

void abandon() {
  abandoning = true;
  for (int t = 0; t < threads; t++)
    if (fibres[t]->started && fibres[t]->state != State::done) resume(t);
  abandoning = false;
}

// Runs the threads of a block; `error` stays empty if there is none.
void run_block(int64_t block) {
  position.block = block;
  for (Warp& warp : warps) warp.arrived = 0;
  for (int t = 0; t < threads; t++) fibres[t]->started = false;
  next_epoch();
  position.first_epoch = position.epoch;
  while (error.empty()) {
    run_ready();
    if (!error.empty() || count(State::done) == threads) break;
    if (count(State::barrier) == threads) {
      next_epoch();
    } else {
      record_deadlock();
    }
  }
  if (!error.empty()) abandon();
}

template <class T>
void number(std::vector<T>& numbers, int64_t n) {
  numbers.resize(size_t(n));
  std::iota(numbers.begin(), numbers.end(), T(0));
  if (order_seed == 1) std::reverse(numbers.begin(), numbers.end());
}

void run_blocks(int64_t blocks) {
  while (int(fibres.size()) < threads) create_fibre();
  warps.resize(size_t(threads / kWarpSize));
  error.clear();
  shared_bytes = 0;
  shuffler.seed(uint64_t(order_seed));
  number(order, threads);
  std::vector<int64_t> block_order;
  number(block_order, blocks);
  arrange(block_order);
  begin_memory(threads);
  position.launch = ++last_launch;
  for (const int64_t block : block_order) {
    run_block(block);
    if (!error.empty()) break;
  }
  position.launch = 0, position.block = 0, position.thread = 0;
  end_memory();
}

void require_launch(const char* what) {
  if (!position.launch) throw std::runtime_error(std::string("emulator: ") + what + " outside of a launch");
}

}  // namespace

void emulate(const char* name, int64_t blocks, int block_threads, const std::function<void()>& kernel) {
  if (blocks == 0) return;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto refuse = [&](const std::string& what) {
    throw std::runtime_error("emulator: " + std::string(name) + ": " + what);
  };
  if (blocks < 0 || blocks > kMaxBlocks) refuse(std::to_string(blocks) + " blocks");
  if (block_threads < 1 || block_threads > kMaxThreads) refuse(std::to_string(block_threads) + " threads in a block");
  names.push_back(name);
  if (idle) return;
  if (blocks * block_threads > INT32_MAX) refuse("too many threads to emulate");
  body = &kernel;
  threads = block_threads;
  run_blocks(blocks);
  if (!error.empty()) refuse(error);
}

void fail(const std::string& what) { throw std::runtime_error(what); }

void sync() {
  require_launch("sync");
  wait(State::barrier);
}

float exchange(float value, int mask) {
  require_launch("exchange");
  if (threads % kWarpSize)
    fail("exchange in a block of " + std::to_string(threads) + " threads, which aren't whole warps");
  if (mask < 0 || mask >= kWarpSize) fail("exchange with the mask " + std::to_string(mask));
  Warp& warp = warps[position.thread / kWarpSize];
  const int lane = position.thread % kWarpSize;
  if (warp.arrived && warp.mask != mask) {
    fail("exchange with the mask " + std::to_string(mask) + " while others of the warp have " +
         std::to_string(warp.mask));
  }
  warp.mask = mask;
  warp.arriving[lane] = value;
  if (++warp.arrived < kWarpSize) {
    wait(State::exchange);
  } else {
    warp.arrived = 0;
    std::copy_n(warp.arriving, kWarpSize, warp.values);
    const int first_thread = position.thread - lane;
    for (int t = first_thread; t < first_thread + kWarpSize; t++) fibres[t]->state = State::ready;
  }
  return warp.values[lane ^ mask];
}

void use_shared(const char* name, int64_t bytes) {
  require_launch("a shared array");
  shared_bytes += (bytes + 15) / 16 * 16;
  if (shared_bytes > kMaxSharedBytes) {
    fail("too much shared memory: " + std::to_string(shared_bytes) + " bytes with the array " + name + ", at most " +
         std::to_string(kMaxSharedBytes));
  }
}

void fail_index(const char* name, int64_t i, int64_t n) {
  fail("index " + std::to_string(i) + " out of bounds of shared array " + name + "[" + std::to_string(n) + "]");
}

void fail_unwritten(const char* name, int i) {
  fail("read of shared array " + std::string(name) + "[" + std::to_string(i) + "], which nobody wrote");
}

void fail_race(const char* name, int i, int other_thread) {
  fail("race on shared array " + std::string(name) + "[" + std::to_string(i) + "] between threads " +
       std::to_string(other_thread) + " and " + std::to_string(position.thread));
}

std::vector<std::string> launch_names() {
  const std::lock_guard<std::mutex> lock(mutex);
  return names;
}

int64_t launches() { return int64_t(launch_names().size()); }

void reset_launches() {
  const std::lock_guard<std::mutex> lock(mutex);
  names.clear();
}

void set_order(int seed) {
  if (seed < 0) throw std::runtime_error("emulator: an order is 0, 1 or a larger seed, not " + std::to_string(seed));
  const std::lock_guard<std::mutex> lock(mutex);
  order_seed = seed;
}

void set_idle(bool value) {
  const std::lock_guard<std::mutex> lock(mutex);
  idle = value;
}

void define_emulator(pybind11::module_& m) {
  m.def("emulator_launches", &launch_names, "Returns the names of the kernels launched since the last reset.");
  m.def("emulator_reset", &reset_launches, "Forgets the launches so far.");
  m.def("emulator_order", &set_order, pybind11::arg("seed"),
        "Sets the order of threads between barriers and of blocks: 0 forward, 1 reverse, from 2 on shuffled by that "
        "seed.");
  m.def("emulator_idle", &set_idle, pybind11::arg("idle"), "Makes launches count without running.");
}

}  // namespace cuda
}  // namespace hsr
