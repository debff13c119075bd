# SPDX-License-Identifier: Apache-2.0
"""mmcv.ops.filtered_lrelu."""

import math
from collections.abc import Sequence

import torch

from ..nvlabs import filtered_lrelu as _nvlabs

__all__ = ["filtered_lrelu"]


def filtered_lrelu(
    input: torch.Tensor,
    filter_up: torch.Tensor | None = None,
    filter_down: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
    use_custom_op: bool = True,
) -> torch.Tensor:
    """`hsr_kernels.filtered_lrelu`; without a custom operator, on the reference backend."""
    return _nvlabs.filtered_lrelu(
        input, filter_up, filter_down, bias, up, down, padding, gain, slope, clamp, flip_filter,
        "cuda" if use_custom_op else "ref",
    )  # fmt: skip
