// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>

#include "bindings.h"

namespace py = pybind11;

namespace hsr {
namespace cuda {
namespace {

using Size3 = std::tuple<int64_t, int64_t, int64_t>;           // n, c, h * w
using Size4 = std::tuple<int64_t, int64_t, int64_t, int64_t>;  // n, c, h, w; or n, o, c, k

ScaleParams scale_params(Address x, Address s, const Size3& size, int layout, int dtype) {
  ScaleParams p{};
  std::tie(p.n, p.c, p.hw) = size;
  p.layout = Layout(layout), p.dtype = dtype_of(dtype);
  p.x = input(x, p.n * p.c * p.hw * bytes_of(p.dtype)), p.s = input(s, p.n * p.c * 4);
  return p;
}

void scale_channels(Address x, Address s, Address u, const Size3& size, int layout, int dtype,
                    const DeviceAndStream& where) {
  const Extents extents;
  ScaleParams p = scale_params(x, s, size, layout, dtype);
  p.out = output(u, p.n * p.c * p.hw * bytes_of(p.dtype));
  py::gil_scoped_release release;
  with_dtype(p.dtype, [&](auto zero) { launch_scale_channels<decltype(zero)>(p, place(where)); });
}

void scale_channels_bwd(Address du, Address x, Address s, Address dx, Address partial, const Size3& size, int layout,
                        int dtype, const DeviceAndStream& where) {
  const Extents extents;
  ScaleParams p = scale_params(x, s, size, layout, dtype);
  const int64_t bytes = p.n * p.c * p.hw * bytes_of(p.dtype);
  p.du = input(du, bytes), p.out = output(dx, bytes);
  p.partial = output<float>(partial, p.n * tile_sums(p.n, p.c, p.hw).parts * p.c * 4);
  py::gil_scoped_release release;
  with_dtype(p.dtype, [&](auto zero) { launch_scale_channels_bwd<decltype(zero)>(p, place(where)); });
}

// What every epilogue reads besides its images.
EpilogueParams epilogue_params(Address d, Address noise, int64_t noise_stride, Address b, const Size4& size, int layout,
                               int dtype, const Activation4& act) {
  EpilogueParams p{};
  std::tie(p.n, p.c, p.h, p.w) = size;
  p.layout = Layout(layout), p.dtype = dtype_of(dtype), p.act = activation(act);
  const int64_t maps = p.n == 0 ? 0 : noise_stride ? p.n : 1;
  p.d = optional_input(d, p.n * p.c * 4), p.b = optional_input(b, p.c * 4);
  p.noise = optional_input(noise, maps * p.h * p.w * 4), p.noise_stride = noise_stride;
  return p;
}

int64_t image_bytes(const EpilogueParams& p) { return p.n * p.c * p.h * p.w * bytes_of(p.dtype); }

// The partial sums of a backward, and the map of those over channels.
void set_sums(EpilogueParams& p, Address partial, int64_t kinds, Address map) {
  const TileSums sums = tile_sums(p.n, p.c, p.h * p.w);
  p.partial = output<float>(partial, kinds * p.n * sums.parts * p.c * 4);
  p.dnoise = optional_output(map, sums.channel_blocks * p.n * p.h * p.w * 4);
}

void modulated_conv2d_epilogue(Address z, Address y, Address d, Address noise, int64_t noise_stride, Address b,
                               const Size4& size, int layout, int dtype, const Activation4& act,
                               const DeviceAndStream& where) {
  const Extents extents;
  EpilogueParams p = epilogue_params(d, noise, noise_stride, b, size, layout, dtype, act);
  p.z = input(z, image_bytes(p)), p.out = output(y, image_bytes(p));
  py::gil_scoped_release release;
  with_dtype(p.dtype, [&](auto zero) { launch_modulated_conv2d_epilogue<decltype(zero)>(p, place(where)); });
}

void modulated_conv2d_epilogue_bwd(Address dy, Address y, Address dz, Address d, Address noise, int64_t noise_stride,
                                   Address b, Address partial, Address dnoise, const Size4& size, int layout, int dtype,
                                   const Activation4& act, const DeviceAndStream& where) {
  const Extents extents;
  EpilogueParams p = epilogue_params(d, noise, noise_stride, b, size, layout, dtype, act);
  const int64_t bytes = image_bytes(p);
  p.dy = input(dy, bytes), p.y = input(y, bytes), p.out = output(dz, bytes);
  set_sums(p, partial, 2, dnoise);
  py::gil_scoped_release release;
  with_dtype(p.dtype, [&](auto zero) { launch_modulated_conv2d_epilogue_bwd<decltype(zero)>(p, place(where)); });
}

void modulated_conv2d_epilogue_bwd_bwd(Address ddz, Address ratio, Address ddnoise, Address ddb, Address dy, Address y,
                                       Address d, Address noise, int64_t noise_stride, Address b, Address gdy,
                                       Address gy, Address partial, Address gnoise, const Size4& size, int layout,
                                       int dtype, const Activation4& act, const DeviceAndStream& where) {
  const Extents extents;
  EpilogueParams p = epilogue_params(d, noise, noise_stride, b, size, layout, dtype, act);
  const int64_t bytes = image_bytes(p);
  p.z = input(ddz, bytes), p.dy = input(dy, bytes), p.y = input(y, bytes);
  p.ratio = input(ratio, p.n * p.c * 4), p.ddb = input(ddb, p.c * 4);
  p.ddnoise = optional_input(ddnoise, p.n * p.h * p.w * 4);
  p.out = output(gdy, bytes), p.gy = output(gy, bytes);
  set_sums(p, partial, 3, gnoise);
  py::gil_scoped_release release;
  with_dtype(p.dtype, [&](auto zero) { launch_modulated_conv2d_epilogue_bwd_bwd<decltype(zero)>(p, place(where)); });
}

void demodulation(Address weight, Address styles, Address w, Address s, Address d, const Size4& size,
                  const std::tuple<int, int, int>& dtypes, bool prescale, bool flip, bool weight_last,
                  bool channels_last, const DeviceAndStream& where) {
  const Extents extents;
  DemodulationParams p{};
  std::tie(p.n, p.o, p.c, p.k) = size;
  p.weight_dtype = dtype_of(std::get<0>(dtypes)), p.styles_dtype = dtype_of(std::get<1>(dtypes));
  p.dtype = dtype_of(std::get<2>(dtypes));
  p.prescale = prescale, p.flip = flip, p.weight_last = weight_last, p.channels_last = channels_last;
  const int64_t weights = p.o * p.c * p.k;
  p.weight = input(weight, weights * bytes_of(p.weight_dtype));
  p.styles = input(styles, p.n * p.c * bytes_of(p.styles_dtype));
  p.w = optional_output(w, weights * bytes_of(p.dtype)), p.s = optional_output<float>(s, p.n * p.c * 4);
  p.d = output<float>(d, p.n * p.o * 4);
  py::gil_scoped_release release;
  launch_demodulation(p, place(where));
}

// (parts, blocks of channels) of the partial sums of a backward on images [n, c, hw].
std::tuple<int64_t, int64_t> sums_of(int64_t n, int64_t c, int64_t hw) {
  const TileSums sums = tile_sums(n, c, hw);
  return {sums.parts, sums.channel_blocks};
}

}  // namespace

void define_modulated_conv2d(py::module_& m) {
  m.def("tile_sums", &sums_of);
  m.def("scale_channels", &scale_channels);
  m.def("scale_channels_bwd", &scale_channels_bwd);
  m.def("modulated_conv2d_epilogue", &modulated_conv2d_epilogue);
  m.def("modulated_conv2d_epilogue_bwd", &modulated_conv2d_epilogue_bwd);
  m.def("modulated_conv2d_epilogue_bwd_bwd", &modulated_conv2d_epilogue_bwd_bwd);
  m.def("demodulation", &demodulation);
}

}  // namespace cuda
}  // namespace hsr
