// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <cstring>

#include "hsr/error.h"
#include "kernels.h"

namespace hsr {

namespace base {
extern const Kernels table;
}
#ifdef HSR_X86
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
#endif

namespace {

const Kernels& choose() {
  const char* requested = std::getenv("HSR_CPU_ISA");
  if (requested && !*requested) requested = nullptr;
#ifdef HSR_X86
  __builtin_cpu_init();
  const bool has_avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx512 && (!requested || !std::strcmp(requested, "avx512"))) return avx512::table;
  if (has_avx2 && (!requested || !std::strcmp(requested, "avx2"))) return avx2::table;
#endif
  require(!requested || !std::strcmp(requested, "base"),
          "HSR_CPU_ISA must be base, avx2 or avx512, and one that this processor has");
  return base::table;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace hsr
