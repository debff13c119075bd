# SPDX-License-Identifier: Apache-2.0
"""What a projection minimizes: the distance of an image from the photo, and the correlation of its noise.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020), appendix D.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..metrics import perceptual_distance
from ..semantics.encoders import Encoder

# Height and width in pixels of the coarsest scale on which noise must be uncorrelated.
COARSEST_NOISE = 8


@dataclass(frozen=True)
class Distances:
    """Distances [N] of images from a photo: perceptual, and the mean squared difference of pixels in [-1, 1]."""

    perceptual: Tensor
    pixel: Tensor


class PhotoDistance:
    """The distance of images from a photo.

    Args:
        encoder: Network of the perceptual distance.
        photo: The photo, [1, 3, R, R] in [-1, 1].
    """

    def __init__(self, encoder: Encoder, photo: Tensor) -> None:
        self._encoder, self._photo = encoder, photo
        with torch.no_grad():
            self._features = encoder.perceptual(photo)

    def __call__(self, images: Tensor) -> Distances:
        """Returns the distances of images [N, 3, R, R], with gradients to them."""
        perceptual = perceptual_distance(self._encoder.perceptual(images), self._features)
        return Distances(perceptual, (images - self._photo).square().mean(dim=[1, 2, 3]))


def noise_correlation(maps: Iterable[Tensor]) -> Tensor:
    """Returns the sum of squared correlations of neighbours in noise maps [R, R], over all their scales.

    A scale is the one before with the sums of its 2x2 pixels halved, which leaves white noise white, down to 8 pixels.
    Maps wrap around.
    """
    terms = []
    for noise in maps:
        terms += [_neighbour_correlation(noise)]
        while noise.shape[0] > COARSEST_NOISE:
            noise = torch.nn.functional.avg_pool2d(noise[None], 2)[0] * 2
            terms += [_neighbour_correlation(noise)]
    return torch.stack(terms).sum()


def _neighbour_correlation(noise: Tensor) -> Tensor:
    rows, columns = (noise * noise.roll(1, 0)).mean(), (noise * noise.roll(1, 1)).mean()
    return rows.square() + columns.square()
