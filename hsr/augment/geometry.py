# SPDX-License-Identifier: Apache-2.0
"""Transforms 1 to 8: one affine map, one resampling.

Coordinates are in pixels from the image's centre, x to the right and y down.
"""

import math

import torch
from torch import Tensor

from hsr_kernels import downsample2d, grid_sample, upsample2d

from .draws import Draws
from .strengths import Strengths

# Low-pass of the wavelet sym6, whose taps sum to the square root of 2.
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
# Pixels around the output that its filter reaches.
FILTER_MARGIN = len(SYM6) // 2


def draw_lookup(strengths: Strengths, draws: Draws, height: int, width: int) -> Tensor:
    """Returns where the pixels of transformed images come from: maps [N, 3, 3] float64 of output to input coordinates.

    The transforms follow each other, so that the first one's inverse comes last: their inverses are multiplied from the
    left to the right.
    """
    s = strengths
    lookup = _matrices({}, draws.constant(0.0))
    if s.xflip > 0:
        is_flipped = draws.gated(s.xflip, draws.integer(2), 0.0)
        lookup = lookup @ _scaling(1 - 2 * is_flipped, torch.ones_like(is_flipped))
    if s.rotate90 > 0:
        quarters = draws.gated(s.rotate90, draws.integer(4), 0.0)
        lookup = lookup @ _rotation(-quarters * (math.pi / 2))
    if s.xint > 0:
        # One gate for both axes.
        x, y = (draws.deviation() * s.xint_max for _ in range(2))
        is_moved = draws.gated(s.xint, draws.constant(1.0), 0.0)
        lookup = lookup @ _translation(-(x * width).round() * is_moved, -(y * height).round() * is_moved)
    if s.scale > 0:
        factor = draws.gated(s.scale, torch.exp2(draws.normal() * s.scale_std), 1.0)
        lookup = lookup @ _scaling(1 / factor, 1 / factor)
    if s.rotate > 0:
        lookup = lookup @ _rotation(-_draw_angle(s, draws))
    if s.aniso > 0:
        factor = draws.gated(s.aniso, torch.exp2(draws.normal() * s.aniso_std), 1.0)
        lookup = lookup @ _scaling(1 / factor, factor)
    # The second rotation, after the stretch, isn't shown at a percentile.
    if s.rotate > 0 and draws.are_random:
        lookup = lookup @ _rotation(-_draw_angle(s, draws))
    if s.xfrac > 0:
        x, y = (draws.normal() * s.xfrac_std for _ in range(2))
        is_moved = draws.gated(s.xfrac, draws.constant(1.0), 0.0)
        lookup = lookup @ _translation(-x * width * is_moved, -y * height * is_moved)
    return lookup


def _draw_angle(strengths: Strengths, draws: Draws) -> Tensor:
    """Returns the angles [N] of one of two rotations, of which at least one happens as often as `rotate` says."""
    gate = draws.gate(1 - (1 - draws.probability(strengths.rotate)).sqrt())
    return torch.where(gate, draws.deviation() * (math.pi * strengths.rotate_max), 0.0)


def resample(images: Tensor, lookup: Tensor, low_pass: Tensor) -> Tensor:
    """Returns images [N, C, H, W] that are looked up in others, without aliasing, at twice their resolution.

    Around an image lies its reflection, as wide as the image less a pixel, and beyond that 0. That is as much as any
    transform needs, whichever it is, so no size depends on what was drawn.

    Args:
        images: [N, C, H, W].
        lookup: [N, 3, 3] float64, from output to input coordinates.
        low_pass: [12] float64, taps of the filter, which sum to 1.
    """
    height, width = images.shape[2:]
    low_pass = low_pass.to(images.dtype)
    x = reflected(reflected(images, width - 1, dim=3), height - 1, dim=2)
    x = upsample2d(x, low_pass)
    x = grid_sample(x, _grid(lookup, height, width, images.dtype))
    return downsample2d(x, low_pass, padding=-FILTER_MARGIN, flip_filter=True)


def reflected(x: Tensor, size: int, dim: int) -> Tensor:
    """Returns images with `size` pixels more on both sides of an axis, mirrored at the edge pixels."""
    length = x.shape[dim]
    before = x.narrow(dim, 1, size).flip(dim)
    after = x.narrow(dim, length - 1 - size, size).flip(dim)
    return torch.cat([before, x, after], dim=dim)


def _grid(lookup: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Returns normalised coordinates [N, 2 (H + 6), 2 (W + 6), 2] in the reflected images at twice the resolution.

    Sample n of these lies at padded pixel n / 2, as the filter's largest tap does.
    """
    # Sample m of the output lies at pixel (m - 6) / 2.
    x, y = (
        (torch.arange(2 * (size + FILTER_MARGIN), dtype=dtype, device=lookup.device) - FILTER_MARGIN - (size - 1)) / 2
        for size in (width, height)
    )
    coordinates = []
    for row, size in ((0, width), (1, height)):
        # Sample n of N = 2 (3 size - 2) has the coordinate (2 n + 1) / N - 1, and n is 3 (size - 1) in the centre.
        samples = 3 * size - 2
        along_x, along_y = (2 / samples * lookup[:, row, i, None, None] for i in range(2))
        centre = (2 * lookup[:, row, 2, None, None] - 0.5) / samples
        coordinates.append(along_x.to(dtype) * x + (along_y.to(dtype) * y[:, None] + centre.to(dtype)))
    return torch.stack(coordinates, dim=-1)


def _matrices(elements: dict[tuple[int, int], Tensor], like: Tensor) -> Tensor:
    """Returns matrices [N, 3, 3] with elements [N] at some (row, column), else those of the identity."""
    matrices = torch.eye(3, dtype=like.dtype, device=like.device).repeat(len(like), 1, 1)
    for (row, column), values in elements.items():
        matrices[:, row, column] = values
    return matrices


def _translation(x: Tensor, y: Tensor) -> Tensor:
    return _matrices({(0, 2): x, (1, 2): y}, x)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return _matrices({(0, 0): x, (1, 1): y}, x)


def _rotation(angle: Tensor) -> Tensor:
    """Turns counter-clockwise on the screen, where y points down."""
    cos, sin = angle.cos(), angle.sin()
    return _matrices({(0, 0): cos, (0, 1): sin, (1, 0): -sin, (1, 1): cos}, angle)
