# SPDX-License-Identifier: Apache-2.0
"""What a case is timed as: a workload on a backend, forward alone or with its backward pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import hsr_kernels

from .workloads import FORWARD, Workload

REFERENCE = "reference"
# torch.compile of the reference.
COMPILE = "compile"
TRITON, CUDA = "triton", "cuda"
GPU_BACKENDS = (TRITON, CUDA)
# The reference in float32, the only precision of the released code.
RELEASED = "released"
# The case without the part whose cost it measures, on triton.
BASELINE = "baseline"
# The convolution inside a styled layer, by cuDNN alone.
CONVOLUTION = "convolution"
# A copy on the device that moves as many bytes as the case has to.
COPY = "copy"


@dataclass(frozen=True)
class Variant:
    """A workload on a backend."""

    backend: str
    workload: Workload

    def phase(self, name: str) -> Callable[[], Any]:
        """Returns what to time for a phase."""
        run: Callable[[], Any]
        if name in self.workload.steps:
            run = self.workload.steps[name]
        else:
            run = infer(self.workload) if name == FORWARD else differentiate(self.workload)

        def on_backend() -> Any:
            with hsr_kernels.use_backend(self.backend):
                return run()

        return on_backend


def infer(workload: Workload) -> Callable[[], torch.Tensor]:
    """Returns a call of the forward pass alone, without a graph."""

    def run() -> torch.Tensor:
        with torch.no_grad():
            return workload.function(*workload.inputs, *workload.parameters)

    return run


def differentiate(workload: Workload) -> Callable[[], tuple[torch.Tensor, ...]]:
    """Returns a call of the forward pass, then of the backward pass to every tensor that requires grad."""
    tensors = (*workload.inputs, *workload.parameters)
    leaves = [t for t in tensors if t.requires_grad]
    return lambda: torch.autograd.grad(workload.function(*tensors), leaves, workload.cotangent)
