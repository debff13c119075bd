# SPDX-License-Identifier: Apache-2.0
"""From a configuration to its networks."""

from typing import Any

import torch

from ..config import Config
from .discriminator import Discriminator
from .generator import Generator

# Dtype of the blocks of low precision, by the setting `mixed_precision`; "off" stands for none of them.
LOW_PRECISION_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


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
        **_mixed_precision(config),
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
        **_mixed_precision(config),
        conv_clamp=config.conv_clamp,
    )


def _mixed_precision(config: Config) -> dict[str, Any]:
    """Returns the arguments of both networks that say which blocks have which precision."""
    if config.mixed_precision == "off":
        return {"mixed_precision_resolutions": 0}
    dtype = LOW_PRECISION_DTYPES[config.mixed_precision]
    return {"mixed_precision_resolutions": config.mixed_precision_resolutions, "low_precision_dtype": dtype}
