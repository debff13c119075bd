// SPDX-License-Identifier: Apache-2.0
// upfirdn2d: zero insertion, padding, FIR and decimation in one pass.
#include "fir_row.h"
#include "kernels.h"

namespace hsr {
namespace HSR_ISA {
namespace {

constexpr int64_t kChunk = 1 << 15;  // output elements a thread takes at a time

template <class T>
void upfirdn2d_kernel(const Upfirdn2dParams& p, int threads) {
  using A = Accumulator<T>;
  const FirRow<T> fir(p, scratch(7, FirRow<T>::storage(p)));
  const bool nhwc = p.layout == Layout::nhwc;
  const int64_t planes = nhwc ? p.n : p.n * p.c, elements = nhwc ? p.c : 1;
  const int64_t line = p.ow * elements, rows = planes * p.oh;
  if (rows == 0 || line == 0) return;
  const int64_t per_chunk = line >= kChunk ? 1 : kChunk / line;
  for_each_chunk((rows + per_chunk - 1) / per_chunk, threads, [&](int64_t chunk) {
    void* working = scratch(0, fir.working());
    A* buffer = sizeof(T) == sizeof(A) ? nullptr : static_cast<A*>(scratch(1, size_t(line) * sizeof(A)));
    const int64_t last = (chunk + 1) * per_chunk < rows ? (chunk + 1) * per_chunk : rows;
    for (int64_t row = chunk * per_chunk; row < last; row++) {
      const T* source = static_cast<const T*>(p.x) + row / p.oh * p.h * p.w * elements;
      T* dst = static_cast<T*>(p.y) + row * line;
      A* out = stage(dst, buffer);
      fir.row(source, row % p.oh, working, out);
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
