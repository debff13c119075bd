// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>

#include "bindings.h"

namespace py = pybind11;

namespace hsr {
namespace cuda {
namespace {

using Sizes6 = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;  // n, c, h, w, oh, ow
using Steps6 = std::tuple<int, int, int, int, int64_t, int64_t>;  // up x, y, down x, y, padding before x, y
// Address (0: a tap of 1), width, height, whether it is an outer product; the first tap, steps y, x; gain.
using Filter = std::tuple<Address, int, int, bool, int64_t, int64_t, int64_t, double>;

// The filter; its extent is what a correlation's taps reach.
void take_filter(UpfirdnParams& p, const Filter& filter) {
  const auto& [address, width, height, separable, start, step_y, step_x, gain] = filter;
  require(width >= 1 && height >= 1 && width <= 64 && height <= 64, "a filter has 1 to 64 taps");
  require(address || (width == 1 && height == 1), "a filter without memory has one tap");
  require(!separable || (width == height && step_x == step_y), "an outer product is one of a filter with itself");
  p.taps_x = width, p.taps_y = height, p.separable = separable;
  const int64_t along_x = (width - 1) * step_x, along_y = separable ? 0 : (height - 1) * step_y;
  const int64_t least = start + (along_x < 0 ? along_x : 0) + (along_y < 0 ? along_y : 0);
  const int64_t most = start + (along_x > 0 ? along_x : 0) + (along_y > 0 ? along_y : 0);
  require(least >= 0 && most < 1 << 30, "a filter's taps lie within 2^30 elements from its address on");
  p.filter = {optional_input<float>(address, (most + 1) * 4), int(start), int(step_y), int(step_x), float(gain)};
}

UpfirdnParams upfirdn_params(Address x, const Filter& filter, const Sizes6& sizes, const Steps6& steps, Layout layout,
                             int dtype) {
  UpfirdnParams p{};
  std::tie(p.n, p.c, p.h, p.w, p.oh, p.ow) = sizes;
  std::tie(p.up_x, p.up_y, p.down_x, p.down_y, p.pad_x, p.pad_y) = steps;
  for (const int factor : {p.up_x, p.up_y, p.down_x, p.down_y})
    require(factor >= 1 && factor <= 64, "up and down must lie in [1, 64]");
  take_filter(p, filter);
  p.layout = layout;
  p.dtype = p.y_dtype = dtype_of(dtype);
  p.x = input(x, p.n * p.c * p.h * p.w * bytes_of(p.dtype));
  return p;
}

void upfirdn2d(Address x, Address y, const Filter& filter, const Sizes6& sizes, const Steps6& steps, int layout,
               int dtype, int y_dtype, const DeviceAndStream& where) {
  const Extents extents;
  UpfirdnParams p = upfirdn_params(x, filter, sizes, steps, Layout(layout), dtype);
  p.y_dtype = dtype_of(y_dtype);
  p.y = output(y, p.n * p.c * p.oh * p.ow * bytes_of(p.y_dtype));
  py::gil_scoped_release release;
  with_dtype(p.dtype, [&](auto zero) { launch_upfirdn2d<decltype(zero)>(p, place(where)); });
}

// `layout` is y's; x is channels_last. d, noise and b are float32 or absent.
void modulated_conv2d_fir_epilogue(Address x, const Filter& filter, const Sizes6& sizes, const Steps6& steps, int dtype,
                                   Address y, Address d, Address noise, int64_t noise_stride, Address b, int layout,
                                   int y_dtype, const Activation4& act, const DeviceAndStream& where) {
  const Extents extents;
  const UpfirdnParams fir = upfirdn_params(x, filter, sizes, steps, Layout::nhwc, dtype);
  EpilogueParams p{};
  p.fir = &fir;
  p.n = fir.n, p.c = fir.c, p.h = fir.oh, p.w = fir.ow;
  p.layout = Layout(layout);
  p.dtype = dtype_of(y_dtype);
  p.act = activation(act);
  p.d = optional_input(d, p.n * p.c * 4), p.b = optional_input(b, p.c * 4);
  p.noise = optional_input(noise, (noise_stride ? p.n : 1) * p.h * p.w * 4);
  p.noise_stride = noise_stride;
  p.out = output(y, p.n * p.c * p.h * p.w * bytes_of(p.dtype));
  py::gil_scoped_release release;
  with_dtype(p.dtype, [&](auto zero) { launch_modulated_conv2d_fir_epilogue<decltype(zero)>(p, place(where)); });
}

}  // namespace

void define_upfirdn2d(py::module_& m) {
  m.def("upfirdn2d", &upfirdn2d);
  m.def("modulated_conv2d_fir_epilogue", &modulated_conv2d_fir_epilogue);
}

}  // namespace cuda
}  // namespace hsr
