# SPDX-License-Identifier: Apache-2.0
"""The activations, defined once: codes shared with the native kernels, defaults, and what a backward needs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F

from .. import _checks


@dataclass(frozen=True)
class Activation:
    """One activation function.

    Attributes:
        code: Its number, as in csrc/include/hsr/params.h.
        function: (x, alpha) -> act(x), in plain differentiable PyTorch.
        alpha: Default of the parameter alpha (0 where there is none).
        gain: Default gain.
        from_output: Whether its derivative can be computed from its output, so that the input needn't be kept.
        curved: Whether its second derivative is nonzero anywhere.
    """

    code: int
    function: Callable[[torch.Tensor, float], torch.Tensor]
    alpha: float = 0.0
    gain: float = 1.0
    from_output: bool = True
    curved: bool = False


ACTIVATIONS = {
    "linear": Activation(0, lambda x, alpha: x),
    "relu": Activation(1, lambda x, alpha: F.relu(x), gain=sqrt(2)),
    "lrelu": Activation(2, lambda x, alpha: F.leaky_relu(x, alpha), alpha=0.2, gain=sqrt(2)),
    "tanh": Activation(3, lambda x, alpha: torch.tanh(x), curved=True),
    "sigmoid": Activation(4, lambda x, alpha: torch.sigmoid(x), curved=True),
    "elu": Activation(5, lambda x, alpha: F.elu(x), curved=True),
    "selu": Activation(6, lambda x, alpha: F.selu(x), curved=True),
    "softplus": Activation(7, lambda x, alpha: F.softplus(x), curved=True),
    "swish": Activation(8, lambda x, alpha: x * torch.sigmoid(x), gain=sqrt(2), from_output=False, curved=True),
}

NAMES = {activation.code: name for name, activation in ACTIVATIONS.items()}
_SLOPES_BELOW_ZERO = {"linear": 1.0, "relu": 0.0}


@dataclass(frozen=True)
class Epilogue:
    """A validated activation with its parameters: clamp(act(x) * gain).

    Attributes:
        act: Name of the activation.
        alpha: Its parameter.
        gain: Factor after the activation.
        clamp: Limit of the output's magnitude; negative for no limit.
    """

    act: str
    alpha: float
    gain: float
    clamp: float

    @property
    def activation(self) -> Activation:
        return ACTIVATIONS[self.act]

    @property
    def from_output(self) -> bool:
        """Whether the derivative can be computed from the output, given these parameters."""
        return self.activation.from_output and self.gain != 0 and not (self.act == "lrelu" and self.alpha < 0)

    @property
    def piecewise_linear(self) -> bool:
        """Whether act(x) is x above zero and a multiple of x below: lrelu and its special cases."""
        return self.act == "lrelu" or self.act in _SLOPES_BELOW_ZERO

    @property
    def slope_below_zero(self) -> float:
        """The factor of x below zero, of a piecewise linear activation."""
        return _SLOPES_BELOW_ZERO.get(self.act, self.alpha)

    @property
    def args(self) -> tuple[int, float, float, float]:
        """(code, alpha, gain, clamp), as the native kernels take them."""
        return self.activation.code, self.alpha, self.gain, self.clamp


# Changes nothing.
IDENTITY = Epilogue("linear", 0.0, 1.0, -1.0)


def epilogue(act: str, alpha: float | None, gain: float | None, clamp: float | None, dtype: torch.dtype) -> Epilogue:
    """Fills in the defaults, and rounds the clamp to `dtype`, so that a clamped output equals it.

    Raises:
        ValueError: Unknown activation, or NaN.
        TypeError: A parameter isn't a number.
    """
    if not isinstance(act, str) or act not in ACTIVATIONS:
        raise ValueError(f"act must be one of {', '.join(ACTIVATIONS)}, got {act!r}")
    activation = ACTIVATIONS[act]
    return Epilogue(
        act,
        activation.alpha if alpha is None else _checks.number("alpha", alpha),
        activation.gain if gain is None else _checks.number("gain", gain),
        -1.0 if clamp is None or _checks.number("clamp", clamp) < 0 else _round(float(clamp), dtype),
    )


def _round(value: float, dtype: torch.dtype) -> float:
    """Returns the number of a 16-bit dtype that is nearest to a non-negative value; the value for other dtypes."""
    bits = {torch.float16: 11, torch.bfloat16: 8}.get(dtype)
    if bits is None or value == 0 or math.isinf(value):
        return value
    exponent = math.frexp(value)[1] - bits
    if dtype == torch.float16:
        exponent = max(exponent, -24)
    rounded = math.ldexp(round(math.ldexp(value, -exponent)), exponent)
    return math.inf if rounded > torch.finfo(dtype).max else rounded
