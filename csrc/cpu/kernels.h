// SPDX-License-Identifier: Apache-2.0
// The launchers of one instruction set, and the choice among them.
#pragma once

#include "hsr/params.h"

namespace hsr {

struct Kernels {
  const char* isa;
  void (*bias_act)(const BiasActParams&, int threads);
  void (*bias_act_bwd)(const BiasActParams&, int threads);
  void (*bias_act_bwd_bwd)(const BiasActParams&, int threads);
  void (*upfirdn2d)(const UpfirdnParams&, int threads);
  void (*epilogue)(const EpilogueParams&, int threads);
  void (*epilogue_bwd)(const EpilogueParams&, int threads);
  void (*epilogue_bwd_bwd)(const EpilogueParams&, int threads);
  void (*scale_channels)(const ScaleParams&, int threads);
  void (*scale_channels_bwd)(const ScaleParams&, int threads);
  void (*feature_pool)(const FeaturePoolParams&, int threads);
  void (*feature_pool_bwd)(const FeaturePoolParams&, int threads);
  void (*matmul)(const MatmulParams&, int threads);
};

// The fastest set that this processor runs; HSR_CPU_ISA=base|avx2|avx512 asks for a lesser one.
const Kernels& kernels();

}  // namespace hsr
