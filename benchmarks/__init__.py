# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of the operators against plain PyTorch; run as `python -m benchmarks`.

workloads   the work: operators, a layer and the HSR loss
networks    the work of whole networks: training steps, images
case        a workload at a size, and what it must reach
variants    what a case is timed as
costs       the fewest bytes and operations of a pass
roofline    what GPU cases have to move and do move, counted without measuring
overhead    the host's time per call of the cuda backend
once        one pass of one GPU case, for profilers
timing, device, setting, messages, markdown
            statistics, the GPU, the checkout and its machine, sentences, tables
commands    the commands for CPUs and those that count
parity/     what has to be right before it is timed, by the tests' rule
counts/     a guard against slower code: counts against recorded ones
peers/      somebody's own copy of the operators, to be timed beside ours
cpu/        time and memory on the CPU
gpu/        tests and measurements on a GPU, in stages and processes of their own
tune/       measures what the library chooses between on a GPU
results/    what was measured
"""

SUITES = ("ops", "layers", "step", "inference")
PEER_FAMILIES = ("nvlabs", "rosinality", "mmcv")
AXES = ("batch", "resolution", "channels", "threads")
