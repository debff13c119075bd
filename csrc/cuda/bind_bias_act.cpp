// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>

#include "bindings.h"

namespace py = pybind11;

namespace hsr {
namespace cuda {
namespace {

using Walk3 = std::tuple<int64_t, int64_t, int64_t>;  // outer, channels, inner

struct Call {
  BiasActParams p{};
  int64_t bytes;  // of a tensor
  int64_t bias;   // of the bias

  Call(const Walk3& walk, int dtype, const Activation4& act) {
    std::tie(p.outer, p.channels, p.inner) = walk;
    p.dtype = dtype_of(dtype);
    p.act = activation(act);
    bytes = p.outer * p.channels * p.inner * bytes_of(p.dtype);
    bias = p.channels * bytes_of(p.dtype);
  }
};

// A forward that is launched again and again. The GIL is kept: a launch takes less time than giving it up.
void bias_act(const Call& prepared, Address x, Address b, Address y, int device, uintptr_t stream) {
  const Extents extents;
  Call call = prepared;
  call.p.x = input(x, call.bytes), call.p.b = optional_input(b, call.bias), call.p.y = output(y, call.bytes);
  with_dtype(call.p.dtype, [&](auto zero) { launch_bias_act<decltype(zero)>(call.p, {device, stream}); });
}

// (rows, columns) of the partial sums of a backward.
std::tuple<int64_t, int64_t> bwd_sums(const Walk3& walk, int dtype) {
  const auto [outer, channels, inner] = walk;
  const PartialSums sums = bias_act_bwd_sums(outer, channels, inner, dtype_of(dtype));
  return {sums.rows, sums.columns};
}

void bias_act_bwd(Address dy, Address ref, Address b, Address dx, Address partial, const Walk3& walk, bool from_output,
                  int dtype, const Activation4& act, const DeviceAndStream& where) {
  const Extents extents;
  Call call(walk, dtype, act);
  BiasActParams& p = call.p;
  p.dy = input(dy, call.bytes), p.ref = input(ref, call.bytes), p.b = optional_input(b, call.bias);
  p.y = output(dx, call.bytes), p.from_output = from_output;
  if (partial) {
    const PartialSums sums = bias_act_bwd_sums(p.outer, p.channels, p.inner, p.dtype);
    p.partial = output<float>(partial, sums.rows * sums.columns * 4);
  }
  py::gil_scoped_release release;
  with_dtype(p.dtype, [&](auto zero) { launch_bias_act_bwd<decltype(zero)>(p, place(where)); });
}

void bias_act_bwd_bwd(Address ddx, Address dy, Address ref, Address b, Address ddy, Address dref, const Walk3& walk,
                      bool from_output, int dtype, const Activation4& act, const DeviceAndStream& where) {
  const Extents extents;
  Call call(walk, dtype, act);
  BiasActParams& p = call.p;
  p.ddx = input(ddx, call.bytes), p.dy = input(dy, call.bytes), p.ref = input(ref, call.bytes);
  p.b = optional_input(b, call.bias), p.from_output = from_output;
  p.y = output(ddy, call.bytes), p.dref = output(dref, call.bytes);
  py::gil_scoped_release release;
  with_dtype(p.dtype, [&](auto zero) { launch_bias_act_bwd_bwd<decltype(zero)>(p, place(where)); });
}

}  // namespace

void define_bias_act(py::module_& m) {
  py::class_<Call>(m, "BiasAct").def(py::init<const Walk3&, int, const Activation4&>()).def("__call__", &bias_act);
  m.def("bias_act_bwd_sums", &bwd_sums);
  m.def("bias_act_bwd", &bias_act_bwd);
  m.def("bias_act_bwd_bwd", &bias_act_bwd_bwd);
}

}  // namespace cuda
}  // namespace hsr
