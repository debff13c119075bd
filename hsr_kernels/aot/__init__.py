# SPDX-License-Identifier: Apache-2.0
"""Compiles every GPU kernel ahead of time, without a GPU, and checks what came out: `python -m hsr_kernels.aot`.

    workload.py   calls of the public functions at the shapes of real networks
    record.py     runs them on tensors without data and notes the kernels that they would launch
    build.py      compiles a launch for a chip; registers, spills, shared memory, tensor-core instructions
    native.py     the CUDA kernels, which the package's build has compiled into hsr_kernels._cuda
    __main__.py   the command line and its table

No kernel is listed anywhere: of Triton's, what the operators launch is what is compiled, and a kernel that nothing
launches is an error.
"""
