# SPDX-License-Identifier: Apache-2.0
"""op.upfirdn2d."""

from collections.abc import Sequence

import torch

import hsr_kernels as kernels

from .. import arguments

__all__ = ["upfirdn2d", "upfirdn2d_native"]


def upfirdn2d(
    input: torch.Tensor,
    kernel: torch.Tensor,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    pad: Sequence[int] = (0, 0),
) -> torch.Tensor:
    """`hsr_kernels.upfirdn2d` with padding (before, after) of both axes, or (x0, x1, y0, y1)."""
    return arguments.fir(kernels.upfirdn2d, input, kernel, up, down, padding=arguments.before_and_after(pad), gain=1)


def upfirdn2d_native(
    input: torch.Tensor,
    kernel: torch.Tensor,
    up_x: int,
    up_y: int,
    down_x: int,
    down_y: int,
    pad_x0: int,
    pad_x1: int,
    pad_y0: int,
    pad_y1: int,
) -> torch.Tensor:
    """`upfirdn2d` on the reference backend, which projects call on machines without a compiler."""
    with arguments.backend(on_reference=True):
        return upfirdn2d(input, kernel, (up_x, up_y), (down_x, down_y), (pad_x0, pad_x1, pad_y0, pad_y1))
