# SPDX-License-Identifier: Apache-2.0
"""mmcv.ops.upfirdn2d of MMCV 2, in which two numbers of padding are (x, y)."""

from collections.abc import Sequence

import torch

import hsr_kernels as kernels

from .. import arguments

__all__ = ["downsample2d", "filter2d", "upfirdn2d", "upsample2d"]


def upfirdn2d(
    input: torch.Tensor,
    filter: torch.Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    use_custom_op: bool = True,
) -> torch.Tensor:
    """`hsr_kernels.upfirdn2d`; without a custom operator, on the reference backend."""
    with arguments.backend(not use_custom_op):
        return arguments.fir(
            kernels.upfirdn2d, input, filter, up, down, padding=padding, flip_filter=flip_filter, gain=gain
        )


def filter2d(
    input: torch.Tensor,
    filter: torch.Tensor | None,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    use_custom_op: bool = True,
) -> torch.Tensor:
    """`hsr_kernels.filter2d`; without a custom operator, on the reference backend."""
    with arguments.backend(not use_custom_op):
        return arguments.fir(kernels.filter2d, input, filter, padding=padding, flip_filter=flip_filter, gain=gain)


def upsample2d(
    input: torch.Tensor,
    filter: torch.Tensor | None,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    use_custom_op: bool = True,
) -> torch.Tensor:
    """`hsr_kernels.upsample2d`; without a custom operator, on the reference backend."""
    with arguments.backend(not use_custom_op):
        return arguments.fir(kernels.upsample2d, input, filter, up, padding=padding, flip_filter=flip_filter, gain=gain)


def downsample2d(
    input: torch.Tensor,
    filter: torch.Tensor | None,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    use_custom_op: bool = True,
) -> torch.Tensor:
    """`hsr_kernels.downsample2d`; without a custom operator, on the reference backend."""
    with arguments.backend(not use_custom_op):
        return arguments.fir(
            kernels.downsample2d, input, filter, down, padding=padding, flip_filter=flip_filter, gain=gain
        )
