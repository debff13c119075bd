# SPDX-License-Identifier: Apache-2.0
"""One call, one backend: the chosen one runs forward, backward and second order, and `explain` names it."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hsr_kernels as hk
from benchmarks.parity.inputs import draw, evaluate
from hsr_kernels._dispatch import measured, operators
from tests.cases import BY_NAME
from tests.native import CUDA_DEVICES, TRITON_DEVICES, requires_native

CASES = (
    "bias_act-styled-clamped", "bias_act-swish-clamped", "upfirdn2d-up-3-down-2", "conv2d_resample-up-2",
    "modulated_conv2d-styled", "modulated_conv2d-styled-up", "modulated_conv2d-1x1-down", "modulated_conv2d-to-rgb",
    "feature_projection_loss-grow-equal-shrink", "filtered_lrelu-rectangular", "conv2d-3x3", "grid_sample-square",
)  # fmt: skip


class Launched(TorchDispatchMode):
    """Notes the backends whose native operators run."""

    def __init__(self) -> None:
        super().__init__()
        self.backends: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "hsr_kernels":
            self.backends.add(func._overloadname)
        return func(*args, **(kwargs or {}))


def _entries() -> list:
    entries = [pytest.param(name, "cpu", "cpu", marks=requires_native, id=f"{name}-cpu") for name in CASES]
    for backend, devices in (("triton", TRITON_DEVICES), ("cuda", CUDA_DEVICES)):
        for device, mark in devices.items():
            runs = [name for name in CASES if backend in hk._dispatch.explain.implemented(BY_NAME[name].op)]
            # PyTorch's own kernels run on GPUs only, where a GPU's backend is asked for.
            runs = [name for name in runs if device == "cuda" or not operators.operators[BY_NAME[name].op].of_pytorch]
            entries += [pytest.param(name, backend, device, marks=mark, id=f"{name}-{backend}") for name in runs]
    return entries


@pytest.mark.parametrize("name, backend, device", _entries())
def test_explain_says_what_runs(name, backend, device):
    case = BY_NAME[name]
    orders = 1 if case.op == "feature_projection_loss" else 2
    x = torch.empty(1, device=device).expand(next(iter(case.shapes.values())))
    with hk.use_backend(backend), Launched() as launched:
        explanation = hk.explain(case.op, x)
        evaluate(case, draw(case, torch.float32), orders, device=device)
    assert launched.backends == (set() if explanation.of_pytorch else {explanation.backend})


_LAYER = """
import torch, hsr_kernels as hk
from tests.cases import BY_NAME
from benchmarks.parity.inputs import draw, evaluate
from tests.ops.test_choice import Launched
for name in ("modulated_conv2d-styled-up", "modulated_conv2d-styled", "conv2d_resample-up-2"):
    for layout in ("contiguous", "channels_last"):
        inputs = draw(BY_NAME[name], torch.float32)
        with Launched() as launched:
            evaluate(BY_NAME[name], inputs, 2, layout)
        memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        x = inputs.tensors["x"].to(memory_format=memory_format)
        print(name, layout, hk.explain(BY_NAME[name].op, x).backend, *launched.backends)
"""


@pytest.mark.emulate
def test_a_layer_runs_on_one_backend_whatever_is_faster_for_its_parts(tmp_path):
    """Both of a GPU's backends simulated in one process; the table prefers another one for each size and layout."""
    lines = []
    for op in ("upfirdn2d", "modulated_conv2d", "bias_act"):
        for layout in ("contiguous", "channels_last"):
            for doublings in range(2, 16):
                slow = ("cuda", "triton", "cpu")[(doublings + (layout == "contiguous")) % 2]
                problem = measured.Problem(op, operators.CALL, "float32", layout, (2**doublings,))
                times = {"cpu": 9.0, "cuda": 1.0, "triton": 1.0} | {slow: 5.0}
                lines.append(measured.Measurement("none", problem, times))
    measured.write(tmp_path / "measured.csv", lines)
    environment = {"HSR_KERNELS_MEASURED": str(tmp_path / "measured.csv"), "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _LAYER], env=os.environ | environment, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split()[2:] for line in done.stdout.splitlines()]
    assert len(rows) == 6 and all(chosen == launched for chosen, launched in rows), done.stdout
    assert {chosen for chosen, _ in rows} == {"cuda", "triton"}, "the table must prefer each of them somewhere"
