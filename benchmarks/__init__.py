# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of the operators against plain PyTorch; run as `python -m benchmarks`.

workloads   the work: operators, a layer, the HSR loss and training steps
case        a workload at a size, and what it must reach
variants    what a case is timed as
roofline    what GPU cases have to move and do move, counted without measuring
overhead    the host's time per call of the cuda backend
once        one pass of one GPU case, for profilers
timing, device, setting, messages, markdown
            statistics, the GPU, the checkout and its machine, sentences, tables
commands    the commands for CPUs and those that count
cpu/        time and memory on the CPU
gpu/        tests and measurements on a GPU, in stages and processes of their own
tune/       measures what the library chooses between on a GPU
results/    what was measured
"""
