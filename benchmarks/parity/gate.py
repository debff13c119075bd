# SPDX-License-Identifier: Apache-2.0
"""What has to be right before it is timed: values, first and second derivatives, on ordinary and on adversarial inputs.

The truth is the float64 reference, and the bound is the tests' (tolerances.py). Random inputs, zeros, huge and
subnormal numbers are held to it in all orders. Of NaN and infinite values only the output is compared, as the
derivatives of what isn't a number are nobody's contract: it must be NaN and infinite where the reference's is.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from hsr_kernels import use_backend

from ..messages import described
from . import tolerances
from .call import Call
from .inputs import Inputs, draw, evaluate

REFERENCE = "reference"
ORDERS = ("forward", "backward", "double backward")
# Relative L2 error of results at the size that is timed, against the reference in float32. Rounding moves some values
# across a leaky ReLU's kink, where derivatives jump: a share of them as large as the epsilon, so the norm is its root.
MAX_ERROR_AT_SIZE = {torch.float32: 1e-3, torch.bfloat16: 1e-1}
_IMAGES = ("x", "features")
_WEIGHTS = ("weight", "styles", "w2")
# Gradients that read the activation's sign or the convolution's result off the output are precise to the output's
# rounding, not to their own: a subnormal number times the gain can round to zero, and drowns in a bias or noise.
_RECOVERED_FROM_OUTPUT = ("bias_act", "modulated_conv2d")
# Two of these powers can be multiplied without an overflow.
_SHARE_OF_EXPONENTS = 1 / 3
_SUBNORMAL_SHARE = 2.0**-6


@dataclass(frozen=True)
class Adversary:
    """A kind of inputs.

    Attributes:
        name: What it is, for sentences.
        change: Takes an argument's name, what was drawn for it in float64, and the dtype that it is rounded to.
        is_finite: Whether all values are; if not, only the output is compared.
        is_subnormal: Whether images are.
    """

    name: str
    change: Callable[[str, torch.Tensor, torch.dtype], torch.Tensor]
    is_finite: bool = True
    is_subnormal: bool = False

    def orders(self, op: str) -> tuple[str, ...]:
        """The names of the orders of derivative, from the output on, that an operator's contract defines."""
        if not self.is_finite:
            return ORDERS[:1]
        return ORDERS[:1] if self.is_subnormal and op in _RECOVERED_FROM_OUTPUT else ORDERS


def _zero(parts: tuple[str, ...]) -> Callable[[str, torch.Tensor, torch.dtype], torch.Tensor]:
    return lambda name, t, dtype: torch.zeros_like(t) if name.partition(".")[0] in parts else t


def _scaled(name: str, t: torch.Tensor, factor: float) -> torch.Tensor:
    return t * factor if name.partition(".")[0] in _IMAGES else t


def _huge(name: str, t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return _scaled(name, t, torch.finfo(dtype).max ** _SHARE_OF_EXPONENTS)


def _subnormal(name: str, t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return _scaled(name, t, torch.finfo(dtype).tiny * _SUBNORMAL_SHARE)


def _with_a_value(value: float) -> Callable[[str, torch.Tensor, torch.dtype], torch.Tensor]:
    """Puts a value into the first pixel of the first image and its negative into the last of the last."""

    def change(name: str, t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if name.partition(".")[0] in _IMAGES and t.numel():
            t = t.clone()
            t.view(-1)[0], t.view(-1)[-1] = value, -value
        return t

    return change


ADVERSARIES = (
    Adversary("random numbers", lambda name, t, dtype: t),
    Adversary("zeros", _zero(_IMAGES)),
    Adversary("weights of zero", _zero(_WEIGHTS)),
    Adversary("huge numbers", _huge),
    Adversary("subnormal numbers", _subnormal, is_subnormal=True),
    Adversary("NaN", _with_a_value(torch.nan), is_finite=False),
    Adversary("infinite values", _with_a_value(torch.inf), is_finite=False),
)


def fault(
    call: Call,
    backend: str,
    dtype: torch.dtype = torch.float32,
    layout: str = "contiguous",
    measured: Call | None = None,
) -> str:
    """Returns what is wrong with an operator, as a sentence; empty if nothing is.

    Args:
        call: The operator with its arguments.
        backend: What is to be timed.
        dtype, layout: Of its tensors, as inputs.py has them.
        measured: Another implementation of the same call, in place of the library's.
    """
    for adversary in ADVERSARIES:
        draws = [_draw(call, dtype, number, adversary) for number in range(tolerances.DRAWS)]
        for order, name in enumerate(adversary.orders(call.op)):
            compare = _faults_of_finite if adversary.is_finite else _faults_of_nonfinite
            try:
                found = next(compare(call, measured or call, backend, dtype, layout, draws, order), "")
            except Exception as error:
                found = described(error)
            if found:
                return f"{name} of {call.op} on {adversary.name}: {found}"
    return ""


def _draw(call: Call, dtype: torch.dtype, number: int, adversary: Adversary) -> Inputs:
    if adversary.is_finite:
        return draw(call, dtype, number, lambda name, t: adversary.change(name, t, dtype))
    # Kinks, next to which nothing is drawn, are of no concern to outputs.
    inputs = draw(call, dtype, number)
    return replace(inputs, tensors={name: adversary.change(name, t, dtype) for name, t in inputs.tensors.items()})


def _on(backend: str, call: Call, inputs: Inputs, order: int, layout: str = "contiguous") -> dict[str, torch.Tensor]:
    with use_backend(backend):
        return evaluate(call, inputs, order, layout)


def _faults_of_finite(
    call: Call, measured: Call, backend: str, dtype: torch.dtype, layout: str, draws: list[Inputs], order: int
) -> Iterator[str]:
    actual = _on(backend, measured, draws[0], order, layout)
    truths = [_on(REFERENCE, call, inputs.in_float64(), order) for inputs in draws]
    results = (_on(REFERENCE, call, inputs, order) for inputs in draws)
    errors = tolerances.largest_errors(zip(results, truths, strict=True))
    yield from tolerances.faults(actual, truths[0], errors, dtype)


def _faults_of_nonfinite(
    call: Call, measured: Call, backend: str, dtype: torch.dtype, layout: str, draws: list[Inputs], order: int
) -> Iterator[str]:
    actual = _on(backend, measured, draws[0], order, layout)["output"]
    expected = _on(REFERENCE, call, draws[0], order)["output"]
    truth = _on(REFERENCE, call, draws[0].in_float64(), order)["output"]
    kinds = {"finite": torch.isfinite, "NaN": torch.isnan, "positive and infinite": torch.isposinf}
    # PyTorch's convolutions in 16 bits let a NaN reach further than its filter does, so either of the two may be met.
    for kind, test in kinds.items():
        differs = (test(actual) != test(expected)) & (test(actual) != test(truth))
        if differing := int(differs.sum()):
            yield f"{differing} of {expected.numel()} elements differ in whether they are {kind}"
    finite = expected.isfinite() & truth.isfinite() & actual.isfinite()
    results = [{"output": torch.where(finite, t.to(truth.dtype), 0.0)} for t in (actual, truth, expected)]
    errors = tolerances.largest_errors([(results[2], results[1])])
    yield from tolerances.faults(results[0], results[1], errors, dtype)


def fault_at_size(
    expected: list[torch.Tensor | None], actual: list[torch.Tensor | None], dtype: torch.dtype = torch.float32
) -> str:
    """Returns which of the results at the size that is timed isn't the reference's, as a sentence; empty if none.

    Of a result that vanishes, because its terms cancel, the error is a share of the largest one's norm.

    Args:
        expected: The reference's, in float32.
        actual: Those of images of `dtype`.
        dtype: One of MAX_ERROR_AT_SIZE.
    """
    largest = max((float(truth.norm()) for truth in expected if truth is not None), default=0.0) or 1.0
    for i, (truth, result) in enumerate(zip(expected, actual, strict=True)):
        if truth is None or result is None:
            # A derivative that vanishes identically may be left out.
            truth, result = (t if t is not None else torch.zeros(()) for t in (truth, result))
        error = float((result - truth).norm()) / (float(truth.norm()) or largest)
        if not error < MAX_ERROR_AT_SIZE[dtype]:
            return f"result {i} is off by {error:.1e} of the norm"
    return ""
