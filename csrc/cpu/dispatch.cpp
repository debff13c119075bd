// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <cstring>

#include "hsr/error.h"
#include "kernels.h"

#ifdef HSR_X86
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace hsr {

#define HSR_TABLE(isa)        \
  namespace isa {             \
  extern const Kernels table; \
  }

HSR_TABLE(base)
#ifdef HSR_X86
HSR_TABLE(avx2)
HSR_TABLE(avx512)
#endif

// These two add products of bfloat16 to AVX-512, and have no other kernels of their own.
#ifdef HSR_X86
#define HSR_PRODUCTS(isa)                                    \
  namespace isa {                                            \
  void launch_matmul(const MatmulParams&, int threads);      \
  void launch_matmul_pack(const MatmulParams&, int threads); \
  }

HSR_PRODUCTS(avx512_bf16)
HSR_PRODUCTS(amx)
#endif

namespace {

#ifdef HSR_X86

// Whether bit `bit` of a register of cpuid's leaf 7 is set.
bool leaf_7_has(unsigned subleaf, int register_index, int bit) {
  unsigned registers[4] = {};
  return __get_cpuid_count(7, subleaf, &registers[0], &registers[1], &registers[2], &registers[3]) &&
         registers[register_index] >> bit & 1;
}

// Asks Linux for the tiles of AMX, which a process doesn't have by itself: they are 8 KB that each thread must save.
bool tiles_are_granted() {
  constexpr int request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

Kernels with_products(const char* isa, void (*matmul)(const MatmulParams&, int),
                      void (*matmul_pack)(const MatmulParams&, int)) {
  Kernels kernels = avx512::table;
  kernels.isa = isa, kernels.matmul = matmul, kernels.matmul_pack = matmul_pack;
  return kernels;
}

#endif

Kernels choose() {
  const char* requested = std::getenv("HSR_CPU_ISA");
  if (requested && !*requested) requested = nullptr;
#ifdef HSR_X86
  const auto wants = [&](const char* isa) { return !requested || !std::strcmp(requested, isa); };
  __builtin_cpu_init();
  const bool has_avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  // amx_tile and amx_bf16 are bits of edx, avx512_bf16 is one of eax.
  const bool has_amx = has_avx512 && leaf_7_has(0, 3, 24) && leaf_7_has(0, 3, 22);
  const bool has_avx512_bf16 = has_avx512 && leaf_7_has(1, 0, 5);
  if (has_amx && wants("amx") && tiles_are_granted())
    return with_products("amx", amx::launch_matmul, amx::launch_matmul_pack);
  if (has_avx512_bf16 && wants("avx512_bf16"))
    return with_products("avx512_bf16", avx512_bf16::launch_matmul, avx512_bf16::launch_matmul_pack);
  if (has_avx512 && wants("avx512")) return avx512::table;
  if (has_avx2 && wants("avx2")) return avx2::table;
#endif
  require(!requested || !std::strcmp(requested, "base"),
          "HSR_CPU_ISA must be base, avx2, avx512, avx512_bf16 or amx, and one that this processor has");
  return base::table;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels chosen = choose();
  return chosen;
}

}  // namespace hsr
