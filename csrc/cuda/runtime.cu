// SPDX-License-Identifier: Apache-2.0
// What CUDA's runtime says about the machine, and its errors in sentences.
#include "launch.h"

namespace hsr {
namespace cuda {

#ifdef __CUDACC__

namespace {

__global__ void probe_kernel() {}

std::string describe(cudaError_t status) {
  switch (status) {
    case cudaErrorInsufficientDriver:
      return "there is no NVIDIA driver, or it is older than CUDA " + std::to_string(CUDART_VERSION / 1000) + "." +
             std::to_string(CUDART_VERSION % 1000 / 10) + " needs";
    case cudaErrorNoDevice:
      return "there is no CUDA device";
    case cudaErrorNoKernelImageForDevice:
      return std::string("the extension was compiled for ") + architectures() +
             ", not for this GPU; reinstall with HSR_CUDA_ARCHS set to its architecture";
    default:
      return std::string(cudaGetErrorString(status)) + " (" + cudaGetErrorName(status) + ")";
  }
}

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  // Clears the error, which would otherwise fail the next launch as well.
  cudaGetLastError();
  throw std::runtime_error(std::string("hsr_kernels: ") + what + " couldn't be launched: " + describe(status));
}

DeviceGuard::DeviceGuard(int device) : previous_(device) {
  check(cudaGetDevice(&previous_), "a kernel");
  if (previous_ != device) check(cudaSetDevice(device), "a kernel");
  if (previous_ == device) previous_ = -1;
}

DeviceGuard::~DeviceGuard() {
  if (previous_ >= 0) cudaSetDevice(previous_);
}

std::string problem() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess) return "";
  cudaGetLastError();
  return describe(status);
}

std::string problem_of(int device) {
  const DeviceGuard guard(device);
  cudaFuncAttributes attributes;
  const cudaError_t status = cudaFuncGetAttributes(&attributes, probe_kernel);
  if (status == cudaSuccess) return "";
  cudaGetLastError();
  return describe(status);
}

const char* architectures() { return HSR_ARCHITECTURES; }

#else

std::string problem() { return ""; }
std::string problem_of(int) { return ""; }
const char* architectures() { return "the emulator"; }

#endif

}  // namespace cuda
}  // namespace hsr
