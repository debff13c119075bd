# SPDX-License-Identifier: Apache-2.0
"""torch_utils.ops.filtered_lrelu."""

import functools
import math
from collections.abc import Sequence

import torch

import hsr_kernels as kernels

from .. import arguments
from ._plugin import _init, _inited, _plugin, on_reference

__all__ = ["_filtered_lrelu_ref", "_init", "_inited", "_plugin", "filtered_lrelu"]


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
    """`hsr_kernels.filtered_lrelu`; a gain that is a tensor has a gradient."""
    fu, fd = (arguments.filter_on(f, x) for f in (fu, fd))
    up, down, padding = (arguments.ints(v) for v in (up, down, padding))
    b = arguments.bias_of(b, x, 1)
    with on_reference(impl):
        if isinstance(gain, torch.Tensor):
            x = x if b is None else kernels.bias_act(x, b)
            x = kernels.upfirdn2d(x, fu, up, 1, padding, flip_filter, up**2)
            x = arguments.bias_act(x, None, 1, "lrelu", slope, gain, clamp)
            return kernels.upfirdn2d(x, fd, 1, down, flip_filter=flip_filter)
        slope, clamp, gain = (arguments.number(v) for v in (slope, clamp, gain))
        return kernels.filtered_lrelu(x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter)


_filtered_lrelu_ref = functools.partial(filtered_lrelu, impl="ref")
