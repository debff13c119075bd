# SPDX-License-Identifier: Apache-2.0
"""What a case is timed as: a workload on a backend, forward alone or with its backward pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import hsr_kernels

from .workloads import BACKWARD, FORWARD, SECOND, Workload

# Called once per round, outside of what is timed; returns the call to time.
Stage = Callable[[], Callable[[], Any]]

REFERENCE = "reference"
# torch.compile of the reference.
COMPILE = "compile"
# Somebody's own copy of the operators.
PEER = "peer"
TRITON, CUDA = "triton", "cuda"
GPU_BACKENDS = (TRITON, CUDA)
# The reference in float32, the only precision of the released code.
RELEASED = "released"
# The backend that is measured, with images in bfloat16.
BFLOAT16 = "bfloat16"
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

    def stage(self, name: str) -> Stage:
        """Returns what makes the call to time for a phase: a backward pass needs the graph of its forward pass."""
        if name not in (BACKWARD, SECOND):
            run = self.phase(name)
            return lambda: run
        prepare = backward if name == BACKWARD else second_order

        def on_backend() -> Callable[[], Any]:
            # A backward pass runs on the backend that its forward pass ran on.
            with hsr_kernels.use_backend(self.backend):
                return prepare(self.workload)

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
    leaves = workload.leaves
    return lambda: torch.autograd.grad(workload.function(*tensors), leaves, workload.cotangent)


def backward(workload: Workload) -> Callable[[], tuple[torch.Tensor, ...]]:
    """Runs the forward pass; returns a call of the backward pass alone, which can be made once."""
    output = workload.function(*workload.inputs, *workload.parameters)
    leaves = workload.leaves
    return lambda: torch.autograd.grad(output, leaves, workload.cotangent)


def second_order(workload: Workload) -> Callable[[], tuple[torch.Tensor | None, ...]]:
    """Runs forward and backward pass; returns a call of the derivatives of the latter, which can be made once.

    They are those of the sum over tensors of <first derivative, u> with respect to each tensor and to the cotangent,
    for random tensors u; None where one vanishes identically.
    """
    output = workload.function(*workload.inputs, *workload.parameters)
    leaves, cotangent = workload.leaves, workload.cotangent.detach().requires_grad_()
    first = torch.autograd.grad(output, leaves, cotangent, create_graph=True)
    outputs = [t for t in first if t.requires_grad]
    generator = torch.Generator(cotangent.device).manual_seed(1)
    # The same for every backend, whatever the layouts of its gradients.
    directions = [torch.randn(t.shape, generator=generator, device=t.device, dtype=t.dtype) for t in outputs]
    return lambda: torch.autograd.grad(outputs, [*leaves, cotangent], directions, allow_unused=True)
