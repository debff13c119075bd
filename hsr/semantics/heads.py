# SPDX-License-Identifier: Apache-2.0
"""Heads from the generator's features at one resolution to the encoder's at one depth, with equalized learning rate."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsr_kernels import bias_act, conv2d
from hsr_kernels.feature_loss import Head

from ..models.layers import Conv2dLayer


class ProjectionHead(nn.Module):
    """The head of HSR: 1x1 C -> hidden, ReLU with gain sqrt(2), 1x1 hidden -> D."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int) -> None:
        super().__init__()
        self.weight1 = nn.Parameter(torch.randn(hidden, in_channels))
        self.bias1 = nn.Parameter(torch.zeros(hidden))
        self.weight2 = nn.Parameter(torch.randn(out_channels, hidden))
        self.bias2 = nn.Parameter(torch.zeros(out_channels))

    def scaled(self) -> Head:
        """Returns (w1, b1, w2, b2) with the run-time gains 1 / sqrt(fan_in) applied to the weights."""
        w1 = self.weight1 * (1 / math.sqrt(self.weight1.shape[1]))
        w2 = self.weight2 * (1 / math.sqrt(self.weight2.shape[1]))
        return w1, self.bias1, w2, self.bias2

    def forward(self, x: Tensor, size: int) -> Tensor:
        """Maps x [N, C, R, R] to [N, D, size, size]."""
        w1, b1, w2, b2 = (t.to(x.dtype) for t in self.scaled())
        hidden = bias_act(conv2d(x, w1[:, :, None, None]), b1, act="relu", gain=math.sqrt(2))
        # Resizing and the second layer are linear, so the order is free, and fewer positions are less work.
        if size < x.shape[2]:
            hidden = area_resize(hidden, size)
        return area_resize(conv2d(hidden, w2[:, :, None, None], b2), size)


class ConvolutionHead(Conv2dLayer):
    """One 3x3 convolution C -> D, padded by 1."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3)

    def forward(self, x: Tensor, size: int) -> Tensor:  # type: ignore[override]
        """Maps x [N, C, R, R] to [N, D, size, size]."""
        return area_resize(super().forward(x), size)


def area_resize(x: Tensor, size: int) -> Tensor:
    """Returns the means of x [N, D, R, R] over size x size areas, [N, D, size, size], growing or shrinking."""
    return x if x.shape[2] == size else F.adaptive_avg_pool2d(x, size)
