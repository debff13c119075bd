# SPDX-License-Identifier: Apache-2.0
"""Transform 14: gains of frequency bands."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hsr_kernels import upfirdn2d

from .draws import Draws
from .geometry import reflected
from .strengths import NUM_BANDS, Strengths

# Autocorrelation of the low-pass of the wavelet sym2, halved.
LOW_PASS = tuple(tap / 32 for tap in (-1, 0, 9, 16, 9, 0, -1))
# Share of the power of images, whose spectrum is 1 / f, in each band, from the lowest one.
BAND_POWERS = (10 / 13, 1 / 13, 1 / 13, 1 / 13)
# The low-pass is applied with its taps so many pixels apart.
TAP_SPACINGS = (1, 2, 4)
# Pixels that the filters reach on each side.
BAND_MARGIN = sum(TAP_SPACINGS) * (len(LOW_PASS) // 2)
MIN_SIZE = BAND_MARGIN + 1


def draw_gains(strengths: Strengths, draws: Draws) -> Tensor:
    """Returns the gains of the bands [N, 4] float64, from the lowest one, which leave the expected power as it is."""
    gains = draws.constant(1.0)[:, None].repeat(1, NUM_BANDS)
    for band, (multiplier, power) in enumerate(zip(strengths.imgfilter_bands, BAND_POWERS, strict=True)):
        if multiplier == 0:
            continue
        value = torch.exp2(draws.normal() * strengths.imgfilter_std)
        gain = draws.gated(strengths.imgfilter * multiplier, value, 1.0)
        # The other bands' powers sum to 1 - power.
        gains[:, band] *= gain
        gains *= (1 - power + power * gain.square()).rsqrt()[:, None]
    return gains


def filter_bands(images: Tensor, gains: Tensor, low_pass: Tensor) -> Tensor:
    """Returns images [N, C, H, W], at least 22 x 22, whose bands are multiplied by gains [N, 4] along both axes.

    Args:
        images: [N, C, H, W].
        gains: [N, 4], from the lowest band.
        low_pass: `LOW_PASS`, [7].
    """
    gains, low_pass = gains.to(images.dtype), low_pass.to(images.dtype)
    for dim in (2, 3):
        images = _filter_axis(reflected(images, BAND_MARGIN, dim), gains, low_pass, dim)
    return images


def _filter_axis(x: Tensor, gains: Tensor, low_pass: Tensor, dim: int) -> Tensor:
    """Filters along one axis, and crops the margin.

    Each further low-pass halves what is left, and a band is the difference of two stages.
    """
    margin, length = BAND_MARGIN, x.shape[dim] - 2 * BAND_MARGIN
    stages = [x.narrow(dim, margin, length)]
    for spacing in TAP_SPACINGS:
        taps = torch.zeros([(len(low_pass) - 1) * spacing + 1], dtype=x.dtype, device=x.device)
        taps[::spacing] = low_pass
        x = upfirdn2d(x, taps[:, None] if dim == 2 else taps[None, :])
        margin -= spacing * (len(low_pass) // 2)
        stages.append(x.narrow(dim, margin, length))
    # From the highest band, which is what the first stage leaves out, to the lowest one, which is the last stage.
    result = stages[-1] * _of_band(gains, 0)
    for band, (wide, narrow) in enumerate(zip(stages[-2::-1], stages[:0:-1], strict=True), start=1):
        result = result + (wide - narrow) * _of_band(gains, band)
    return result


def _of_band(gains: Tensor, band: int) -> Tensor:
    return gains[:, band, None, None, None]


def check_size(size: Sequence[int]) -> None:
    """Raises `ValueError` if images of (height, width) are too small for their reflection."""
    if min(size) < MIN_SIZE:
        raise ValueError(
            f"imgfilter needs images of at least {MIN_SIZE} x {MIN_SIZE} pixels, got {size[0]} x {size[1]}"
        )
