# SPDX-License-Identifier: Apache-2.0
"""Where time goes: a training step by operators and kernels, the host's overhead, and counters of suspect kernels."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch

from hsr_kernels._dispatch import request
from hsr_kernels._dispatch.request import FUSED

from .. import device, overhead
from ..messages import last_line
from ..setting import ROOT
from ..variants import CUDA, TRITON, Variant
from ..workloads import BOTH, FORWARD, MAIN
from .cases import GPU_CASES
from .items import Item, Task

FILE = "profile.txt"
SECONDS_PER_TRACE, SECONDS_PER_OVERHEAD, SECONDS_PER_COUNTERS = 90.0, 60.0, 90.0
# Of a table of operators.
MAX_ROWS = 40
# Whose counters are read in one process.
MAX_KERNELS = 25
_SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy", "WarpStateStats", "SchedulerStats")
_KERNELS = "regex:upfirdn|epilogue|hidden|layer_|bias_act|scale_channels"


class Suspect(NamedTuple):
    """A pass whose kernels were expected to be furthest from what the chip can do; empty: the layers' usual route."""

    case: str
    phase: str
    backend: str
    route: str = ""


_SUSPECTS = (
    Suspect("styled_up_256_fp16", FORWARD, TRITON),
    Suspect("filter2d_bf16_last", FORWARD, TRITON),
    Suspect("styled_256_fp16", BOTH, TRITON),
    Suspect("feature_loss_bf16", BOTH, TRITON),
    Suspect("styled_512_bf16", FORWARD, TRITON, FUSED),
    Suspect("filter2d_bf16", FORWARD, CUDA),
)


def items(task: Task) -> Iterator[Item]:
    """Yields a training step on both backends, the overhead of calls, then the suspects."""
    without_cuda = device.why_no_cuda_backend()
    for backend in (TRITON,) if without_cuda else (TRITON, CUDA):
        yield Item(f"training step on {backend}", SECONDS_PER_TRACE, partial(_trace, task, backend))
    if not device.rehearsing() and not without_cuda:
        yield Item("overhead", SECONDS_PER_OVERHEAD, partial(_overhead, task))
    for suspect in _SUSPECTS:
        name = f"counters of {', '.join(filter(None, suspect))}"
        yield Item(name, SECONDS_PER_COUNTERS, partial(_counters, task, name, suspect))


def _write(task: Task, title: str, text: str) -> Mapping[str, Any]:
    with (task.folder / FILE).open("a") as file:
        file.write(f"##### {title}\n{text.rstrip()}\n\n")
    return {"lines": text.count("\n") + 1}


def _trace(task: Task, backend: str) -> Mapping[str, Any]:
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    case = next(case for case in GPU_CASES if case.name == "training_256")
    run = Variant(device.backend(backend), case.workload(tiny=task.tiny, device=device.name())).phase(MAIN)
    for _ in range(3):
        run()
    device.settle()
    with torch.profiler.profile() as profile:
        run()
        device.settle()
    averages = profile.key_averages()
    orders = ["cpu_time_total"] if device.rehearsing() else ["cuda_time_total", "cpu_time_total"]
    tables = [averages.table(sort_by=order, row_limit=MAX_ROWS, max_name_column_width=70) for order in orders]
    return _write(task, f"{case.title}, {MAIN}, {backend}", "\n".join(tables))


def _overhead(task: Task) -> Mapping[str, Any]:
    rows = overhead.measure_in_process("cuda", None)
    lines = [overhead.HEADER, *(overhead.cells(row) for row in rows)]
    return _write(task, "the host's time per call", "\n".join(" | ".join(line) for line in lines))


def _counters(task: Task, title: str, suspect: Suspect) -> Mapping[str, Any]:
    """Reads hardware counters with Nsight Compute.

    Raises:
        RuntimeError: It isn't installed, or failed.
    """
    program = shutil.which("ncu")
    if program is None:
        raise RuntimeError("ncu (Nsight Compute) isn't installed")
    command = [program, "--clock-control", "none"]
    for section in _SECTIONS:
        command += ["--section", section]
    command += ["--profile-from-start", "off", "-k", _KERNELS, "-c", str(MAX_KERNELS), "--csv", "--page", "details"]
    command += [sys.executable, "-m", "benchmarks.once", suspect.case, suspect.phase, suspect.backend]
    environment = os.environ | ({request.ROUTE.variable: suspect.route} if suspect.route else {})
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"ncu ended with status {done.returncode}: {last_line(done.stderr, done.stdout)}")
    return _write(task, title, done.stdout)
