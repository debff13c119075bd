# SPDX-License-Identifier: Apache-2.0
"""torch_utils.ops.conv2d_resample."""

from collections.abc import Sequence

import torch

import hsr_kernels as kernels

from .. import arguments

__all__ = ["conv2d_resample"]


def conv2d_resample(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> torch.Tensor:
    """`hsr_kernels.conv2d_resample`."""
    up, down, padding = (arguments.ints(v) for v in (up, down, padding))
    f = arguments.filter_on(f, x)
    return kernels.conv2d_resample(x, w, f, up, down, padding, groups, flip_weight, flip_filter)
