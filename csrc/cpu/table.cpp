// SPDX-License-Identifier: Apache-2.0
#include "kernels.h"
#include "launchers.h"

#define HSR_STRING_(x) #x
#define HSR_STRING(x) HSR_STRING_(x)

namespace hsr {
namespace HSR_ISA {

extern const Kernels table;
const Kernels table = {
    HSR_STRING(HSR_ISA),   launch_bias_act,           launch_bias_act_bwd, launch_bias_act_bwd_bwd,
    launch_upfirdn2d,      launch_epilogue,           launch_epilogue_bwd, launch_epilogue_bwd_bwd,
    launch_scale_channels, launch_scale_channels_bwd, launch_feature_pool, launch_feature_pool_bwd,
    launch_matmul,
};

}  // namespace HSR_ISA
}  // namespace hsr
