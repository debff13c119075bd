// SPDX-License-Identifier: Apache-2.0
// hsr_kernels._cpu: takes addresses, sizes and codes; allocates nothing that Python sees; runs without the GIL.
#include "hsr/bindings.h"

#include <pybind11/pybind11.h>
#include <sys/mman.h>

#include "hsr/epilogue.h"
#include "kernels.h"

namespace py = pybind11;
using namespace hsr;

namespace {

template <class T = void>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

// The pointer to a tensor that isn't optional.
template <class T = void>
T* required(Address address, int64_t elements) {
  require(address != 0 || elements == 0, kNoMemory);
  return pointer<T>(address);
}

int64_t bytes_of(DType dtype) { return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2; }

// Asks for huge pages under a large fresh output: the first touch of 4 KB pages costs more than these kernels' work.
void advise_huge_pages(void* memory, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t page = uintptr_t(1) << 21;
  if (bytes < int64_t(2 * page)) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + uintptr_t(bytes)) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

DType dtype_of(int code) {
  require(code >= 0 && code <= 3, "unknown dtype code");
  return DType(code);
}

BiasActParams bias_act_params(int64_t outer, int64_t channels, int64_t inner, int dtype, const ActivationTuple& act) {
  BiasActParams p{};
  p.outer = outer, p.channels = channels, p.inner = inner;
  p.dtype = dtype_of(dtype);
  p.act = activation_params(act);
  return p;
}

void bias_act(Address x, Address b, Address y, int64_t outer, int64_t channels, int64_t inner, int dtype,
              const ActivationTuple& act, int threads) {
  BiasActParams p = bias_act_params(outer, channels, inner, dtype, act);
  const int64_t n = outer * channels * inner;
  p.x = required(x, n), p.b = pointer(b), p.y = required(y, n);
  advise_huge_pages(p.y, n * bytes_of(p.dtype));
  py::gil_scoped_release release;
  kernels().bias_act(p, threads);
}

void bias_act_bwd(Address dy, Address ref, Address b, Address dx, Address db, int64_t outer, int64_t channels,
                  int64_t inner, bool from_output, int dtype, const ActivationTuple& act, int threads) {
  BiasActParams p = bias_act_params(outer, channels, inner, dtype, act);
  const int64_t n = outer * channels * inner;
  p.dy = required(dy, n), p.ref = required(ref, n), p.y = required(dx, n);
  p.b = pointer(b), p.db = pointer<double>(db), p.from_output = from_output;
  advise_huge_pages(p.y, n * bytes_of(p.dtype));
  py::gil_scoped_release release;
  kernels().bias_act_bwd(p, threads);
}

void bias_act_bwd_bwd(Address ddx, Address dy, Address ref, Address b, Address ddy, Address dref, int64_t outer,
                      int64_t channels, int64_t inner, bool from_output, int dtype, const ActivationTuple& act,
                      int threads) {
  BiasActParams p = bias_act_params(outer, channels, inner, dtype, act);
  const int64_t n = outer * channels * inner;
  p.ddx = required(ddx, n), p.dy = required(dy, n), p.ref = required(ref, n);
  p.y = required(ddy, n), p.dref = required(dref, n), p.b = pointer(b), p.from_output = from_output;
  advise_huge_pages(p.y, n * bytes_of(p.dtype));
  advise_huge_pages(p.dref, n * bytes_of(p.dtype));
  py::gil_scoped_release release;
  kernels().bias_act_bwd_bwd(p, threads);
}

// n, c, h, w, oh, ow.
using FirSizes = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;
// up_x, up_y, down_x, down_y, pad_x, pad_y.
using FirSteps = std::tuple<int, int, int, int, int64_t, int64_t>;
// The address of float64 taps, taps_x, taps_y, separable.
using Taps = std::tuple<Address, int, int, bool>;

Upfirdn2dParams upfirdn2d_params(Address x, const Taps& taps, const FirSizes& sizes, const FirSteps& steps, int layout,
                                 int dtype) {
  Upfirdn2dParams p{};
  std::tie(p.n, p.c, p.h, p.w, p.oh, p.ow) = sizes;
  std::tie(p.up_x, p.up_y, p.down_x, p.down_y, p.pad_x, p.pad_y) = steps;
  p.taps = pointer<const double>(std::get<0>(taps));
  p.taps_x = std::get<1>(taps), p.taps_y = std::get<2>(taps), p.separable = std::get<3>(taps);
  require(p.taps && p.taps_x >= 1 && p.taps_y >= 1 && p.taps_x <= 64 && p.taps_y <= 64, "a filter has 1 to 64 taps");
  require(p.up_x >= 1 && p.up_y >= 1 && p.up_x <= 64 && p.up_y <= 64 && p.down_x >= 1 && p.down_y >= 1,
          "up must lie in [1, 64] and down be positive");
  p.layout = Layout(layout);
  p.dtype = dtype_of(dtype);
  p.x = required(x, p.n * p.c * p.h * p.w);
  return p;
}

void upfirdn2d(Address x, Address y, const Taps& taps, const FirSizes& sizes, const FirSteps& steps, int layout,
               int dtype, int threads) {
  Upfirdn2dParams p = upfirdn2d_params(x, taps, sizes, steps, layout, dtype);
  const int64_t n = p.n * p.c * p.oh * p.ow;
  p.y = required(y, n);
  if (n == 0) return;
  advise_huge_pages(p.y, n * bytes_of(p.dtype));
  py::gil_scoped_release release;
  kernels().upfirdn2d(p, threads);
}

// Returns the parameters of both entry points, which have an input, an output and a mask.
FilteredLreluParams filtered_lrelu_params(Address x, Address y, Address mask, const Taps& up_taps,
                                          const FirSizes& up_sizes, const FirSteps& up_steps, const Taps& down_taps,
                                          const FirSizes& down_sizes, const FirSteps& down_steps, int layout, int dtype,
                                          const ActivationTuple& act) {
  FilteredLreluParams p{};
  p.up = upfirdn2d_params(x, up_taps, up_sizes, up_steps, layout, dtype);
  // The upsampled images have no address, but y has one.
  p.down = upfirdn2d_params(y, down_taps, down_sizes, down_steps, layout, dtype);
  require(p.up.down_x == 1 && p.up.down_y == 1 && p.down.up_x == 1 && p.down.up_y == 1,
          "the first resampling goes up and the second one down");
  require(p.up.n == p.down.n && p.up.c == p.down.c && p.up.oh == p.down.h && p.up.ow == p.down.w,
          "the second resampling takes what the first one gives");
  const int64_t n = p.down.n * p.down.c * p.down.oh * p.down.ow;
  p.down.x = nullptr, p.down.y = required(y, n);
  p.mask = pointer<uint8_t>(mask);
  p.act = activation_params(act);
  require(p.act.act == Act::lrelu, "filtered_lrelu takes lrelu");
  advise_huge_pages(p.down.y, n * bytes_of(p.up.dtype));
  return p;
}

void filtered_lrelu(Address x, Address b, Address y, Address mask, const Taps& up_taps, const FirSizes& up_sizes,
                    const FirSteps& up_steps, const Taps& down_taps, const FirSizes& down_sizes,
                    const FirSteps& down_steps, int layout, int dtype, const ActivationTuple& act, int threads) {
  FilteredLreluParams p = filtered_lrelu_params(x, y, mask, up_taps, up_sizes, up_steps, down_taps, down_sizes,
                                                down_steps, layout, dtype, act);
  p.b = pointer(b), p.writes_mask = mask != 0;
  py::gil_scoped_release release;
  kernels().filtered_lrelu(p, threads);
}

void filtered_lrelu_bwd(Address dy, Address mask, Address dx, Address db, const Taps& up_taps, const FirSizes& up_sizes,
                        const FirSteps& up_steps, const Taps& down_taps, const FirSizes& down_sizes,
                        const FirSteps& down_steps, int layout, int dtype, const ActivationTuple& act, int threads) {
  FilteredLreluParams p = filtered_lrelu_params(dy, dx, mask, up_taps, up_sizes, up_steps, down_taps, down_sizes,
                                                down_steps, layout, dtype, act);
  require(mask != 0 || p.up.n * p.up.c == 0, kNoMemory);
  p.sums = pointer<double>(db);
  py::gil_scoped_release release;
  kernels().filtered_lrelu(p, threads);
}

// n, c, h, w.
using ImageSizes = std::tuple<int64_t, int64_t, int64_t, int64_t>;

ModulatedConv2dEpilogueParams epilogue_params(Address out, Address d, Address noise, int64_t noise_stride, Address b,
                                              const ImageSizes& sizes, int layout, int dtype,
                                              const ActivationTuple& act) {
  ModulatedConv2dEpilogueParams p{};
  std::tie(p.n, p.c, p.h, p.w) = sizes;
  p.d = pointer(d), p.noise = pointer(noise), p.noise_stride = noise_stride, p.b = pointer(b);
  p.layout = Layout(layout);
  p.dtype = dtype_of(dtype);
  p.act = activation_params(act);
  require(is_piecewise_linear(p.act) && p.act.gain != 0,
          "the epilogue takes linear, relu or lrelu with alpha >= 0, and a gain other than 0");
  p.out = required(out, p.n * p.c * p.h * p.w);
  advise_huge_pages(p.out, p.n * p.c * p.h * p.w * bytes_of(p.dtype));
  return p;
}

void modulated_conv2d_epilogue(Address z, Address out, Address d, Address noise, int64_t noise_stride, Address b,
                               const ImageSizes& sizes, int layout, int dtype, const ActivationTuple& act,
                               int threads) {
  ModulatedConv2dEpilogueParams p = epilogue_params(out, d, noise, noise_stride, b, sizes, layout, dtype, act);
  p.z = required(z, p.n * p.c * p.h * p.w);
  if (p.n * p.c * p.h * p.w == 0) return;
  py::gil_scoped_release release;
  kernels().modulated_conv2d_epilogue(p, threads);
}

void modulated_conv2d_fir_epilogue(Address x, const Taps& taps, const FirSizes& fir_sizes, const FirSteps& steps,
                                   Address out, Address d, Address noise, int64_t noise_stride, Address b, int layout,
                                   int dtype, const ActivationTuple& act, int threads) {
  const Upfirdn2dParams fir = upfirdn2d_params(x, taps, fir_sizes, steps, int(Layout::nhwc), dtype);
  ModulatedConv2dEpilogueParams p =
      epilogue_params(out, d, noise, noise_stride, b, {fir.n, fir.c, fir.oh, fir.ow}, layout, dtype, act);
  p.fir = &fir;
  if (p.n * p.c * p.h * p.w == 0) return;
  py::gil_scoped_release release;
  kernels().modulated_conv2d_fir_epilogue(p, threads);
}

void modulated_conv2d_epilogue_bwd(Address dy, Address y, Address dz, Address d, Address noise, int64_t noise_stride,
                                   Address b, Address dd, Address db, Address dnoise, const ImageSizes& sizes,
                                   int layout, int dtype, const ActivationTuple& act, int threads) {
  ModulatedConv2dEpilogueParams p = epilogue_params(dz, d, noise, noise_stride, b, sizes, layout, dtype, act);
  const int64_t n = p.n * p.c * p.h * p.w;
  p.dy = required(dy, n), p.y = required(y, n);
  p.dd = pointer<double>(dd), p.db = pointer<double>(db), p.dnoise = pointer(dnoise);
  py::gil_scoped_release release;
  kernels().modulated_conv2d_epilogue_bwd(p, threads);
}

void modulated_conv2d_epilogue_bwd_bwd(Address ddz, Address ratio, Address ddnoise, Address ddb, Address dy, Address y,
                                       Address d, Address noise, int64_t noise_stride, Address b, Address gdy,
                                       Address gy, Address gnoise, Address sums, const ImageSizes& sizes, int layout,
                                       int dtype, const ActivationTuple& act, int threads) {
  ModulatedConv2dEpilogueParams p = epilogue_params(gdy, d, noise, noise_stride, b, sizes, layout, dtype, act);
  const int64_t n = p.n * p.c * p.h * p.w;
  p.z = required(ddz, n), p.dy = required(dy, n), p.y = required(y, n), p.gy = required(gy, n);
  p.ratio = required(ratio, p.n * p.c), p.ddb = required(ddb, p.c), p.ddnoise = pointer(ddnoise);
  p.sums = required<double>(sums, p.n * p.c), p.dnoise = pointer(gnoise);
  advise_huge_pages(p.gy, n * bytes_of(p.dtype));
  py::gil_scoped_release release;
  kernels().modulated_conv2d_epilogue_bwd_bwd(p, threads);
}

// n, c, h * w.
using PlaneSizes = std::tuple<int64_t, int64_t, int64_t>;

ScaleChannelsParams scale_channels_params(Address x, Address s, Address out, const PlaneSizes& sizes, int layout,
                                          int dtype) {
  ScaleChannelsParams p{};
  std::tie(p.n, p.c, p.hw) = sizes;
  const int64_t n = p.n * p.c * p.hw;
  p.x = required(x, n), p.s = required(s, p.n * p.c), p.out = required(out, n);
  p.layout = Layout(layout);
  p.dtype = dtype_of(dtype);
  advise_huge_pages(p.out, n * bytes_of(p.dtype));
  return p;
}

void scale_channels(Address x, Address s, Address u, const PlaneSizes& sizes, int layout, int dtype, int threads) {
  const ScaleChannelsParams p = scale_channels_params(x, s, u, sizes, layout, dtype);
  py::gil_scoped_release release;
  kernels().scale_channels(p, threads);
}

void scale_channels_bwd(Address du, Address x, Address s, Address dx, Address ds, const PlaneSizes& sizes, int layout,
                        int dtype, int threads) {
  ScaleChannelsParams p = scale_channels_params(x, s, dx, sizes, layout, dtype);
  p.du = required(du, p.n * p.c * p.hw), p.ds = pointer<double>(ds);
  py::gil_scoped_release release;
  kernels().scale_channels_bwd(p, threads);
}

// k, h, w, th, tw.
using PoolSizes = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t>;

DType operand_of(int code) {
  const DType dtype = dtype_of(code);
  require(dtype != DType::float16, "matrices are float32, float64 or bfloat16");
  return dtype;
}

FeaturePoolParams feature_pool_params(Address pooled, int64_t pooled_row, Address mask, const PoolSizes& sizes,
                                      double gain, int dtype) {
  FeaturePoolParams p{};
  std::tie(p.k, p.h, p.w, p.th, p.tw) = sizes;
  p.pooled = required(pooled, p.k * p.th * p.tw), p.pooled_row = pooled_row;
  p.mask = required<uint8_t>(mask, p.k * p.h * p.w);
  p.gain = gain;
  p.dtype = operand_of(dtype);
  return p;
}

void feature_pool(Address z, Address b, Address pooled, int64_t pooled_row, Address mask, const PoolSizes& sizes,
                  double gain, int dtype, int threads) {
  FeaturePoolParams p = feature_pool_params(pooled, pooled_row, mask, sizes, gain, dtype);
  p.z = required(z, p.k * p.h * p.w), p.b = required(b, p.k);
  py::gil_scoped_release release;
  kernels().feature_pool(p, threads);
}

void feature_pool_bwd(Address dz, Address dpooled, int64_t dpooled_row, Address mask, Address db,
                      const PoolSizes& sizes, double gain, int dtype, int threads) {
  FeaturePoolParams p = feature_pool_params(dpooled, dpooled_row, mask, sizes, gain, dtype);
  p.dz = required(dz, p.k * p.h * p.w), p.db = required<double>(db, p.k);
  py::gil_scoped_release release;
  kernels().feature_pool_bwd(p, threads);
}

// m, n, k.
using MatmulSizes = std::tuple<int64_t, int64_t, int64_t>;
// row, column.
using MatrixStrides = std::tuple<int64_t, int64_t>;

// The most bytes that matmul_pack() writes of a right matrix [k, n]: terms are stored as they are or as float32.
int64_t packed_bytes(int64_t k, int64_t n, int dtype) {
  const auto round_up = [](int64_t size, int64_t step) { return (size + step - 1) / step * step; };
  const int64_t bytes = operand_of(dtype) == DType::float64 ? 8 : 4;
  return round_up(k, kPackedTerms) * round_up(n, kPackedColumns) * bytes;
}

void matmul_pack(Address b, Address packed, int64_t k, int64_t n, const MatrixStrides& strides, int dtype,
                 int threads) {
  MatmulParams p{};
  p.k = k, p.n = n, p.dtype = operand_of(dtype);
  std::tie(p.b_row, p.b_column) = strides;
  p.b = required(b, k * n), p.c = required(packed, k * n);
  advise_huge_pages(p.c, packed_bytes(k, n, dtype));
  py::gil_scoped_release release;
  kernels().matmul_pack(p, threads);
}

// Where b is packed, b_strides don't matter.
void matmul(Address a, Address b, Address c, const MatmulSizes& sizes, const MatrixStrides& a_strides,
            const MatrixStrides& b_strides, const MatrixStrides& c_strides, bool b_is_packed, bool add, int dtype,
            int threads) {
  MatmulParams p{};
  int64_t c_column;
  std::tie(p.m, p.n, p.k) = sizes;
  std::tie(p.a_row, p.a_column) = a_strides;
  std::tie(p.b_row, p.b_column) = b_strides;
  std::tie(p.c_row, c_column) = c_strides;
  p.a = required(a, p.m * p.k), p.b = required(b, p.k * p.n), p.c = required(c, p.m * p.n);
  p.b_is_packed = b_is_packed, p.add = add, p.dtype = operand_of(dtype);
  require(c_column == 1 || p.n <= 1, "matmul writes rows without gaps");
  py::gil_scoped_release release;
  kernels().matmul(p, threads);
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "Native CPU kernels of hsr_kernels: addresses, sizes, dtype codes and a number of threads.";
  m.def("isa", [] { return kernels().isa; }, "Returns the instruction set in use.");
  m.def("activations", &activations, "Returns the names of the activations, in the order of their codes.");
  m.def("bias_act", &bias_act);
  m.def("bias_act_bwd", &bias_act_bwd);
  m.def("bias_act_bwd_bwd", &bias_act_bwd_bwd);
  m.def("upfirdn2d", &upfirdn2d);
  m.def("filtered_lrelu", &filtered_lrelu);
  m.def("filtered_lrelu_bwd", &filtered_lrelu_bwd);
  m.def("scale_channels", &scale_channels);
  m.def("scale_channels_bwd", &scale_channels_bwd);
  m.def("modulated_conv2d_epilogue", &modulated_conv2d_epilogue);
  m.def("modulated_conv2d_fir_epilogue", &modulated_conv2d_fir_epilogue);
  m.def("modulated_conv2d_epilogue_bwd", &modulated_conv2d_epilogue_bwd);
  m.def("modulated_conv2d_epilogue_bwd_bwd", &modulated_conv2d_epilogue_bwd_bwd);
  m.def("feature_pool", &feature_pool);
  m.def("feature_pool_bwd", &feature_pool_bwd);
  m.def("matmul", &matmul);
  m.def("matmul_pack", &matmul_pack);
  m.def("packed_bytes", &packed_bytes);
}
