# SPDX-License-Identifier: Apache-2.0
"""Hierarchical Semantic Regularizer: the generator's features must predict those of a frozen encoder.

Source: Karmali et al., "Hierarchical Semantic Regularization of Latent Spaces in StyleGANs" (2022).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hsr_kernels import feature_projection_loss
from hsr_kernels.feature_loss import Head

from ..models import Generator
from .encoders import Encoder

RESOLUTIONS = (8, 16, 32, 64)


def head_resolutions(resolution: int) -> tuple[int, ...]:
    """Returns the resolutions at which a generator for images of `resolution` pixels has heads."""
    return tuple(r for r in RESOLUTIONS if r <= resolution)


class ProjectionHead(nn.Module):
    """Head of one scale: 1x1 C -> hidden, ReLU, 1x1 hidden -> D, with equalized learning rate."""

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


class SemanticRegularizer(nn.Module):
    """Heads from the generator's features to the encoder's, and the loss between the two.

    The frozen encoder is no submodule: parameters and state_dict are those of the heads.

    Args:
        encoder: Frozen encoder of the generated images.
        generator: Generator, regularized at those of the resolutions 8, 16, 32 and 64 that it has.
        hidden: Width of the heads.
        precision: Dtype that encoder and heads compute in; None: that of their weights, which never changes.
    """

    def __init__(
        self, encoder: Encoder, generator: Generator, hidden: int = 4096, precision: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self._encoder = (encoder,)
        self.precision = precision
        self.resolutions = head_resolutions(generator.resolution)
        shapes = encoder.target_shapes(len(self.resolutions))
        self.heads = nn.ModuleList(
            ProjectionHead(generator.channels(r), hidden, dim)
            for r, (dim, _) in zip(self.resolutions, shapes, strict=True)
        )

    def forward(self, features: Sequence[Tensor], images: Tensor) -> Tensor:
        """Returns the loss per scale [num_scales], float32.

        `features`: block outputs [N, C_r, r, r] in the order of `resolutions`; `images` [N, 3, R, R] in
        [-1, 1] are those same images, encoded without gradient.
        """
        with torch.autocast(images.device.type, self.precision, enabled=self.precision is not None):
            targets = self._encoder[0].targets(images.detach(), len(self.resolutions))
        heads = [head.scaled() for head in self.heads if isinstance(head, ProjectionHead)]
        dtype = self.precision or heads[0][0].dtype
        return feature_projection_loss([x.to(dtype) for x in features], [t.to(dtype) for t in targets], heads)
