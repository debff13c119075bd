// SPDX-License-Identifier: Apache-2.0
// The names of csrc/cuda/device.h for the CPU. Kernels run one block after another, each thread as a fibre, and every
// access to memory is checked: bounds, alignment, races, elements that nobody wrote. Errors are thrown by emulate().
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

// What runs at this moment. An epoch lasts from one barrier to the next, and no two blocks share one.
struct Position {
  int64_t launch = 0;  // the number of the launch, 0 outside of one
  int64_t block = 0;
  int thread = 0;
  int64_t epoch = 0;
  int64_t first_epoch = 0;  // of the block
};
extern Position position;

// Runs body once per thread of each block.
void emulate(const char* name, int64_t blocks, int threads, const std::function<void()>& body);

// Makes a buffer known to the launches of this thread that follow. Where one is known, so must all others be.
void extent(const void* p, int64_t bytes, bool writable);
void clear_extents();

// Forgets the buffers at the end of a call.
struct Extents {
  Extents() = default;
  Extents(const Extents&) = delete;
  Extents& operator=(const Extents&) = delete;
  ~Extents() { clear_extents(); }
};

int64_t launches();                       // since the last reset
std::vector<std::string> launch_names();  // the same by name
void reset_launches();
void set_order(int seed);  // of threads between barriers, and of blocks: 0 forward, 1 reverse, from 2 on shuffled
void set_idle(bool idle);  // count launches without running them

// Defines emulator_launches, emulator_reset, emulator_order and emulator_idle.
void define_emulator(pybind11::module_& m);

inline int64_t block_index() { return position.block; }
inline int thread_index() { return position.thread; }
void sync();
float exchange(float value, int mask);

// Ends the launch with this error, at the thread that runs.
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

// Who touched an element of a shared array, and in which epoch; zeros at the start, as epochs count from 1.
struct SharedState {
  int64_t written, read;
  int16_t writer, reader, other_reader;  // reader and other_reader differ; other_reader may be -1
};

[[noreturn]] void fail_index(const char* name, int64_t i, int64_t n);
[[noreturn]] void fail_unwritten(const char* name, int i);
[[noreturn]] void fail_race(const char* name, int i, int before);
void use_shared(const char* name, int64_t bytes);

template <class T, int N>
class Shared {
 public:
  // Stands for T&, except that `auto` would copy the reference rather than the value.
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

  // A thread of the launch declares the array.
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
    const int16_t me = int16_t(position.thread);
    if (s.written < position.first_epoch) fail_unwritten(name_, i);
    if (s.written == position.epoch && s.writer != me) fail_race(name_, i, s.writer);
    if (s.read != position.epoch) {
      s.read = position.epoch, s.reader = me, s.other_reader = -1;
    } else if (s.reader != me && s.other_reader < 0) {
      s.other_reader = me;
    }
    return values_[i];
  }

  void set(int i, const T& value) {
    SharedState& s = states_[i];
    const int16_t me = int16_t(position.thread);
    if (s.written == position.epoch && s.writer != me) fail_race(name_, i, s.writer);
    if (s.read == position.epoch && s.reader != me) fail_race(name_, i, s.reader);
    if (s.read == position.epoch && s.other_reader >= 0) fail_race(name_, i, s.other_reader);
    s.written = position.epoch, s.writer = me;
    values_[i] = value;
  }

 private:
  // All zeros at the start, so that arrays take no room in the binary.
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
