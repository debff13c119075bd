# SPDX-License-Identifier: Apache-2.0
"""op.upfirdn2d."""

from collections.abc import Sequence

import torch

import hsr_kernels as kernels

from .. import arguments

__all__ = ["upfirdn2d"]


def upfirdn2d(
    input: torch.Tensor,
    kernel: torch.Tensor,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    pad: Sequence[int] = (0, 0),
) -> torch.Tensor:
    """`hsr_kernels.upfirdn2d` with padding (before, after) of both axes, or (x0, x1, y0, y1)."""
    return arguments.fir(kernels.upfirdn2d, input, kernel, up, down, padding=arguments.before_and_after(pad), gain=1)
