// SPDX-License-Identifier: Apache-2.0
// The names of csrc/cuda/device.h for the CPU. Kernels run one block after another, each thread as a fibre, and every
// access to memory is checked: bounds, alignment, races, elements that no thread wrote. emulate() throws the errors.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#define HSR_DEVICE inline
#define HSR_KERNEL(threads) void
#define HSR_KERNEL_OF(threads, blocks) void
// The array is static, so that every fibre sees the same one, and each instantiation of a kernel has its own.
#define HSR_SHARED(T, n, name)               \
  static ::hsr::cuda::Shared<T, (n)> name{}; \
  name.use(#name)

namespace pybind11 {
class module_;
}

namespace hsr {
namespace cuda {

// What is running. An epoch lasts from one barrier to the next, and no two blocks share one.
struct Position {
  // The number of the launch, or 0 between launches.
  int64_t launch = 0;
  int64_t block = 0;
  int thread = 0;
  int64_t epoch = 0;
  // The first epoch of the block.
  int64_t first_epoch = 0;
};
extern Position position;

// Runs body once per thread of each block.
void emulate(const char* name, int64_t blocks, int threads, const std::function<void()>& body);

// Declares a buffer to the next launches of this thread. Once a buffer is declared, kernels may touch no other memory.
void extent(const void* p, int64_t bytes, bool writable);
void clear_extents();

// Clears the declared buffers at the end of a call.
struct Extents {
  Extents() = default;
  Extents(const Extents&) = delete;
  Extents& operator=(const Extents&) = delete;
  ~Extents() { clear_extents(); }
};

// Return the number and the names of the launches since the last reset.
int64_t launches();
std::vector<std::string> launch_names();
void reset_launches();
// Sets the order of threads between barriers and of blocks: 0 forward, 1 reverse, from 2 on shuffled.
void set_order(int seed);
// Makes emulate() record launches without running them.
void set_idle(bool idle);

// Defines emulator_launches, emulator_reset, emulator_order and emulator_idle.
void define_emulator(pybind11::module_& m);

inline int64_t block_index() { return position.block; }
inline int thread_index() { return position.thread; }
void sync();
float exchange(float value, int mask);

// Ends the launch with this error of the running thread.
[[noreturn]] void fail(const std::string& what);

void check_load(const void* p, int bytes, int alignment);
void check_store(const void* p, int bytes, int alignment);

template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T v[V];
};
template <class T>
T load(const T* p) {
  check_load(p, sizeof(T), alignof(T));
  return *p;
}
template <class T>
void store(T* p, const T& value) {
  check_store(p, sizeof(T), alignof(T));
  *p = value;
}

// The threads that touched an element of a shared array last, and the epochs in which they did; epochs count from 1, so
// 0 is none.
struct SharedState {
  int64_t write_epoch, read_epoch;
  // The two readers differ; other_reader is -1 if there is none.
  int16_t writer, reader, other_reader;
};

[[noreturn]] void fail_index(const char* name, int64_t i, int64_t n);
[[noreturn]] void fail_unwritten(const char* name, int i);
[[noreturn]] void fail_race(const char* name, int i, int other_thread);
void use_shared(const char* name, int64_t bytes);

template <class T, int N>
class Shared {
 public:
  // Stands for T&, except that `auto` copies the reference rather than the value.
  class Element {
   public:
    Element(Shared& array, int i) : array_(array), i_(i) {}
    Element(const Element&) = default;
    operator T() const { return array_.get(i_); }
    const Element& operator=(const T& value) const {
      array_.set(i_, value);
      return *this;
    }
    const Element& operator=(const Element& other) const { return *this = T(other); }
    const Element& operator+=(const T& value) const { return *this = T(T(*this) + value); }
    const Element& operator-=(const T& value) const { return *this = T(T(*this) - value); }
    const Element& operator*=(const T& value) const { return *this = T(T(*this) * value); }

   private:
    Shared& array_;
    int i_;
  };

  Element operator[](int i) {
    check(i, 1);
    return {*this, i};
  }

  // Called by each thread of a launch where it declares the array.
  void use(const char* name) {
    if (position.launch && launch_ == position.launch) return;
    name_ = name;
    use_shared(name, sizeof(T) * N);
    launch_ = position.launch;
  }

  void check(int i, int count) const {
    if (i < 0 || i > N - count) fail_index(name_, i, N);
  }

  T get(int i) {
    SharedState& s = states_[i];
    const int16_t self = int16_t(position.thread);
    if (s.write_epoch < position.first_epoch) fail_unwritten(name_, i);
    if (s.write_epoch == position.epoch && s.writer != self) fail_race(name_, i, s.writer);
    if (s.read_epoch != position.epoch) {
      s.read_epoch = position.epoch, s.reader = self, s.other_reader = -1;
    } else if (s.reader != self && s.other_reader < 0) {
      s.other_reader = self;
    }
    return values_[i];
  }

  void set(int i, const T& value) {
    SharedState& s = states_[i];
    const int16_t self = int16_t(position.thread);
    if (s.write_epoch == position.epoch && s.writer != self) fail_race(name_, i, s.writer);
    if (s.read_epoch == position.epoch && s.reader != self) fail_race(name_, i, s.reader);
    if (s.read_epoch == position.epoch && s.other_reader >= 0) fail_race(name_, i, s.other_reader);
    s.write_epoch = position.epoch, s.writer = self;
    values_[i] = value;
  }

 private:
  // Initialised to zeros, so that arrays take no space in the binary.
  T values_[N];
  SharedState states_[N];
  const char* name_;
  int64_t launch_;
};

template <int V, class T, int N>
Pack<T, V> shared_load(Shared<T, N>& array, int i) {
  static_assert(sizeof(T) * V <= 16, "shared arrays are aligned to 16 bytes");
  array.check(i, V);
  if (i % V) fail("shared_load of " + std::to_string(V) + " elements is misaligned at " + std::to_string(i));
  Pack<T, V> pack;
  for (int j = 0; j < V; j++) pack.v[j] = array.get(i + j);
  return pack;
}
template <int V, class T, int N>
void shared_store(Shared<T, N>& array, int i, const Pack<T, V>& pack) {
  static_assert(sizeof(T) * V <= 16, "shared arrays are aligned to 16 bytes");
  array.check(i, V);
  if (i % V) fail("shared_store of " + std::to_string(V) + " elements is misaligned at " + std::to_string(i));
  for (int j = 0; j < V; j++) array.set(i + j, pack.v[j]);
}

}  // namespace cuda
}  // namespace hsr
