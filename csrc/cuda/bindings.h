// SPDX-License-Identifier: Apache-2.0
// What the binding functions share: addresses from Python become pointers, and the emulator learns their extents.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <tuple>

#include "hsr/bindings.h"
#include "launchers.h"

#ifdef HSR_EMULATED
#include "emulator.h"
#endif

namespace hsr {
namespace cuda {

// The number of a device, and the handle of one of its streams.
using DeviceAndStream = std::tuple<int, uintptr_t>;
// n, c, h, w, oh, ow.
using FirSizes = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;
// up_x, up_y, down_x, down_y, pad_x, pad_y.
using FirSteps = std::tuple<int, int, int, int, int64_t, int64_t>;
// The address of the taps (0 for a tap of 1), taps_x, taps_y, separable, start, step_y, step_x, gain.
using Filter = std::tuple<Address, int, int, bool, int64_t, int64_t, int64_t, double>;

#ifndef HSR_EMULATED
// Only the emulator checks that kernels stay within the buffers of a call; a GPU has compute-sanitizer for it.
inline void extent(const void*, int64_t, bool) {}
struct Extents {
  Extents() {}
};
#endif

inline void* buffer(Address address, int64_t bytes, bool writable) {
  require(address != 0 || bytes == 0, kNoMemory);
  if (bytes > 0) extent(reinterpret_cast<const void*>(address), bytes, writable);
  return reinterpret_cast<void*>(address);
}

// A buffer that kernels read.
template <class T = void>
const T* input(Address address, int64_t bytes) {
  return static_cast<const T*>(buffer(address, bytes, false));
}
template <class T = void>
const T* optional_input(Address address, int64_t bytes) {
  return address ? input<T>(address, bytes) : nullptr;
}
// A buffer that kernels write.
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

inline Stream stream_of(const DeviceAndStream& tuple) { return {std::get<0>(tuple), std::get<1>(tuple)}; }

// The parameters of a FIR, less its output.
Upfirdn2dParams upfirdn2d_params(Address x, const Filter& filter, const FirSizes& sizes, const FirSteps& steps,
                                 Layout layout, int dtype);

void define_bias_act(pybind11::module_& m);
void define_upfirdn2d(pybind11::module_& m);
void define_modulated_conv2d(pybind11::module_& m);

}  // namespace cuda
}  // namespace hsr
