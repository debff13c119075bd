// SPDX-License-Identifier: Apache-2.0
// hsr_kernels._cuda: takes addresses, sizes, codes, a device and a stream of it; allocates nothing; the kernels run
// asynchronously. Loads without a driver.
#include "bindings.h"

PYBIND11_MODULE(_cuda, m) {
  using namespace hsr::cuda;
  m.doc() = "CUDA kernels of hsr_kernels: addresses, sizes, dtype codes, (device, stream).";
  m.def("architectures", &architectures, "What the kernels were compiled for.");
  m.def("problem", &problem, "Why no kernel can run on this machine, or an empty string.");
  m.def("problem_of", &problem_of, "Why no kernel can run on a device, or an empty string.");
  define_bias_act(m);
  define_upfirdn2d(m);
  define_modulated_conv2d(m);
#ifdef HSR_EMULATED
  define_emulator(m);
#endif
}
