# SPDX-License-Identifier: Apache-2.0
"""basicsr.ops.upfirdn2d."""

from collections.abc import Sequence

import torch

from ..rosinality.upfirdn2d import upfirdn2d as _upfirdn2d
from ..rosinality.upfirdn2d import upfirdn2d_native

__all__ = ["upfirdn2d", "upfirdn2d_native"]


def upfirdn2d(
    input: torch.Tensor, kernel: torch.Tensor, up: int = 1, down: int = 1, pad: Sequence[int] = (0, 0)
) -> torch.Tensor:
    """`hsr_kernels.upfirdn2d` with padding (before, after) of both axes; of more numbers the first two count."""
    return _upfirdn2d(input, kernel, up, down, pad[:2])
