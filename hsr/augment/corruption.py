# SPDX-License-Identifier: Apache-2.0
"""Transforms 15 and 16: noise and cutout."""

import torch
from torch import Tensor

from .draws import Draws
from .strengths import Strengths


def add_noise(images: Tensor, strengths: Strengths, draws: Draws) -> Tensor:
    """Returns images [N, C, H, W] with normal noise, whose standard deviation alone a percentile decides on."""
    sigma = draws.gated(strengths.noise, draws.half_normal() * strengths.noise_std, 0.0).to(images.dtype)
    # randn_like would draw in the order of memory, and a layout must not change the numbers.
    noise = torch.randn(images.shape, dtype=images.dtype, device=images.device)
    return images + sigma[:, None, None, None] * noise


def cut_out(images: Tensor, strengths: Strengths, draws: Draws) -> Tensor:
    """Returns images [N, C, H, W] with a box of zeros, which may reach over the edge."""
    size = draws.gated(strengths.cutout, draws.constant(strengths.cutout_size), 0.0)
    in_box = [
        ((torch.arange(pixels, dtype=size.dtype, device=size.device) + 0.5) / pixels - draws.fraction()[:, None]).abs()
        < size[:, None] / 2
        for pixels in images.shape[:1:-1]
    ]
    columns, rows = in_box
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)
