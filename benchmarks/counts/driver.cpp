// SPDX-License-Identifier: Apache-2.0
// Runs one CPU kernel once on fixed tensors, for callgrind: `driver KERNEL`. What is counted is `hsr_measured`.
#include <cstdio>
#include <cstring>
#include <vector>

#include "kernels.h"

using namespace hsr;

namespace {

constexpr int64_t kSamples = 2, kChannels = 16, kSide = 32;
constexpr ActivationParams kLrelu = {Act::lrelu, 0.2, 1.41421356, 2.5};

// Numbers around zero that follow no order.
template <class T>
std::vector<T> numbers(int64_t count) {
  std::vector<T> values(static_cast<size_t>(count));
  uint32_t state = 1;
  for (T& value : values) {
    state = state * 1664525u + 1013904223u;
    value = T(int32_t(state)) / T(1 << 30);
  }
  return values;
}

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

// The tensors of an operator on images; a kernel takes those that it needs.
struct Images {
  int64_t n = kSamples, c = kChannels, h = kSide, w = kSide, elements = n * c * h * w;
  Floats x = numbers<float>(elements), dy = numbers<float>(elements), ddx = numbers<float>(elements);
  Floats y = Floats(size_t(4 * elements)), dref = Floats(size_t(elements));
  Floats b = numbers<float>(c), s = numbers<float>(n * c), noise = numbers<float>(4 * n * h * w);
  Doubles sums_c = Doubles(size_t(c)), sums_nc = Doubles(size_t(3 * n * c));
  Floats map = Floats(size_t(n * h * w));
};

BiasActParams bias_act_params(Images& t) {
  BiasActParams p{};
  p.x = t.x.data(), p.b = t.b.data(), p.ref = t.x.data(), p.dy = t.dy.data(), p.ddx = t.ddx.data();
  p.y = t.y.data(), p.dref = t.dref.data(), p.db = t.sums_c.data();
  p.outer = t.n, p.channels = t.c, p.inner = t.h * t.w;
  p.from_output = true, p.act = kLrelu;
  return p;
}

const double kTaps[] = {0.125, 0.375, 0.375, 0.125, 0.125, 0.375, 0.375, 0.125};

Upfirdn2dParams fir_params(Images& t, int up, int down, Layout layout) {
  Upfirdn2dParams p{};
  p.x = t.x.data(), p.y = t.y.data(), p.taps = kTaps;
  p.taps_x = p.taps_y = 4, p.separable = true;
  p.n = t.n, p.c = t.c, p.h = t.h, p.w = t.w;
  p.oh = p.ow = kSide * up / down;
  p.up_x = p.up_y = up, p.down_x = p.down_y = down;
  p.pad_x = p.pad_y = up > 1 ? 2 : down > 1 ? 1 : 2;
  p.layout = layout;
  return p;
}

ModulatedConv2dEpilogueParams epilogue_params(Images& t) {
  ModulatedConv2dEpilogueParams p{};
  p.z = t.x.data(), p.d = t.s.data(), p.noise = t.noise.data(), p.b = t.b.data();
  p.y = t.x.data(), p.dy = t.dy.data(), p.out = t.y.data();
  p.dd = t.sums_nc.data(), p.db = t.sums_c.data(), p.dnoise = t.map.data();
  p.n = t.n, p.c = t.c, p.h = t.h, p.w = t.w, p.noise_stride = t.h * t.w;
  p.act = kLrelu;
  return p;
}

ScaleChannelsParams scale_params(Images& t) {
  ScaleChannelsParams p{};
  p.x = t.x.data(), p.s = t.s.data(), p.du = t.dy.data(), p.out = t.y.data(), p.ds = t.sums_nc.data();
  p.n = t.n, p.c = t.c, p.hw = t.h * t.w;
  return p;
}

// What a call needs beside `Images`.
struct Extra {
  std::vector<uint8_t> mask = std::vector<uint8_t>(1 << 20);
  Upfirdn2dParams fir{};
};

template <class Params>
using Launcher = void (*)(const Params&, int);

}  // namespace

// The only part that is counted.
#define HSR_MEASURED(Params)                                                                                  \
  extern "C" __attribute__((noinline)) void hsr_measured_##Params(Launcher<Params> launch, const Params& p) { \
    launch(p, 1);                                                                                             \
  }
HSR_MEASURED(BiasActParams)
HSR_MEASURED(Upfirdn2dParams)
HSR_MEASURED(FilteredLreluParams)
HSR_MEASURED(ScaleChannelsParams)
HSR_MEASURED(ModulatedConv2dEpilogueParams)
HSR_MEASURED(FeaturePoolParams)
HSR_MEASURED(MatmulParams)

namespace {

#define HSR_KERNEL(name) void run_##name(Images& t, Extra& extra)

HSR_KERNEL(bias_act) { hsr_measured_BiasActParams(kernels().bias_act, bias_act_params(t)); }
HSR_KERNEL(bias_act_bwd) { hsr_measured_BiasActParams(kernels().bias_act_bwd, bias_act_params(t)); }
HSR_KERNEL(bias_act_bwd_bwd) { hsr_measured_BiasActParams(kernels().bias_act_bwd_bwd, bias_act_params(t)); }
HSR_KERNEL(upsample) { hsr_measured_Upfirdn2dParams(kernels().upfirdn2d, fir_params(t, 2, 1, Layout::nchw)); }
HSR_KERNEL(downsample) { hsr_measured_Upfirdn2dParams(kernels().upfirdn2d, fir_params(t, 1, 2, Layout::nchw)); }
HSR_KERNEL(filter) { hsr_measured_Upfirdn2dParams(kernels().upfirdn2d, fir_params(t, 1, 1, Layout::nchw)); }
HSR_KERNEL(upsample_nhwc) { hsr_measured_Upfirdn2dParams(kernels().upfirdn2d, fir_params(t, 2, 1, Layout::nhwc)); }
HSR_KERNEL(filtered_lrelu) {
  FilteredLreluParams p{};
  p.up = fir_params(t, 2, 1, Layout::nchw);
  p.down = fir_params(t, 1, 2, Layout::nchw);
  p.down.h = p.up.oh, p.down.w = p.up.ow, p.down.oh = p.down.ow = kSide;
  p.b = t.b.data(), p.mask = extra.mask.data(), p.writes_mask = true, p.act = kLrelu;
  hsr_measured_FilteredLreluParams(kernels().filtered_lrelu, p);
}
HSR_KERNEL(scale_channels) { hsr_measured_ScaleChannelsParams(kernels().scale_channels, scale_params(t)); }
HSR_KERNEL(scale_channels_bwd) { hsr_measured_ScaleChannelsParams(kernels().scale_channels_bwd, scale_params(t)); }
HSR_KERNEL(epilogue) {
  hsr_measured_ModulatedConv2dEpilogueParams(kernels().modulated_conv2d_epilogue, epilogue_params(t));
}
HSR_KERNEL(epilogue_bwd) {
  hsr_measured_ModulatedConv2dEpilogueParams(kernels().modulated_conv2d_epilogue_bwd, epilogue_params(t));
}
HSR_KERNEL(fir_epilogue) {
  ModulatedConv2dEpilogueParams p = epilogue_params(t);
  extra.fir = fir_params(t, 1, 1, Layout::nhwc);
  p.fir = &extra.fir;
  hsr_measured_ModulatedConv2dEpilogueParams(kernels().modulated_conv2d_fir_epilogue, p);
}
FeaturePoolParams pool_params(Images& t, Extra& extra) {
  FeaturePoolParams p{};
  p.z = p.dz = t.x.data(), p.b = t.b.data(), p.pooled = t.dy.data(), p.mask = extra.mask.data(), p.db = t.sums_c.data();
  p.k = kChannels, p.h = p.w = kSide, p.th = p.tw = 14, p.pooled_row = 14 * 14, p.gain = 1.4;
  return p;
}
HSR_KERNEL(feature_pool) { hsr_measured_FeaturePoolParams(kernels().feature_pool, pool_params(t, extra)); }
HSR_KERNEL(feature_pool_bwd) { hsr_measured_FeaturePoolParams(kernels().feature_pool_bwd, pool_params(t, extra)); }
HSR_KERNEL(matmul) {
  MatmulParams p{};
  p.a = t.x.data(), p.b = t.dy.data(), p.c = t.y.data();
  p.m = p.n = p.k = 96;
  p.a_row = p.b_row = p.c_row = 96, p.a_column = p.b_column = 1;
  hsr_measured_MatmulParams(kernels().matmul, p);
}

struct Entry {
  const char* name;
  void (*run)(Images&, Extra&);
};

#define HSR_RUN(name) {#name, [](Images& t, Extra& extra) { run_##name(t, extra); }},
const Entry kEntries[] = {
    // clang-format off
  HSR_RUN(bias_act)
  HSR_RUN(bias_act_bwd)
  HSR_RUN(bias_act_bwd_bwd)
  HSR_RUN(upsample)
  HSR_RUN(downsample)
  HSR_RUN(filter)
  HSR_RUN(upsample_nhwc)
  HSR_RUN(filtered_lrelu)
  HSR_RUN(scale_channels)
  HSR_RUN(scale_channels_bwd)
  HSR_RUN(epilogue)
  HSR_RUN(epilogue_bwd)
  HSR_RUN(fir_epilogue)
  HSR_RUN(feature_pool)
  HSR_RUN(feature_pool_bwd)
  HSR_RUN(matmul)
    // clang-format on
};

}  // namespace

int main(int count, char** arguments) {
  Images tensors;
  Extra extra;
  for (const Entry& entry : kEntries) {
    if (count != 2 || std::strcmp(arguments[1], entry.name) != 0) continue;
    entry.run(tensors, extra);
    return 0;
  }
  std::fprintf(stderr, "KERNEL must be one of the driver's\n");
  return 2;
}
