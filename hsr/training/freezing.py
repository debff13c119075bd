# SPDX-License-Identifier: Apache-2.0
"""Freeze-D: the discriminator's layers next to the images stay as they were trained before.

Source: Mo, Cho and Shin, "Freeze the Discriminator: a Simple Baseline for Fine-Tuning GANs" (2020).
"""

from torch import nn

from ..models import Discriminator
from ..models.generator import block_resolutions


def freezable_layers(D: Discriminator) -> list[nn.Module]:
    """Returns the layers that may be frozen, from the images on: from_rgb, then conv0, conv1 and skip of each block.

    A block may have no skip, and the layers at 4x4 aren't among them.
    """
    return [D.from_rgb, *(layer for block in D.blocks.values() for layer in block.children())]


def max_frozen_layers(resolution: int, residual: bool) -> int:
    """Returns the number of `freezable_layers` of a discriminator for images of `resolution` pixels."""
    blocks = len(block_resolutions(resolution)) - 1
    return 1 + (3 if residual else 2) * blocks


def trainable_parameters(D: Discriminator, frozen_layers: int) -> list[nn.Parameter]:
    """Freezes that many layers from the images on, and returns the parameters of the others."""
    for layer in freezable_layers(D)[:frozen_layers]:
        layer.requires_grad_(False)
    return [parameter for parameter in D.parameters() if parameter.requires_grad]
