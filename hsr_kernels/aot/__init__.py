# SPDX-License-Identifier: Apache-2.0
"""Compiles every GPU kernel ahead of time, without a GPU, and checks the results: `python -m hsr_kernels.aot`.

workload   calls of the public functions at the shapes of real networks
record     runs them on tensors without data and records the kernels that they would launch
build      compiles a launch for a chip: registers, spills, shared memory, tensor-core instructions
native     the CUDA kernels, which the package's build has compiled into hsr_kernels._cuda
report     tables of compiled kernels
warm       fills Triton's cache with what calls launch
__main__   the command line

No kernel is listed anywhere: the Triton kernels that are compiled are those that the operators launch, and a kernel
that nothing launches is an error.
"""
