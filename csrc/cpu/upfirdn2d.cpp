// SPDX-License-Identifier: Apache-2.0
// upfirdn2d: zero insertion, padding, FIR and decimation in one pass.
#include "fir_row.h"
#include "kernels.h"

namespace hsr {
namespace HSR_ISA {
namespace {

// A thread takes about so many output elements at a time.
constexpr int64_t kElementsPerChunk = 1 << 15;

template <class T>
void upfirdn2d_kernel(const Upfirdn2dParams& p, int threads) {
  using A = Accumulator<T>;
  const FirRow<T> fir(p, scratch(7, FirRow<T>::storage_bytes(p)));
  const bool nhwc = p.layout == Layout::nhwc;
  const int64_t planes = nhwc ? p.n : p.n * p.c, elements = nhwc ? p.c : 1;
  const int64_t line = p.ow * elements, rows = planes * p.oh;
  if (rows == 0 || line == 0) return;
  const int64_t rows_per_chunk = line >= kElementsPerChunk ? 1 : kElementsPerChunk / line;
  for_each_chunk((rows + rows_per_chunk - 1) / rows_per_chunk, threads, [&](int64_t chunk) {
    void* workspace = scratch(0, fir.working_bytes());
    A* buffer = sizeof(T) == sizeof(A) ? nullptr : static_cast<A*>(scratch(1, size_t(line) * sizeof(A)));
    const int64_t end_row = (chunk + 1) * rows_per_chunk < rows ? (chunk + 1) * rows_per_chunk : rows;
    for (int64_t row = chunk * rows_per_chunk; row < end_row; row++) {
      const T* source = static_cast<const T*>(p.x) + row / p.oh * p.h * p.w * elements;
      T* dst = static_cast<T*>(p.y) + row * line;
      A* out = stage(dst, buffer);
      fir.row(source, row % p.oh, workspace, out);
      commit(out, dst, line);
    }
  });
}

}  // namespace

void launch_upfirdn2d(const Upfirdn2dParams& p, int threads) {
  with_dtype(p.dtype, [&](auto zero) { upfirdn2d_kernel<decltype(zero)>(p, threads); });
}

}  // namespace HSR_ISA
}  // namespace hsr
