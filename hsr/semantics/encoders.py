# SPDX-License-Identifier: Apache-2.0
"""The interface of frozen image encoders, for the regularizer and the metrics."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import UserError


class Encoder(nn.Module):
    """Frozen image encoder with features at several depths.

    A subclass sets `name` and `shapes` and implements `feature_maps`; `freeze` ends its constructor.
    Images are [N, 3, H, W] of any size in [-1, 1].
    """

    name: str
    shapes: Sequence[tuple[int, int]]
    """(D, T) of each feature map [N, D, T, T], deepest first."""

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Returns feature maps [N, D, T, T], deepest first."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Puts the encoder in evaluation mode and stops gradients to its weights."""
        self.eval().requires_grad_(False)

    def target_shapes(self, num_scales: int) -> list[tuple[int, int]]:
        """Returns (D, T) of each target, coarsest generator resolution (deepest feature) first.

        Raises:
            UserError: The encoder has fewer depths.
        """
        if num_scales > len(self.shapes):
            raise UserError(
                f"{self.name} has features at {len(self.shapes)} depths, but {num_scales} are needed: "
                "choose another encoder."
            )
        return list(self.shapes[:num_scales])

    @torch.no_grad()
    def targets(self, images: Tensor, num_scales: int) -> list[Tensor]:
        """Returns constant targets [N, D, T, T] for the generator's features, coarsest resolution first."""
        return self.feature_maps(images)[:num_scales]

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Returns the deepest features, averaged over positions: [N, D], for the Frechet distance."""
        return self.feature_maps(images)[0].mean(dim=[2, 3])

    @torch.no_grad()
    def perceptual(self, images: Tensor) -> list[Tensor]:
        """Returns feature maps of unit length over channels at every position, for a perceptual distance.

        As in LPIPS (Zhang et al., 2018), without its learned weights.
        """
        return [nn.functional.normalize(x, dim=1, eps=1e-10) for x in self.feature_maps(images)]
