# SPDX-License-Identifier: Apache-2.0
"""Runs one pass of one GPU case once, for ncu and compute-sanitizer: `python -m benchmarks.once CASE PHASE BACKEND`.

It is run twice before that, so that kernels are compiled and memory is allocated; profilers that start switched off
(`ncu --profile-from-start off`) see the last run alone.
"""

import argparse

import torch

from .gpu.cases import GPU_CASES
from .messages import fail
from .variants import CUDA, REFERENCE, TRITON, Variant
from .workloads import SCHEDULE


def main(name: str, phase: str, backend: str, tiny: bool) -> None:
    """Runs it; ends with one sentence and exit code 2 where it can't run."""
    case = next((case for case in GPU_CASES if case.name == name), None)
    if case is None:
        fail(f"CASE must be one of {', '.join(case.name for case in GPU_CASES)}, got {name!r}")
    phases = [phase for phase in case.targets if phase != SCHEDULE]
    if phase not in phases:
        fail(f"PHASE of {name} must be one of {', '.join(phases)}, got {phase!r}")
    if not torch.cuda.is_available():
        fail("benchmarks.once needs a CUDA device, and PyTorch sees none")
    torch.manual_seed(0)
    run = Variant(backend, case.workload(tiny=tiny, device="cuda")).phase(phase)
    for _ in range(2):
        run()
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    run()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.once", description=__doc__.partition("\n")[0])
    parser.add_argument("case", metavar="CASE", help="of gpu-report")
    parser.add_argument("phase", metavar="PHASE", help='such as "forward+backward"')
    parser.add_argument("backend", metavar="BACKEND", choices=(TRITON, CUDA, REFERENCE))
    parser.add_argument("--tiny", action="store_true", help="in the sizes of a test")
    given = parser.parse_args()
    main(given.case, given.phase, given.backend, given.tiny)
