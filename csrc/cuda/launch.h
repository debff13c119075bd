// SPDX-License-Identifier: Apache-2.0
// Launches kernels on the caller's device and stream; every error becomes a sentence.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "device.h"
#include "hsr/params.h"
#include "launchers.h"

namespace hsr {
namespace cuda {

template <class T>
struct Same {
  using type = T;
};

constexpr int64_t kMostBlocks = 0x7fffffff;   // of a grid
constexpr int64_t kInt32 = int64_t(1) << 30;  // offsets below this fit 32 bits, those beyond the end of a tile too

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// What is compiled of a launcher.
#define HSR_INSTANTIATE(launcher, Params)                      \
  template void launcher<float>(const Params&, const Stream&); \
  template void launcher<half>(const Params&, const Stream&);  \
  template void launcher<bfloat16>(const Params&, const Stream&)

#ifdef __CUDACC__

// Throws unless `status` is success.
void check(cudaError_t status, const char* what);

// Makes a device the current one, and the earlier one again at the end.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();

 private:
  int before_;
};

template <class... A>
void launch(const char* name, void (*kernel)(A...), const Stream& stream, int64_t blocks, int threads,
            typename Same<A>::type... arguments) {
  if (blocks == 0) return;
  if (blocks > kMostBlocks) throw std::runtime_error(std::string("hsr_kernels: too many blocks for ") + name);
  const OnDevice device(stream.device);
  void* pointers[] = {&arguments...};
  check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(unsigned(blocks)), dim3(unsigned(threads)),
                         pointers, 0, reinterpret_cast<cudaStream_t>(stream.handle)),
        name);
}

#else

template <class... A>
void launch(const char* name, void (*kernel)(A...), const Stream&, int64_t blocks, int threads,
            typename Same<A>::type... arguments) {
  emulate(name, blocks, threads, [&] { kernel(arguments...); });
}

#endif

// Calls f with an index type that holds offsets up to n.
template <class F>
void with_index(int64_t n, F&& f) {
  if (n < kInt32) {
    f(int32_t{});
  } else {
    f(int64_t{});
  }
}

}  // namespace cuda
}  // namespace hsr
