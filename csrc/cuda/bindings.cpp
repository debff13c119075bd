// SPDX-License-Identifier: Apache-2.0
// hsr_kernels._cuda: takes addresses, sizes, codes, a device and one of its streams; allocates nothing; the kernels run
// asynchronously. The module loads without a driver.
#include "bindings.h"

PYBIND11_MODULE(_cuda, m) {
  using namespace hsr::cuda;
  m.doc() = "CUDA kernels of hsr_kernels: addresses, sizes, dtype codes, (device, stream).";
  m.def("architectures", &architectures, "Returns what the kernels were compiled for.");
  m.def("problem", &problem, "Returns the reason why kernels can't run on this machine, empty if they can.");
  m.def("problem_of", &problem_of, "Returns the reason why kernels can't run on a device, empty if they can.");
  m.def("activations", &hsr::activations, "Returns the names of the activations, in the order of their codes.");
  define_bias_act(m);
  define_upfirdn2d(m);
  define_modulated_conv2d(m);
#ifdef HSR_EMULATED
  define_emulator(m);
#endif
}
