# SPDX-License-Identifier: Apache-2.0
"""How the generator's features are compared with the encoder's: which of them, through which heads, by which loss.

Sources: Karmali et al., "Hierarchical Semantic Regularization of Latent Spaces in StyleGANs" (2022); for
`conv3x3` and `spatial-norm` Singh et al., "What matters for Representation Alignment: Global Information or Spatial
Structure?" (2025), whose method is called iREPA.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import HSR_SCALES, Config

# Added to standard deviations, as published.
SPATIAL_NORM_EPS = 1e-6


@dataclass(frozen=True)
class Alignment:
    """The settings of the comparison; the defaults are HSR's.

    Attributes:
        scales: Resolutions of the generator at which it is regularized, of 8, 16, 32 and 64. Each is compared with one
            depth of the encoder, 8 with the deepest, whichever others there are.
        head: "mlp": two 1x1 layers with a ReLU between them; "conv3x3": one 3x3 convolution.
        loss: "mse": mean squared error; "cosine": 2 - 2 cos of the channels at each position.
        targets: "raw": the encoder's features; "spatial-norm": normalised over the positions of each channel.
        spatial_gamma: Share of the mean over positions that "spatial-norm" subtracts.
        class_token: Compare with the encoder's class token, and the generator by the mean over its positions.
    """

    scales: tuple[int, ...] = HSR_SCALES
    head: str = "mlp"
    loss: str = "mse"
    targets: str = "raw"
    spatial_gamma: float = 1.0
    class_token: bool = False

    @classmethod
    def from_config(cls, config: Config) -> "Alignment":
        """Returns the comparison that a run's settings ask for."""
        return cls(
            scales=config.scales(),
            head=config.hsr_head,
            loss=config.hsr_loss,
            targets=config.hsr_targets,
            spatial_gamma=config.hsr_spatial_gamma,
            class_token=config.hsr_class_token,
        )


def spatially_normalized(x: Tensor, gamma: float) -> Tensor:
    """Returns (x - gamma * mean) / (std + 1e-6) of x [N, D, T, T], T > 1, with both over the positions of each channel.

    As published, `std` is that of a sample, which divides by the number of positions less one. At least float32.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    std, mean = torch.std_mean(x, dim=[2, 3], keepdim=True)
    return (x - gamma * mean) / (std + SPATIAL_NORM_EPS)


def comparison_losses(projected: Sequence[Tensor], targets: Sequence[Tensor], loss: str) -> Tensor:
    """Returns the loss "mse" or "cosine" per scale, [num_scales], between maps [N, D, T, T]; at least float32."""
    return torch.stack([_LOSSES[loss](x, target) for x, target in zip(projected, targets, strict=True)])


def mean_squared_error(x: Tensor, target: Tensor) -> Tensor:
    """Returns the mean of (x - target)^2 over all elements."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return (x.to(dtype) - target.to(dtype)).square().mean()


def cosine_distance(x: Tensor, target: Tensor) -> Tensor:
    """Returns the mean over images and positions of 2 - 2 cos of the angle between the channels of x and target.

    A vector of zeros has no direction: its cosine counts as 0, with a finite gradient.
    """
    return (2 - 2 * (_unit_vectors(x) * _unit_vectors(target)).sum(dim=1)).mean()


def _unit_vectors(x: Tensor) -> Tensor:
    """Returns x [N, D, T, T] with length 1 over D; zeros stay zeros."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    squares = x.square().sum(dim=1, keepdim=True)
    return x * squares.masked_fill(squares == 0, 1).rsqrt()


_LOSSES = {"mse": mean_squared_error, "cosine": cosine_distance}
