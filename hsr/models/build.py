# SPDX-License-Identifier: Apache-2.0
"""From a configuration to its networks."""

from ..config import Config
from .discriminator import Discriminator
from .generator import Generator


def build_generator(config: Config, resolution: int, c_dim: int) -> Generator:
    """Makes an untrained generator for images of `resolution` pixels and `c_dim` classes."""
    return Generator(
        config.z_dim,
        c_dim,
        config.w_dim,
        resolution,
        mapping_layers=config.mapping_layers,
        mapping_lr_multiplier=config.mapping_lr_multiplier,
        w_avg_beta=config.w_avg_beta,
        channel_base=config.channel_base,
        channel_max=config.channel_max,
        mixed_precision_resolutions=config.mixed_precision_resolutions,
        conv_clamp=config.conv_clamp,
    )


def build_discriminator(config: Config, resolution: int, c_dim: int) -> Discriminator:
    """Makes an untrained discriminator for images of `resolution` pixels and `c_dim` classes."""
    return Discriminator(
        c_dim,
        resolution,
        channel_base=config.channel_base,
        channel_max=config.channel_max,
        minibatch_std_group=config.minibatch_std_group,
        residual=config.residual_discriminator,
        mapping_layers=config.label_mapping_layers,
        label_dim=config.label_dim,
        mixed_precision_resolutions=config.mixed_precision_resolutions,
        conv_clamp=config.conv_clamp,
    )
