# SPDX-License-Identifier: Apache-2.0
"""Compiles every Triton kernel ahead of time, without a GPU, and checks what came out: `python -m hsr_kernels.aot`.

    workload.py   calls of the public functions at the shapes of real networks
    record.py     runs them on tensors without data and notes the kernels that they would launch
    build.py      compiles a launch for a chip; registers, spills, shared memory, tensor-core instructions
    __main__.py   the command line and its table

No kernel is listed anywhere: what the operators launch is what is compiled, and a kernel that nothing launches is an
error.
"""
