# SPDX-License-Identifier: Apache-2.0
"""op.fused_act."""

import torch
from torch import nn

from .. import arguments

__all__ = ["FusedLeakyReLU", "fused_leaky_relu"]


def fused_leaky_relu(
    input: torch.Tensor, bias: torch.Tensor | None = None, negative_slope: float = 0.2, scale: float = 2**0.5
) -> torch.Tensor:
    """leaky_relu(input + bias) * scale, by `hsr_kernels.bias_act`; the bias runs along the second dimension."""
    return arguments.bias_act(input, bias, 1, "lrelu", negative_slope, scale, None)


class FusedLeakyReLU(nn.Module):
    """`fused_leaky_relu` with a bias of `channel` values that begin at zero.

    Older copies have no argument `bias`: where a float stands in its place, that is the slope, and the scale follows.
    """

    def __init__(self, channel: int, bias: bool = True, negative_slope: float = 0.2, scale: float = 2**0.5) -> None:
        super().__init__()
        if isinstance(bias, float):
            bias, negative_slope, scale = True, bias, scale if negative_slope == 0.2 else negative_slope
        self.bias = nn.Parameter(torch.zeros(channel)) if bias else None
        self.negative_slope = negative_slope
        self.scale = scale

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[N, channel, ...] to the same shape."""
        return fused_leaky_relu(input, self.bias, self.negative_slope, self.scale)
