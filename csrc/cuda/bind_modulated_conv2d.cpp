// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>

#include "bindings.h"

namespace py = pybind11;

namespace hsr {
namespace cuda {
namespace {

// n, c, h * w.
using PlaneSizes = std::tuple<int64_t, int64_t, int64_t>;
// n, c, h, w.
using ImageSizes = std::tuple<int64_t, int64_t, int64_t, int64_t>;
// n, o, c, k.
using WeightSizes = std::tuple<int64_t, int64_t, int64_t, int64_t>;

ScaleChannelsParams scale_channels_params(Address x, Address s, const PlaneSizes& sizes, int layout, int dtype) {
  ScaleChannelsParams p{};
  std::tie(p.n, p.c, p.hw) = sizes;
  p.layout = Layout(layout), p.dtype = dtype_of(dtype);
  p.x = input(x, p.n * p.c * p.hw * bytes_of(p.dtype)), p.s = input(s, p.n * p.c * 4);
  return p;
}

void scale_channels(Address x, Address s, Address u, const PlaneSizes& sizes, int layout, int dtype,
                    const DeviceAndStream& device_and_stream) {
  const Extents extents;
  ScaleChannelsParams p = scale_channels_params(x, s, sizes, layout, dtype);
  p.out = output(u, p.n * p.c * p.hw * bytes_of(p.dtype));
  py::gil_scoped_release release;
  with_dtype(p.dtype, [&](auto zero) { launch_scale_channels<decltype(zero)>(p, stream_of(device_and_stream)); });
}

void scale_channels_bwd(Address du, Address x, Address s, Address dx, Address partial, const PlaneSizes& sizes,
                        int layout, int dtype, const DeviceAndStream& device_and_stream) {
  const Extents extents;
  ScaleChannelsParams p = scale_channels_params(x, s, sizes, layout, dtype);
  const int64_t bytes = p.n * p.c * p.hw * bytes_of(p.dtype);
  p.du = input(du, bytes), p.out = output(dx, bytes);
  p.partial = output<float>(partial, p.n * tile_sums(p.n, p.c, p.hw).parts * p.c * 4);
  py::gil_scoped_release release;
  with_dtype(p.dtype, [&](auto zero) { launch_scale_channels_bwd<decltype(zero)>(p, stream_of(device_and_stream)); });
}

// The parameters of an epilogue, less its images.
ModulatedConv2dEpilogueParams epilogue_params(Address d, Address noise, int64_t noise_stride, Address b,
                                              const ImageSizes& sizes, int layout, int dtype,
                                              const ActivationTuple& act) {
  ModulatedConv2dEpilogueParams p{};
  std::tie(p.n, p.c, p.h, p.w) = sizes;
  p.layout = Layout(layout), p.dtype = dtype_of(dtype), p.act = activation_params(act);
  const int64_t maps = p.n == 0 ? 0 : noise_stride ? p.n : 1;
  p.d = optional_input(d, p.n * p.c * 4), p.b = optional_input(b, p.c * 4);
  p.noise = optional_input(noise, maps * p.h * p.w * 4), p.noise_stride = noise_stride;
  return p;
}

int64_t image_bytes(const ModulatedConv2dEpilogueParams& p) { return p.n * p.c * p.h * p.w * bytes_of(p.dtype); }

// Sets the partial sums of a backward, and the map of its sums over channels.
void set_sums(ModulatedConv2dEpilogueParams& p, Address partial, int64_t kinds, Address map) {
  const TileSums sums = tile_sums(p.n, p.c, p.h * p.w);
  p.partial = output<float>(partial, kinds * p.n * sums.parts * p.c * 4);
  p.dnoise = optional_output(map, sums.channel_blocks * p.n * p.h * p.w * 4);
}

void modulated_conv2d_epilogue(Address z, Address y, Address d, Address noise, int64_t noise_stride, Address b,
                               const ImageSizes& sizes, int layout, int dtype, const ActivationTuple& act,
                               const DeviceAndStream& device_and_stream) {
  const Extents extents;
  ModulatedConv2dEpilogueParams p = epilogue_params(d, noise, noise_stride, b, sizes, layout, dtype, act);
  p.z = input(z, image_bytes(p)), p.out = output(y, image_bytes(p));
  py::gil_scoped_release release;
  with_dtype(p.dtype,
             [&](auto zero) { launch_modulated_conv2d_epilogue<decltype(zero)>(p, stream_of(device_and_stream)); });
}

// `sizes` and `steps` are the filter's, `layout` is that of y; x is channels_last.
void modulated_conv2d_fir_epilogue(Address x, const Filter& filter, const FirSizes& sizes, const FirSteps& steps,
                                   int dtype, Address y, Address d, Address noise, int64_t noise_stride, Address b,
                                   int layout, int y_dtype, const ActivationTuple& act,
                                   const DeviceAndStream& device_and_stream) {
  const Extents extents;
  const Upfirdn2dParams fir = upfirdn2d_params(x, filter, sizes, steps, Layout::nhwc, dtype);
  ModulatedConv2dEpilogueParams p =
      epilogue_params(d, noise, noise_stride, b, {fir.n, fir.c, fir.oh, fir.ow}, layout, y_dtype, act);
  p.fir = &fir;
  p.out = output(y, image_bytes(p));
  py::gil_scoped_release release;
  with_dtype(p.dtype,
             [&](auto zero) { launch_modulated_conv2d_fir_epilogue<decltype(zero)>(p, stream_of(device_and_stream)); });
}

void modulated_conv2d_epilogue_bwd(Address dy, Address y, Address dz, Address d, Address noise, int64_t noise_stride,
                                   Address b, Address partial, Address dnoise, const ImageSizes& sizes, int layout,
                                   int dtype, const ActivationTuple& act, const DeviceAndStream& device_and_stream) {
  const Extents extents;
  ModulatedConv2dEpilogueParams p = epilogue_params(d, noise, noise_stride, b, sizes, layout, dtype, act);
  const int64_t bytes = image_bytes(p);
  p.dy = input(dy, bytes), p.y = input(y, bytes), p.out = output(dz, bytes);
  set_sums(p, partial, 2, dnoise);
  py::gil_scoped_release release;
  with_dtype(p.dtype,
             [&](auto zero) { launch_modulated_conv2d_epilogue_bwd<decltype(zero)>(p, stream_of(device_and_stream)); });
}

void modulated_conv2d_epilogue_bwd_bwd(Address ddz, Address ratio, Address ddnoise, Address ddb, Address dy, Address y,
                                       Address d, Address noise, int64_t noise_stride, Address b, Address gdy,
                                       Address gy, Address partial, Address gnoise, const ImageSizes& sizes, int layout,
                                       int dtype, const ActivationTuple& act,
                                       const DeviceAndStream& device_and_stream) {
  const Extents extents;
  ModulatedConv2dEpilogueParams p = epilogue_params(d, noise, noise_stride, b, sizes, layout, dtype, act);
  const int64_t bytes = image_bytes(p);
  p.z = input(ddz, bytes), p.dy = input(dy, bytes), p.y = input(y, bytes);
  p.ratio = input(ratio, p.n * p.c * 4), p.ddb = input(ddb, p.c * 4);
  p.ddnoise = optional_input(ddnoise, p.n * p.h * p.w * 4);
  p.out = output(gdy, bytes), p.gy = output(gy, bytes);
  set_sums(p, partial, 3, gnoise);
  py::gil_scoped_release release;
  with_dtype(p.dtype, [&](auto zero) {
    launch_modulated_conv2d_epilogue_bwd_bwd<decltype(zero)>(p, stream_of(device_and_stream));
  });
}

// The dtypes of weight, styles and w.
using DemodulationDTypes = std::tuple<int, int, int>;

void set_operands(DemodulationOperands& p, Address weight, Address styles, const WeightSizes& sizes,
                  const DemodulationDTypes& dtypes, bool prescale, bool flip, bool weight_channels_last) {
  std::tie(p.n, p.o, p.c, p.k) = sizes;
  p.weight_dtype = dtype_of(std::get<0>(dtypes)), p.styles_dtype = dtype_of(std::get<1>(dtypes));
  p.dtype = dtype_of(std::get<2>(dtypes));
  p.prescale = prescale, p.flip = flip, p.weight_channels_last = weight_channels_last;
  p.weight = input(weight, p.o * p.c * p.k * bytes_of(p.weight_dtype));
  p.styles = input(styles, p.n * p.c * bytes_of(p.styles_dtype));
}

void demodulation(Address weight, Address styles, Address w, Address s, Address d, const WeightSizes& sizes,
                  const DemodulationDTypes& dtypes, bool prescale, bool flip, bool weight_channels_last,
                  bool channels_last, const DeviceAndStream& device_and_stream) {
  const Extents extents;
  DemodulationParams p{};
  set_operands(p, weight, styles, sizes, dtypes, prescale, flip, weight_channels_last);
  p.channels_last = channels_last;
  p.w = optional_output(w, p.o * p.c * p.k * bytes_of(p.dtype)), p.s = optional_output<float>(s, p.n * p.c * 4);
  p.d = output<float>(d, p.n * p.o * 4);
  py::gil_scoped_release release;
  launch_demodulation(p, stream_of(device_and_stream));
}

// `dw_strides` are those along o, c and k.
void demodulation_bwd(Address weight, Address styles, Address s, Address d, Address dw,
                      const std::tuple<int64_t, int64_t, int64_t>& dw_strides, Address ds, Address dd, Address dweight,
                      Address dstyles, Address energy, const WeightSizes& sizes, const DemodulationDTypes& dtypes,
                      bool prescale, bool flip, bool weight_channels_last, const DeviceAndStream& device_and_stream) {
  const Extents extents;
  DemodulationBwdParams p{};
  set_operands(p, weight, styles, sizes, dtypes, prescale, flip, weight_channels_last);
  std::tie(p.dw_stride_o, p.dw_stride_c, p.dw_stride_k) = dw_strides;
  const int64_t weights = p.o * p.c * p.k;
  // From the first element of dw to its last, as it may have gaps.
  const int64_t dw_span = (p.o - 1) * p.dw_stride_o + (p.c - 1) * p.dw_stride_c + (p.k - 1) * p.dw_stride_k + 1;
  p.s = input<float>(s, p.n * p.c * 4), p.d = input<float>(d, p.n * p.o * 4);
  p.dw = optional_input(dw, weights ? dw_span * bytes_of(p.dtype) : 0);
  p.ds = optional_input<float>(ds, p.n * p.c * 4), p.dd = input<float>(dd, p.n * p.o * 4);
  p.dweight = optional_output(dweight, weights * bytes_of(p.weight_dtype));
  p.dstyles = optional_output(dstyles, p.n * p.c * bytes_of(p.styles_dtype));
  p.energy = optional_output<float>(energy, p.o * p.c * 4);
  py::gil_scoped_release release;
  launch_demodulation_bwd(p, stream_of(device_and_stream));
}

// Returns (parts, channel blocks) of the partial sums of a backward on images [n, c, hw].
std::tuple<int64_t, int64_t> tile_sums_tuple(int64_t n, int64_t c, int64_t hw) {
  const TileSums sums = tile_sums(n, c, hw);
  return {sums.parts, sums.channel_blocks};
}

}  // namespace

void define_modulated_conv2d(py::module_& m) {
  m.def("tile_sums", &tile_sums_tuple);
  m.def("scale_channels", &scale_channels);
  m.def("scale_channels_bwd", &scale_channels_bwd);
  m.def("modulated_conv2d_epilogue", &modulated_conv2d_epilogue);
  m.def("modulated_conv2d_fir_epilogue", &modulated_conv2d_fir_epilogue);
  m.def("modulated_conv2d_epilogue_bwd", &modulated_conv2d_epilogue_bwd);
  m.def("modulated_conv2d_epilogue_bwd_bwd", &modulated_conv2d_epilogue_bwd_bwd);
  m.def("demodulation", &demodulation);
  m.def("demodulation_bwd", &demodulation_bwd);
}

}  // namespace cuda
}  // namespace hsr
