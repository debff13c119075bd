// SPDX-License-Identifier: Apache-2.0
// What the binding functions share: addresses from Python become pointers, and the emulator learns what they point at.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <tuple>

#include "hsr/error.h"
#include "launchers.h"

#ifdef HSR_EMULATED
#include "emulator.h"
#endif

namespace hsr {
namespace cuda {

using Address = uintptr_t;
using Activation4 = std::tuple<int, double, double, double>;
using DeviceAndStream = std::tuple<int, uintptr_t>;

#ifndef HSR_EMULATED
// The emulator checks that kernels stay within the buffers of a call; a GPU's tools do so by themselves.
inline void extent(const void*, int64_t, bool) {}
struct Extents {
  Extents() {}
};
#endif

inline void* buffer(Address address, int64_t bytes, bool writable) {
  require(address != 0 || bytes == 0, "a tensor has no memory (is it a fake or meta tensor?)");
  if (bytes > 0) extent(reinterpret_cast<const void*>(address), bytes, writable);
  return reinterpret_cast<void*>(address);
}

// A buffer that is read. A tensor without storage (a fake one, say) is an error here rather than a crash in a kernel.
template <class T = void>
const T* input(Address address, int64_t bytes) {
  return static_cast<const T*>(buffer(address, bytes, false));
}
template <class T = void>
const T* optional_input(Address address, int64_t bytes) {
  return address ? input<T>(address, bytes) : nullptr;
}
// A buffer that is written.
template <class T = void>
T* output(Address address, int64_t bytes) {
  return static_cast<T*>(buffer(address, bytes, true));
}
template <class T = void>
T* optional_output(Address address, int64_t bytes) {
  return address ? output<T>(address, bytes) : nullptr;
}

inline int64_t bytes_of(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

inline DType dtype_of(int code) {
  require(code >= 0 && code <= 2, "the cuda backend computes in float32, float16 and bfloat16");
  return DType(code);
}

// Calls f with a value of the storage type.
template <class F>
void with_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32:
      return f(float{});
    case DType::float16:
      return f(half{});
    case DType::bfloat16:
      return f(bfloat16{});
    case DType::float64:
      require(false, "the cuda backend doesn't compute in float64");
  }
}

inline ActivationParams activation(const Activation4& a) {
  require(std::get<0>(a) >= 0 && std::get<0>(a) <= 8, "unknown activation code");
  return {std::get<0>(a), std::get<1>(a), std::get<2>(a), std::get<3>(a)};
}

inline Place place(const DeviceAndStream& where) { return {std::get<0>(where), std::get<1>(where)}; }

void define_bias_act(pybind11::module_& m);
void define_upfirdn2d(pybind11::module_& m);
void define_modulated_conv2d(pybind11::module_& m);

}  // namespace cuda
}  // namespace hsr
