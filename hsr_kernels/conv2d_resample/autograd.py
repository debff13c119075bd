# SPDX-License-Identifier: Apache-2.0
"""conv2d_resample from the operators of this package, which have every derivative that it needs."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from ..conv2d import autograd as _conv2d
from ..upfirdn2d import autograd as _upfirdn2d
from . import reference
from .plan import Plan


def _with_int_stride(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Lets a convolution take its stride as an int, as plans have it."""

    @functools.wraps(function)
    def call(x: torch.Tensor, w: torch.Tensor, *, stride: int, padding: tuple[int, int], groups: int) -> torch.Tensor:
        return function(x, w, stride=(stride, stride), padding=padding, groups=groups)

    return call


_CONVOLUTIONS: dict[str, Any] = {
    "conv": _with_int_stride(_conv2d.conv2d),
    "conv_transpose": _with_int_stride(_conv2d.conv_transpose2d),
}


def conv2d_resample(
    backend: str,
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None,
    plan: Plan,
    groups: int,
    flip_weight: bool,
) -> torch.Tensor:
    """See `hsr_kernels.conv2d_resample`; `backend` runs the FIRs."""
    fir = functools.partial(_upfirdn2d.upfirdn2d, backend)
    return reference.conv2d_resample(x, w, f, plan, groups, flip_weight, fir=fir, **_CONVOLUTIONS)
