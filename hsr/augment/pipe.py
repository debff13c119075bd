# SPDX-License-Identifier: Apache-2.0
"""All transforms in order."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .bands import LOW_PASS, check_size, draw_gains, filter_bands
from .colour import draw_colour_map, map_colours
from .corruption import add_noise, cut_out
from .draws import Draws, checked_percentile
from .geometry import SYM6, draw_lookup, resample
from .strengths import COLOURS, MOVES, Strengths

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class AugmentPipe(nn.Module):
    """Transforms each image at random, and independently of the others.

    A transform happens to an image with the probability `p` times its multiplier, which is 0 unless given: then it is
    left out. It has no parameters that are learnt, and no gradient reaches `p` or what is drawn.

    Args:
        strengths: Multipliers and parameters of the transforms, by the names of `hsr.augment.strengths.Strengths`, such
            as `AugmentPipe(xflip=1, scale=1, scale_std=0.1)`. `hsr.augment.PIPES` lists common combinations:
            `AugmentPipe(**pipe_strengths("bgc"))`.

    Attributes:
        p: Probability of a transform whose multiplier is 1: a buffer, a float32 scalar, at first 1. It may be changed
            in place at any time.
        strengths: All multipliers and parameters.

    Raises:
        TypeError, ValueError: An unknown name, or a value that is no number, negative or not finite.
    """

    p: Tensor
    _sym6: Tensor
    _band_low_pass: Tensor

    def __init__(self, **strengths: float | Sequence[float]) -> None:
        super().__init__()
        self.strengths = Strengths.from_keywords(strengths)
        self.register_buffer("p", torch.ones([]))
        # In float64, so that filters in it are exact.
        sym6 = torch.tensor(SYM6, dtype=torch.float64)
        self.register_buffer("_sym6", sym6 / sym6.sum(), persistent=False)
        self.register_buffer("_band_low_pass", torch.tensor(LOW_PASS, dtype=torch.float64), persistent=False)

    def forward(self, images: Tensor, percentile: float | None = None) -> Tensor:
        """Returns transformed images.

        Args:
            images: [N, C, H, W] of any size, nominally in [-1, 1]: float32, float64, or float16 or bfloat16, which are
                cast to float32.
            percentile: None for random transforms. A number q between 0 and 1 lets all transforms happen to all images,
                each with the value at q of what would be drawn, for tests and to show what they do: only noise stays
                random.

        Returns:
            [N, C, H, W], float32 or float64, which may leave [-1, 1].

        Raises:
            TypeError, ValueError: An argument of the wrong type, shape, dtype or device; colours of images that have
                neither 1 nor 3 channels; imgfilter on images smaller than 22 x 22.

        Derivatives: every order, with respect to the images, in which the transforms are affine.
        """
        self._check(images)
        percentile = checked_percentile(percentile)
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        draws, s = Draws(len(images), self.p, percentile), self.strengths
        height, width = images.shape[2:]
        if s.any(MOVES):
            images = resample(images, draw_lookup(s, draws, height, width), self._sym6)
        if s.any(COLOURS):
            images = map_colours(images, *draw_colour_map(s, draws))
        if s.imgfilter > 0:
            images = filter_bands(images, draw_gains(s, draws), self._band_low_pass)
        if s.noise > 0:
            images = add_noise(images, s, draws)
        if s.cutout > 0:
            images = cut_out(images, s, draws)
        return images

    def _check(self, images: Tensor) -> None:
        if not isinstance(images, Tensor):
            raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}")
        if images.dtype not in FLOATS:
            raise TypeError(f"images must be float32, float16, bfloat16 or float64, got {images.dtype}")
        if images.ndim != 4 or 0 in images.shape[1:]:
            raise ValueError(f"images must be [N, C, H, W] with pixels and channels, got shape {list(images.shape)}")
        if images.device != self.p.device:
            raise ValueError(f"images must be on the device of p ({self.p.device}), got {images.device}")
        if self.strengths.any(COLOURS) and images.shape[1] not in (1, 3):
            raise ValueError(
                f"images must have 1 or 3 channels for {', '.join(COLOURS)}, got shape {list(images.shape)}"
            )
        if self.strengths.imgfilter > 0:
            check_size(images.shape[2:])

    def extra_repr(self) -> str:
        """Returns the transforms that are switched on, with their multipliers."""
        multipliers = {
            name: getattr(self.strengths, name) for name in (*MOVES, *COLOURS, "imgfilter", "noise", "cutout")
        }
        return ", ".join(f"{name}={value:g}" for name, value in multipliers.items() if value > 0)
