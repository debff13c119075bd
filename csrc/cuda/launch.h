// SPDX-License-Identifier: Apache-2.0
// Launches kernels on the caller's device and stream, and turns errors into sentences.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "device.h"
#include "hsr/params.h"
#include "launchers.h"

namespace hsr {
namespace cuda {

// Keeps a parameter from deducing T.
template <class T>
struct Identity {
  using type = T;
};

// The limit of CUDA's grids.
constexpr int64_t kMaxBlocks = 0x7fffffff;
// Smaller tensors have 32-bit offsets; these then also hold offsets up to a tile beyond the end.
constexpr int64_t kMaxInt32Elements = int64_t(1) << 30;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Compiles a launcher for each storage type.
#define HSR_INSTANTIATE(launcher, Params)                      \
  template void launcher<float>(const Params&, const Stream&); \
  template void launcher<half>(const Params&, const Stream&);  \
  template void launcher<bfloat16>(const Params&, const Stream&)

#ifdef __CUDACC__

// Throws unless `status` is success.
void check(cudaError_t status, const char* what);

// Makes a device the current one until the end of its scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();

 private:
  // The device to return to, or -1.
  int previous_;
};

template <class... A>
void launch(const char* name, void (*kernel)(A...), const Stream& stream, int64_t blocks, int threads,
            typename Identity<A>::type... arguments) {
  if (blocks == 0) return;
  if (blocks > kMaxBlocks) throw std::runtime_error(std::string("hsr_kernels: too many blocks for ") + name);
  const DeviceGuard guard(stream.device);
  void* pointers[] = {&arguments...};
  check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(unsigned(blocks)), dim3(unsigned(threads)),
                         pointers, 0, reinterpret_cast<cudaStream_t>(stream.handle)),
        name);
}

#else

template <class... A>
void launch(const char* name, void (*kernel)(A...), const Stream&, int64_t blocks, int threads,
            typename Identity<A>::type... arguments) {
  emulate(name, blocks, threads, [&] { kernel(arguments...); });
}

#endif

// Calls f with a zero of an index type that holds offsets up to n.
template <class F>
void with_index(int64_t n, F&& f) {
  if (n < kMaxInt32Elements) {
    f(int32_t{});
  } else {
    f(int64_t{});
  }
}

}  // namespace cuda
}  // namespace hsr
