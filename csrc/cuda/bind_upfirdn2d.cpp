// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>

#include "bindings.h"

namespace py = pybind11;

namespace hsr {
namespace cuda {
namespace {

// Sets the filter; its extent is what the taps of the correlation reach.
void set_filter(Upfirdn2dParams& p, const Filter& filter) {
  const auto& [address, width, height, separable, start, step_y, step_x, gain] = filter;
  require(width >= 1 && height >= 1 && width <= 64 && height <= 64, "a filter has 1 to 64 taps");
  require(address || (width == 1 && height == 1), "a filter without memory has one tap");
  require(!separable || (width == height && step_x == step_y), "an outer product is one of a filter with itself");
  p.taps_x = width, p.taps_y = height, p.separable = separable;
  const int64_t along_x = (width - 1) * step_x, along_y = separable ? 0 : (height - 1) * step_y;
  const int64_t min_index = start + (along_x < 0 ? along_x : 0) + (along_y < 0 ? along_y : 0);
  const int64_t max_index = start + (along_x > 0 ? along_x : 0) + (along_y > 0 ? along_y : 0);
  require(min_index >= 0 && max_index < 1 << 30, "a filter's taps must lie within 2^30 elements of its address");
  p.filter = {optional_input<float>(address, (max_index + 1) * 4), int(start), int(step_y), int(step_x), float(gain)};
}

}  // namespace

Upfirdn2dParams upfirdn2d_params(Address x, const Filter& filter, const FirSizes& sizes, const FirSteps& steps,
                                 Layout layout, int dtype) {
  Upfirdn2dParams p{};
  std::tie(p.n, p.c, p.h, p.w, p.oh, p.ow) = sizes;
  std::tie(p.up_x, p.up_y, p.down_x, p.down_y, p.pad_x, p.pad_y) = steps;
  for (const int factor : {p.up_x, p.up_y, p.down_x, p.down_y})
    require(factor >= 1 && factor <= 64, "up and down must lie in [1, 64]");
  set_filter(p, filter);
  p.layout = layout;
  p.dtype = p.y_dtype = dtype_of(dtype);
  p.x = input(x, p.n * p.c * p.h * p.w * bytes_of(p.dtype));
  return p;
}

namespace {

void upfirdn2d(Address x, Address y, const Filter& filter, const FirSizes& sizes, const FirSteps& steps, int layout,
               int dtype, int y_dtype, const DeviceAndStream& device_and_stream) {
  const Extents extents;
  Upfirdn2dParams p = upfirdn2d_params(x, filter, sizes, steps, Layout(layout), dtype);
  p.y_dtype = dtype_of(y_dtype);
  p.y = output(y, p.n * p.c * p.oh * p.ow * bytes_of(p.y_dtype));
  py::gil_scoped_release release;
  with_dtype(p.dtype, [&](auto zero) { launch_upfirdn2d<decltype(zero)>(p, stream_of(device_and_stream)); });
}

}  // namespace

void define_upfirdn2d(py::module_& m) { m.def("upfirdn2d", &upfirdn2d); }

}  // namespace cuda
}  // namespace hsr
