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
  const char* wanted = std::getenv("HSR_CPU_ISA");
  if (wanted && !*wanted) wanted = nullptr;
#ifdef HSR_X86
  __builtin_cpu_init();
  const bool has_avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx512 && (!wanted || !std::strcmp(wanted, "avx512"))) return avx512::table;
  if (has_avx2 && (!wanted || !std::strcmp(wanted, "avx2"))) return avx2::table;
#endif
  require(!wanted || !std::strcmp(wanted, "base"),
          "HSR_CPU_ISA must be base, avx2 or avx512, and one that this processor has");
  return base::table;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace hsr
