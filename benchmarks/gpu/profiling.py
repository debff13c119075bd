# SPDX-License-Identifier: Apache-2.0
"""Where time goes: a training step by operators and kernels, the host's overhead, and counters of suspect kernels."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch

from .. import overhead
from ..memory import ROOT
from ..run import Variant
from ..workloads import BOTH, FORWARD, MAIN
from . import device, measuring
from .cases import GPU_CASES
from .items import Item, Task

FILE = "profile.txt"
_TRACE_SECONDS, _OVERHEAD_SECONDS, _COUNTERS_SECONDS = 90.0, 60.0, 90.0
_ROWS = 40  # of a table of operators
_MAX_KERNELS = 25  # that counters are read of in one process
_SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy", "WarpStateStats", "SchedulerStats")
_KERNELS = "regex:upfirdn|epilogue|hidden|layer_|bias_act|scale_channels"
# (case, pass, backend, route of its layers): kernels that were expected to be furthest from what the chip can do.
_SUSPECTS = (
    ("styled_up_256_fp16", FORWARD, "triton", ""),
    ("filter2d_bf16_last", FORWARD, "triton", ""),
    ("styled_256_fp16", BOTH, "triton", ""),
    ("feature_loss_bf16", BOTH, "triton", ""),
    ("styled_512_bf16", FORWARD, "triton", "fused"),
    ("filter2d_bf16", FORWARD, "cuda", ""),
)


def items(task: Task) -> Iterator[Item]:
    """A step of training on both backends, the overhead of calls, then the suspects."""
    for backend in ("triton", "cuda") if not measuring.without_cuda() else ("triton",):
        yield Item(f"training step on {backend}", _TRACE_SECONDS, partial(_trace, task, backend))
    if not device.rehearsing() and not measuring.without_cuda():
        yield Item("overhead", _OVERHEAD_SECONDS, partial(_overhead, task))
    for case, phase, backend, route in _SUSPECTS:
        name = f"counters of {case}, {phase}, {backend}{route and ', '}{route}"
        yield Item(name, _COUNTERS_SECONDS, partial(_counters, task, name, case, phase, backend, route))


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
    tables = [averages.table(sort_by=order, row_limit=_ROWS, max_name_column_width=70) for order in orders]
    return _write(task, f"{case.title}, {MAIN}, {backend}", "\n".join(tables))


def _overhead(task: Task) -> Mapping[str, Any]:
    rows = overhead.in_process("cuda", None)
    lines = [overhead.HEADER, *(overhead.line(row) for row in rows)]
    return _write(task, "the host's time per call", "\n".join(" | ".join(line) for line in lines))


def _counters(task: Task, title: str, case: str, phase: str, backend: str, route: str) -> Mapping[str, Any]:
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
    command += ["--profile-from-start", "off", "-k", _KERNELS, "-c", str(_MAX_KERNELS), "--csv", "--page", "details"]
    command += [sys.executable, "-m", "benchmarks.once", case, phase, backend]
    environment = os.environ | ({"HSR_KERNELS_ROUTE": route} if route else {})
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"ncu ended with status {done.returncode}: {said}")
    return _write(task, title, done.stdout)
