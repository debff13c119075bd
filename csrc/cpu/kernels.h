// SPDX-License-Identifier: Apache-2.0
// The launchers of the CPU kernels, and the choice of an instruction set.
#pragma once

#include "hsr/params.h"

namespace hsr {

// The only list of the launchers: X(operator, struct of parameters) for each. The declarations, the pointers and the
// tables of pointers are made of it, so that a launcher can't stand under another one's name.
#define HSR_CPU_LAUNCHERS(X)                                          \
  X(bias_act, BiasActParams)                                          \
  X(bias_act_bwd, BiasActParams)                                      \
  X(bias_act_bwd_bwd, BiasActParams)                                  \
  X(upfirdn2d, Upfirdn2dParams)                                       \
  X(filtered_lrelu, FilteredLreluParams)                              \
  X(scale_channels, ScaleChannelsParams)                              \
  X(scale_channels_bwd, ScaleChannelsParams)                          \
  X(modulated_conv2d_epilogue, ModulatedConv2dEpilogueParams)         \
  X(modulated_conv2d_fir_epilogue, ModulatedConv2dEpilogueParams)     \
  X(modulated_conv2d_epilogue_bwd, ModulatedConv2dEpilogueParams)     \
  X(modulated_conv2d_epilogue_bwd_bwd, ModulatedConv2dEpilogueParams) \
  X(feature_pool, FeaturePoolParams)                                  \
  X(feature_pool_bwd, FeaturePoolParams)                              \
  X(matmul, MatmulParams)                                             \
  X(matmul_pack, MatmulParams)

// The launchers of one instruction set.
struct Kernels {
  const char* isa;
#define HSR_POINTER(op, Params) void (*op)(const Params&, int threads);
  HSR_CPU_LAUNCHERS(HSR_POINTER)
#undef HSR_POINTER
};

#ifdef HSR_ISA
// Each instruction set defines its launchers in a namespace of its own.
namespace HSR_ISA {
#define HSR_DECLARATION(op, Params) void launch_##op(const Params&, int threads);
HSR_CPU_LAUNCHERS(HSR_DECLARATION)
#undef HSR_DECLARATION
}  // namespace HSR_ISA
#endif

// Returns the launchers of the fastest instruction set that this processor runs; HSR_CPU_ISA asks for a lesser one.
const Kernels& kernels();

}  // namespace hsr
