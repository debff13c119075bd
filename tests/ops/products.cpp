// SPDX-License-Identifier: Apache-2.0
// The products of one instruction set as C functions, for processors that lack it: compiled with HSR_EMULATED_AMX.
#include "hsr/params.h"

namespace hsr {
namespace HSR_ISA {
void launch_matmul(const MatmulParams&, int threads);
void launch_matmul_pack(const MatmulParams&, int threads);
}  // namespace HSR_ISA
}  // namespace hsr

// a [m, k] and b [k, n] are bfloat16, c [m, n] is float32 without gaps; packed has room for the packed b, or is null.
extern "C" void product(const void* a, const void* b, void* packed, void* c, int64_t m, int64_t n, int64_t k,
                        int64_t a_row, int64_t a_column, int64_t b_row, int64_t b_column, int add, int threads) {
  hsr::MatmulParams p{};
  p.m = m, p.n = n, p.k = k, p.dtype = hsr::DType::bfloat16;
  p.b = b, p.b_row = b_row, p.b_column = b_column, p.c = packed;
  if (packed) hsr::HSR_ISA::launch_matmul_pack(p, threads);
  p.a = a, p.a_row = a_row, p.a_column = a_column;
  p.b = packed ? packed : b, p.b_is_packed = packed != nullptr;
  p.c = c, p.c_row = n, p.add = add;
  hsr::HSR_ISA::launch_matmul(p, threads);
}
