// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>

#include "bindings.h"

namespace py = pybind11;

namespace hsr {
namespace cuda {
namespace {

// outer, channels, inner.
using Sizes = std::tuple<int64_t, int64_t, int64_t>;

struct Call {
  BiasActParams p{};
  int64_t tensor_bytes, bias_bytes;

  Call(const Sizes& sizes, int dtype, const ActivationTuple& act) {
    std::tie(p.outer, p.channels, p.inner) = sizes;
    p.dtype = dtype_of(dtype);
    p.act = activation_params(act);
    tensor_bytes = p.outer * p.channels * p.inner * bytes_of(p.dtype);
    bias_bytes = p.channels * bytes_of(p.dtype);
  }
};

// A forward that is launched many times. It keeps the GIL: a launch takes less time than releasing it.
void bias_act(const Call& prepared, Address x, Address b, Address y, int device, uintptr_t stream) {
  const Extents extents;
  Call call = prepared;
  call.p.x = input(x, call.tensor_bytes), call.p.b = optional_input(b, call.bias_bytes),
  call.p.y = output(y, call.tensor_bytes);
  with_dtype(call.p.dtype, [&](auto zero) { launch_bias_act<decltype(zero)>(call.p, {device, stream}); });
}

// Returns (rows, columns) of the partial sums of a backward.
std::tuple<int64_t, int64_t> bwd_sums(const Sizes& sizes, int dtype) {
  const auto [outer, channels, inner] = sizes;
  const PartialSums sums = bias_act_bwd_sums(outer, channels, inner, dtype_of(dtype));
  return {sums.rows, sums.columns};
}

void bias_act_bwd(Address dy, Address ref, Address b, Address dx, Address partial, const Sizes& sizes, bool from_output,
                  int dtype, const ActivationTuple& act, const DeviceAndStream& device_and_stream) {
  const Extents extents;
  Call call(sizes, dtype, act);
  BiasActParams& p = call.p;
  p.dy = input(dy, call.tensor_bytes), p.ref = input(ref, call.tensor_bytes), p.b = optional_input(b, call.bias_bytes);
  p.y = output(dx, call.tensor_bytes), p.from_output = from_output;
  if (partial) {
    const PartialSums sums = bias_act_bwd_sums(p.outer, p.channels, p.inner, p.dtype);
    p.partial = output<float>(partial, sums.rows * sums.columns * 4);
  }
  py::gil_scoped_release release;
  with_dtype(p.dtype, [&](auto zero) { launch_bias_act_bwd<decltype(zero)>(p, stream_of(device_and_stream)); });
}

void bias_act_bwd_bwd(Address ddx, Address dy, Address ref, Address b, Address ddy, Address dref, const Sizes& sizes,
                      bool from_output, int dtype, const ActivationTuple& act,
                      const DeviceAndStream& device_and_stream) {
  const Extents extents;
  Call call(sizes, dtype, act);
  BiasActParams& p = call.p;
  p.ddx = input(ddx, call.tensor_bytes), p.dy = input(dy, call.tensor_bytes), p.ref = input(ref, call.tensor_bytes);
  p.b = optional_input(b, call.bias_bytes), p.from_output = from_output;
  p.y = output(ddy, call.tensor_bytes), p.dref = output(dref, call.tensor_bytes);
  py::gil_scoped_release release;
  with_dtype(p.dtype, [&](auto zero) { launch_bias_act_bwd_bwd<decltype(zero)>(p, stream_of(device_and_stream)); });
}

}  // namespace

void define_bias_act(py::module_& m) {
  py::class_<Call>(m, "BiasAct").def(py::init<const Sizes&, int, const ActivationTuple&>()).def("__call__", &bias_act);
  m.def("bias_act_bwd_sums", &bwd_sums);
  m.def("bias_act_bwd", &bias_act_bwd);
  m.def("bias_act_bwd_bwd", &bias_act_bwd_bwd);
}

}  // namespace cuda
}  // namespace hsr
