# SPDX-License-Identifier: Apache-2.0
"""What can be asked about backends: which there are, which one an operator runs on, and why."""

from dataclasses import dataclass

import torch

from . import request
from .operators import Choice, Operator, operators
from .request import BACKENDS

_OF_PYTORCH = "PyTorch's own kernels"


def operator_named(op: str) -> Operator:
    """The operator.

    Raises:
        ValueError: There is none of that name.
    """
    if op not in operators:
        raise ValueError(f"op must be one of {', '.join(sorted(operators))}, got {op!r}")
    return operators[op]


def implemented(op: str) -> tuple[str, ...]:
    """The backends that have an implementation of an operator, whether it can run here or not."""
    return tuple(operator_named(op).implementations)


def backends(op: str | None = None, device: str | torch.device | None = None) -> dict[str, str]:
    """The backends and what keeps each from running: an empty string means that it can run.

    Args:
        op: An operator's name; None asks about the backends in general (the answer for `bias_act`).
        device: A device to ask about; None means the device that each backend is made for.

    Returns:
        {backend: reason it can't run, or ""}.
    """
    operator = operator_named(op or "bias_act")
    on = None if device is None else torch.device(device)
    return {name: operator.why_not(name, on) for name in BACKENDS}


@dataclass(frozen=True)
class Explanation:
    """What `explain` found: the backend that runs, for each other backend why it doesn't, and what else is known."""

    op: str
    backend: str
    tensor: str
    reasons: dict[str, str]
    details: tuple[str, ...] = ()
    of_pytorch: bool = False

    def __str__(self) -> str:
        runs = _OF_PYTORCH if self.of_pytorch else f"on the {self.backend} backend"
        lines = [f"{self.op} on {self.tensor} runs {runs}"]
        lines += [f"  {name}: {reason}" for name, reason in self.reasons.items()]
        lines += [f"  {detail}" for detail in self.details]
        return "\n".join(lines)


def explain(op: str, *tensors: torch.Tensor) -> Explanation:
    """Which backend would run `op` on tensors of that device and dtype, and why not the others; print it.

    What depends on other arguments (a filter that requires grad, say) shows in the warning when the operator runs.

    Args:
        op: An operator's name, such as "upfirdn2d".
        *tensors: The operator's tensors; the first decides device and dtype. None given: a float32 CPU tensor.
            With x and weight, `modulated_conv2d` gives its routes too.

    Raises:
        ValueError: No operator of that name.
        RuntimeError: A backend was requested that can't run.
    """
    operator = operator_named(op)
    x = tensors[0] if tensors else torch.empty(0)
    choice = operator.choose(x, fused_on=operator.fused_on(*tensors), quiet=True)
    reasons = {name: _reason(operator, name, choice, x) for name in BACKENDS}
    details = operator.implementations[choice.backend].details
    sentences = tuple(details(*tensors)) if details else ()
    tensor = f"{x.device} {str(x.dtype).removeprefix('torch.')}"
    of_pytorch = operator.of_pytorch and choice.backend != "reference"
    return Explanation(op, choice.backend, tensor, reasons, sentences, of_pytorch)


def _reason(operator: Operator, name: str, choice: Choice, x: torch.Tensor) -> str:
    if name == choice.backend:
        return f"chosen: {choice.reason}"
    if why_not := operator.why_not(name, x.device, x.dtype):
        return why_not
    wanted = request.BACKEND.value()
    if wanted:
        return f"it could run, but {wanted} was requested"
    if operator.of_pytorch and name != "reference":
        return "it would run the same kernels, PyTorch's own"
    rank = "the default" if choice.reason.startswith("the default") else "faster"
    return f"it could run, but {choice.backend} is {rank}"
