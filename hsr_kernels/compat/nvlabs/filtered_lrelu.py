# SPDX-License-Identifier: Apache-2.0
"""torch_utils.ops.filtered_lrelu."""

import math
from collections.abc import Sequence

import torch

import hsr_kernels as kernels

from .. import arguments
from ._plugin import _init, _inited, _plugin, on_reference

__all__ = ["_init", "_inited", "_plugin", "filtered_lrelu"]


def filtered_lrelu(
    x: torch.Tensor,
    fu: torch.Tensor | None = None,
    fd: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
    impl: str = "cuda",
) -> torch.Tensor:
    """`hsr_kernels.filtered_lrelu`."""
    fu, fd = (arguments.filter_on(f, x) for f in (fu, fd))
    up, down, padding = (arguments.ints(v) for v in (up, down, padding))
    b, slope, clamp, gain = arguments.bias_of(b, x, 1), *(arguments.number(v) for v in (slope, clamp, gain))
    with on_reference(impl):
        return kernels.filtered_lrelu(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter)
