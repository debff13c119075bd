// SPDX-License-Identifier: Apache-2.0
#include "kernels.h"

#define HSR_STRING_(x) #x
#define HSR_STRING(x) HSR_STRING_(x)

namespace hsr {
namespace HSR_ISA {

extern const Kernels table;
const Kernels table = {HSR_STRING(HSR_ISA),
#define HSR_ENTRY(op, Params) launch_##op,
                       HSR_CPU_LAUNCHERS(HSR_ENTRY)
#undef HSR_ENTRY
};

}  // namespace HSR_ISA
}  // namespace hsr
