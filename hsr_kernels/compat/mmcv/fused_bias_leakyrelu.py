# SPDX-License-Identifier: Apache-2.0
"""mmcv.ops.fused_bias_leakyrelu."""

import torch
from torch import nn

from .. import arguments

__all__ = ["FusedBiasLeakyReLU", "fused_bias_leakyrelu"]


def fused_bias_leakyrelu(
    input: torch.Tensor, bias: torch.Tensor, negative_slope: float = 0.2, scale: float = 2**0.5
) -> torch.Tensor:
    """leaky_relu(input + bias) * scale, by `hsr_kernels.bias_act`; the bias runs along the second dimension."""
    return arguments.bias_act(input, bias, 1, "lrelu", negative_slope, scale, None)


class FusedBiasLeakyReLU(nn.Module):
    """`fused_bias_leakyrelu` with a bias of `num_channels` values that begin at zero."""

    def __init__(self, num_channels: int, negative_slope: float = 0.2, scale: float = 2**0.5) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.negative_slope = negative_slope
        self.scale = scale

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[N, num_channels, ...] to the same shape."""
        return fused_bias_leakyrelu(input, self.bias, self.negative_slope, self.scale)
