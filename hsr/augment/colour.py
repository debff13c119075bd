# SPDX-License-Identifier: Apache-2.0
"""Transforms 9 to 13: one affine map of colours."""

import math

import torch
from torch import Tensor

from .draws import Draws
from .strengths import Strengths


def draw_colour_map(strengths: Strengths, draws: Draws) -> tuple[Tensor, Tensor]:
    """Returns the linear part [N, 3, 3] and the offset [N, 3] of a map of RGB colours, float64."""
    s = strengths
    offset = draws.constant(0.0)[:, None].expand(-1, 3)
    identity = torch.eye(3, dtype=offset.dtype, device=offset.device)
    # The projection on the luma axis (1, 1, 1) / sqrt(3).
    luma = torch.full_like(identity, 1 / 3)
    linear = identity.expand(len(offset), 3, 3)
    if s.brightness > 0:
        offset = offset + draws.gated(s.brightness, draws.normal() * s.brightness_std, 0.0)[:, None]
    if s.contrast > 0:
        factor = draws.gated(s.contrast, torch.exp2(draws.normal() * s.contrast_std), 1.0)
        linear, offset = _apply(factor[:, None, None] * identity, linear, offset)
    if s.lumaflip > 0:
        is_flipped = draws.gated(s.lumaflip, draws.integer(2), 0.0)
        linear, offset = _apply(identity - 2 * is_flipped[:, None, None] * luma, linear, offset)
    if s.hue > 0:
        angle = draws.gated(s.hue, draws.deviation() * (math.pi * s.hue_max), 0.0)
        linear, offset = _apply(_rotation_about_luma(angle, identity, luma), linear, offset)
    if s.saturation > 0:
        factor = draws.gated(s.saturation, torch.exp2(draws.normal() * s.saturation_std), 1.0)
        linear, offset = _apply(luma + factor[:, None, None] * (identity - luma), linear, offset)
    return linear, offset


def map_colours(images: Tensor, linear: Tensor, offset: Tensor) -> Tensor:
    """Returns images [N, 1 or 3, H, W] with the map on each pixel.

    One channel is grey, and becomes the luma of what grey becomes, so that hue and saturation leave it as it is.
    """
    if images.shape[1] == 1:
        linear, offset = linear.sum(dim=(1, 2))[:, None, None] / 3, offset.mean(dim=1, keepdim=True)
    linear, offset = linear.to(images.dtype), offset.to(images.dtype)
    # Not a matrix product, which PyTorch may compute in TF32.
    result = offset[:, :, None, None]
    for channel in range(images.shape[1]):
        result = result + linear[:, :, channel, None, None] * images[:, channel, None]
    return result


def _apply(matrix: Tensor, linear: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the map that applies a matrix [N, 3, 3] after another map."""
    return matrix @ linear, (matrix @ offset[:, :, None])[:, :, 0]


def _rotation_about_luma(angle: Tensor, identity: Tensor, luma: Tensor) -> Tensor:
    """Returns rotations [N, 3, 3] about the luma axis: 120 degrees take red to green."""
    # The matrix of the cross product with the axis: it takes red to green less blue, and so on.
    cross = (identity.roll(1, dims=0) - identity.roll(-1, dims=0)) / math.sqrt(3)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cos * identity + (1 - cos) * luma + sin * cross
