// SPDX-License-Identifier: Apache-2.0
// hsr_kernels._cpu: takes addresses, sizes and codes; allocates nothing that Python sees; runs without the GIL.
#include <pybind11/pybind11.h>
#include <sys/mman.h>

#include "hsr/error.h"
#include "kernels.h"

namespace py = pybind11;
using namespace hsr;

namespace {

using Address = uintptr_t;
using Activation4 = std::tuple<int, double, double, double>;

template <class T = void>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

// A tensor without storage (a fake one, say) has address 0: an error here rather than a crash in a kernel.
template <class T = void>
T* filled(Address address, int64_t elements, const char* sentence) {
  require(address != 0 || elements == 0, sentence);
  return pointer<T>(address);
}

int64_t bytes_of(DType dtype) { return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2; }

// Asks for huge pages under a large fresh output: the first touch of 4 KB pages costs more than these kernels' work.
void expect_write(void* memory, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t huge = uintptr_t(1) << 21;
  if (bytes < int64_t(2 * huge)) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + huge - 1) / huge * huge;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + uintptr_t(bytes)) / huge * huge;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

ActivationParams activation(const Activation4& a) {
  require(std::get<0>(a) >= 0 && std::get<0>(a) <= 8, "unknown activation code");
  return {std::get<0>(a), std::get<1>(a), std::get<2>(a), std::get<3>(a)};
}

DType dtype_of(int code) {
  require(code >= 0 && code <= 3, "unknown dtype code");
  return DType(code);
}

constexpr const char* kNull = "a tensor has no memory (is it a fake or meta tensor?)";

BiasActParams bias_act_params(int64_t outer, int64_t channels, int64_t inner, int dtype, const Activation4& act) {
  BiasActParams p{};
  p.outer = outer, p.channels = channels, p.inner = inner;
  p.dtype = dtype_of(dtype);
  p.act = activation(act);
  return p;
}

void bias_act(Address x, Address b, Address y, int64_t outer, int64_t channels, int64_t inner, int dtype,
              const Activation4& act, int threads) {
  BiasActParams p = bias_act_params(outer, channels, inner, dtype, act);
  const int64_t n = outer * channels * inner;
  p.x = filled(x, n, kNull), p.b = pointer(b), p.y = filled(y, n, kNull);
  expect_write(p.y, n * bytes_of(p.dtype));
  py::gil_scoped_release release;
  kernels().bias_act(p, threads);
}

void bias_act_bwd(Address dy, Address ref, Address b, Address dx, Address db, int64_t outer, int64_t channels,
                  int64_t inner, bool from_output, int dtype, const Activation4& act, int threads) {
  BiasActParams p = bias_act_params(outer, channels, inner, dtype, act);
  const int64_t n = outer * channels * inner;
  p.dy = filled(dy, n, kNull), p.ref = filled(ref, n, kNull), p.y = filled(dx, n, kNull);
  p.b = pointer(b), p.db = pointer<double>(db), p.from_output = from_output;
  expect_write(p.y, n * bytes_of(p.dtype));
  py::gil_scoped_release release;
  kernels().bias_act_bwd(p, threads);
}

void bias_act_bwd_bwd(Address ddx, Address dy, Address ref, Address b, Address ddy, Address dref, int64_t outer,
                      int64_t channels, int64_t inner, bool from_output, int dtype, const Activation4& act,
                      int threads) {
  BiasActParams p = bias_act_params(outer, channels, inner, dtype, act);
  const int64_t n = outer * channels * inner;
  p.ddx = filled(ddx, n, kNull), p.dy = filled(dy, n, kNull), p.ref = filled(ref, n, kNull);
  p.y = filled(ddy, n, kNull), p.dref = filled(dref, n, kNull), p.b = pointer(b), p.from_output = from_output;
  expect_write(p.y, n * bytes_of(p.dtype));
  expect_write(p.dref, n * bytes_of(p.dtype));
  py::gil_scoped_release release;
  kernels().bias_act_bwd_bwd(p, threads);
}

using Sizes6 = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;  // n, c, h, w, oh, ow
using Steps6 = std::tuple<int, int, int, int, int64_t, int64_t>;                  // up x, y; down x, y; pad x, y
using Taps = std::tuple<Address, int, int, bool>;                                 // float64 taps, x, y, separable

UpfirdnParams upfirdn_params(Address x, const Taps& taps, const Sizes6& sizes, const Steps6& steps, int layout,
                             int dtype) {
  UpfirdnParams p{};
  std::tie(p.n, p.c, p.h, p.w, p.oh, p.ow) = sizes;
  std::tie(p.up_x, p.up_y, p.down_x, p.down_y, p.pad_x, p.pad_y) = steps;
  p.taps = pointer<const double>(std::get<0>(taps));
  p.taps_x = std::get<1>(taps), p.taps_y = std::get<2>(taps), p.separable = std::get<3>(taps);
  require(p.taps && p.taps_x >= 1 && p.taps_y >= 1 && p.taps_x <= 64 && p.taps_y <= 64, "a filter has 1 to 64 taps");
  require(p.up_x >= 1 && p.up_y >= 1 && p.up_x <= 64 && p.up_y <= 64 && p.down_x >= 1 && p.down_y >= 1,
          "up must lie in [1, 64] and down be positive");
  p.layout = Layout(layout);
  p.dtype = dtype_of(dtype);
  p.x = filled(x, p.n * p.c * p.h * p.w, kNull);
  return p;
}

void upfirdn2d(Address x, Address y, const Taps& taps, const Sizes6& sizes, const Steps6& steps, int layout, int dtype,
               int threads) {
  UpfirdnParams p = upfirdn_params(x, taps, sizes, steps, layout, dtype);
  const int64_t n = p.n * p.c * p.oh * p.ow;
  p.y = filled(y, n, kNull);
  if (n == 0) return;
  expect_write(p.y, n * bytes_of(p.dtype));
  py::gil_scoped_release release;
  kernels().upfirdn2d(p, threads);
}

using Sizes4 = std::tuple<int64_t, int64_t, int64_t, int64_t>;  // n, c, h, w

EpilogueParams epilogue_params(Address out, Address d, Address noise, int64_t noise_stride, Address b,
                               const Sizes4& sizes, int layout, int dtype, const Activation4& act) {
  EpilogueParams p{};
  std::tie(p.n, p.c, p.h, p.w) = sizes;
  p.d = pointer(d), p.noise = pointer(noise), p.noise_stride = noise_stride, p.b = pointer(b);
  p.layout = Layout(layout);
  p.dtype = dtype_of(dtype);
  p.act = activation(act);
  require(p.act.act <= 2 && p.act.gain != 0 && (p.act.act != 2 || p.act.alpha >= 0),
          "the epilogue takes linear, relu or lrelu with alpha >= 0, and a gain other than 0");
  p.out = filled(out, p.n * p.c * p.h * p.w, kNull);
  expect_write(p.out, p.n * p.c * p.h * p.w * bytes_of(p.dtype));
  return p;
}

void epilogue(Address z, Address out, Address d, Address noise, int64_t noise_stride, Address b, const Sizes4& sizes,
              int layout, int dtype, const Activation4& act, int threads) {
  EpilogueParams p = epilogue_params(out, d, noise, noise_stride, b, sizes, layout, dtype, act);
  p.z = filled(z, p.n * p.c * p.h * p.w, kNull);
  if (p.n * p.c * p.h * p.w == 0) return;
  py::gil_scoped_release release;
  kernels().epilogue(p, threads);
}

void fir_epilogue(Address x, const Taps& taps, const Sizes6& fir_sizes, const Steps6& steps, Address out, Address d,
                  Address noise, int64_t noise_stride, Address b, int layout, int dtype, const Activation4& act,
                  int threads) {
  const UpfirdnParams fir = upfirdn_params(x, taps, fir_sizes, steps, int(Layout::nhwc), dtype);
  EpilogueParams p =
      epilogue_params(out, d, noise, noise_stride, b, {fir.n, fir.c, fir.oh, fir.ow}, layout, dtype, act);
  p.fir = &fir;
  if (p.n * p.c * p.h * p.w == 0) return;
  py::gil_scoped_release release;
  kernels().epilogue(p, threads);
}

void epilogue_bwd(Address dy, Address y, Address dz, Address d, Address noise, int64_t noise_stride, Address b,
                  Address dd, Address db, Address dnoise, const Sizes4& sizes, int layout, int dtype,
                  const Activation4& act, int threads) {
  EpilogueParams p = epilogue_params(dz, d, noise, noise_stride, b, sizes, layout, dtype, act);
  const int64_t n = p.n * p.c * p.h * p.w;
  p.dy = filled(dy, n, kNull), p.y = filled(y, n, kNull);
  p.dd = pointer<double>(dd), p.db = pointer<double>(db), p.dnoise = pointer(dnoise);
  py::gil_scoped_release release;
  kernels().epilogue_bwd(p, threads);
}

void epilogue_bwd_bwd(Address ddz, Address ratio, Address ddnoise, Address ddb, Address dy, Address y, Address d,
                      Address noise, int64_t noise_stride, Address b, Address gdy, Address gy, Address gnoise,
                      Address sums, const Sizes4& sizes, int layout, int dtype, const Activation4& act, int threads) {
  EpilogueParams p = epilogue_params(gdy, d, noise, noise_stride, b, sizes, layout, dtype, act);
  const int64_t n = p.n * p.c * p.h * p.w;
  p.z = filled(ddz, n, kNull), p.dy = filled(dy, n, kNull), p.y = filled(y, n, kNull), p.gy = filled(gy, n, kNull);
  p.ratio = filled(ratio, p.n * p.c, kNull), p.ddb = filled(ddb, p.c, kNull), p.ddnoise = pointer(ddnoise);
  p.sums = filled<double>(sums, p.n * p.c, kNull), p.dnoise = pointer(gnoise);
  expect_write(p.gy, n * bytes_of(p.dtype));
  py::gil_scoped_release release;
  kernels().epilogue_bwd_bwd(p, threads);
}

using Sizes3 = std::tuple<int64_t, int64_t, int64_t>;  // n, c, h * w

ScaleParams scale_params(Address x, Address s, Address out, const Sizes3& sizes, int layout, int dtype) {
  ScaleParams p{};
  std::tie(p.n, p.c, p.hw) = sizes;
  const int64_t n = p.n * p.c * p.hw;
  p.x = filled(x, n, kNull), p.s = filled(s, p.n * p.c, kNull), p.out = filled(out, n, kNull);
  p.layout = Layout(layout);
  p.dtype = dtype_of(dtype);
  expect_write(p.out, n * bytes_of(p.dtype));
  return p;
}

void scale_channels(Address x, Address s, Address u, const Sizes3& sizes, int layout, int dtype, int threads) {
  const ScaleParams p = scale_params(x, s, u, sizes, layout, dtype);
  py::gil_scoped_release release;
  kernels().scale_channels(p, threads);
}

void scale_channels_bwd(Address du, Address x, Address s, Address dx, Address ds, const Sizes3& sizes, int layout,
                        int dtype, int threads) {
  ScaleParams p = scale_params(x, s, dx, sizes, layout, dtype);
  p.du = filled(du, p.n * p.c * p.hw, kNull), p.ds = pointer<double>(ds);
  py::gil_scoped_release release;
  kernels().scale_channels_bwd(p, threads);
}

using PoolSizes = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t>;  // k, h, w, th, tw

FeaturePoolParams pool_params(Address z, Address pooled, Address mask, const PoolSizes& sizes, double gain, int dtype) {
  FeaturePoolParams p{};
  std::tie(p.k, p.h, p.w, p.th, p.tw) = sizes;
  p.z = filled(z, p.k * p.h * p.w, kNull), p.pooled = filled(pooled, p.k * p.th * p.tw, kNull);
  p.mask = filled<uint8_t>(mask, p.k * p.h * p.w, kNull);
  p.gain = gain;
  p.dtype = dtype_of(dtype);
  require(p.dtype == DType::float32 || p.dtype == DType::float64, "feature_pool takes float32 or float64");
  return p;
}

void feature_pool(Address z, Address b, Address pooled, Address mask, const PoolSizes& sizes, double gain, int dtype,
                  int threads) {
  FeaturePoolParams p = pool_params(z, pooled, mask, sizes, gain, dtype);
  p.b = filled(b, p.k, kNull);
  py::gil_scoped_release release;
  kernels().feature_pool(p, threads);
}

void feature_pool_bwd(Address dz, Address dpooled, Address mask, Address db, const PoolSizes& sizes, double gain,
                      int dtype, int threads) {
  FeaturePoolParams p = pool_params(dz, dpooled, mask, sizes, gain, dtype);
  p.db = filled<double>(db, p.k, kNull);
  py::gil_scoped_release release;
  kernels().feature_pool_bwd(p, threads);
}

using Sizes4 = std::tuple<int64_t, int64_t, int64_t, int64_t>;  // batch, m, n, k
using MatrixStrides = std::tuple<int64_t, int64_t, int64_t>;    // batch, row, column

void matmul(Address a, Address b, Address c, const Sizes4& sizes, const MatrixStrides& a_strides,
            const MatrixStrides& b_strides, const MatrixStrides& c_strides, bool add, int dtype, int threads) {
  MatmulParams p{};
  int64_t c_column;
  std::tie(p.batch, p.m, p.n, p.k) = sizes;
  std::tie(p.a_batch, p.a_row, p.a_column) = a_strides;
  std::tie(p.b_batch, p.b_row, p.b_column) = b_strides;
  std::tie(p.c_batch, p.c_row, c_column) = c_strides;
  p.a = filled(a, p.batch * p.m * p.k, kNull), p.b = filled(b, p.batch * p.k * p.n, kNull);
  p.c = filled(c, p.batch * p.m * p.n, kNull);
  p.add = add;
  p.dtype = dtype_of(dtype);
  require(p.dtype == DType::float32 || p.dtype == DType::float64, "matmul takes float32 or float64");
  require(c_column == 1 || p.n <= 1, "matmul writes rows without gaps");
  py::gil_scoped_release release;
  kernels().matmul(p, threads);
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "Native CPU kernels of hsr_kernels: addresses, sizes, dtype codes and a number of threads.";
  m.def("isa", [] { return kernels().isa; }, "The instruction set in use: base, avx2 or avx512.");
  m.def("bias_act", &bias_act);
  m.def("bias_act_bwd", &bias_act_bwd);
  m.def("bias_act_bwd_bwd", &bias_act_bwd_bwd);
  m.def("upfirdn2d", &upfirdn2d);
  m.def("epilogue", &epilogue);
  m.def("fir_epilogue", &fir_epilogue);
  m.def("epilogue_bwd", &epilogue_bwd);
  m.def("epilogue_bwd_bwd", &epilogue_bwd_bwd);
  m.def("scale_channels", &scale_channels);
  m.def("scale_channels_bwd", &scale_channels_bwd);
  m.def("feature_pool", &feature_pool);
  m.def("feature_pool_bwd", &feature_pool_bwd);
  m.def("matmul", &matmul);
}
