# SPDX-License-Identifier: Apache-2.0
"""basicsr.ops.fused_act."""

import torch

from ..rosinality import fused_act as _fused_act

__all__ = ["FusedLeakyReLU", "fused_leaky_relu"]


def fused_leaky_relu(
    input: torch.Tensor, bias: torch.Tensor, negative_slope: float = 0.2, scale: float = 2**0.5
) -> torch.Tensor:
    """leaky_relu(input + bias) * scale, by `hsr_kernels.bias_act`; the bias runs along the second dimension."""
    return _fused_act.fused_leaky_relu(input, bias, negative_slope, scale)


class FusedLeakyReLU(_fused_act.FusedLeakyReLU):
    """`fused_leaky_relu` with a bias of `channel` values that begin at zero."""

    def __init__(self, channel: int, negative_slope: float = 0.2, scale: float = 2**0.5) -> None:
        super().__init__(channel, True, negative_slope, scale)
