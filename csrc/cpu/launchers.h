// SPDX-License-Identifier: Apache-2.0
// Launchers as each instruction set defines them, in a namespace of its own.
#pragma once

#include "hsr/params.h"

namespace hsr {
namespace HSR_ISA {

void launch_bias_act(const BiasActParams&, int threads);
void launch_bias_act_bwd(const BiasActParams&, int threads);
void launch_bias_act_bwd_bwd(const BiasActParams&, int threads);
void launch_upfirdn2d(const UpfirdnParams&, int threads);
void launch_epilogue(const EpilogueParams&, int threads);
void launch_epilogue_bwd(const EpilogueParams&, int threads);
void launch_epilogue_bwd_bwd(const EpilogueParams&, int threads);
void launch_scale_channels(const ScaleParams&, int threads);
void launch_scale_channels_bwd(const ScaleParams&, int threads);
void launch_feature_pool(const FeaturePoolParams&, int threads);
void launch_feature_pool_bwd(const FeaturePoolParams&, int threads);
void launch_matmul(const MatmulParams&, int threads);

}  // namespace HSR_ISA
}  // namespace hsr
