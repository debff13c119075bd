# SPDX-License-Identifier: Apache-2.0
"""Exponential moving average of the generator's weights."""

import torch
from torch import nn


def ema_decay(batch: int, images_seen: int, half_life_kimg: float, rampup: float | None) -> float:
    """Returns the factor by which a step of `batch` images multiplies the average.

    Args:
        batch: Images in the step.
        images_seen: Images seen since the start of training.
        half_life_kimg: Thousands of images after which a weight counts half.
        rampup: Bounds the half-life to this fraction of `images_seen`, so that the average leaves the random
            initialization behind quickly; None: no bound.
    """
    half_life = half_life_kimg * 1000
    if rampup is not None:
        half_life = min(half_life, images_seen * rampup)
    return 0.5 ** (batch / max(half_life, 1e-8))


@torch.no_grad()
def update_ema(average: nn.Module, source: nn.Module, decay: float) -> None:
    """Moves the parameters of `average` towards those of `source`, and copies its buffers."""
    torch._foreach_lerp_(list(average.parameters()), list(source.parameters()), 1 - decay)
    buffers, source_buffers = list(average.buffers()), list(source.buffers())
    if buffers:
        torch._foreach_copy_(buffers, source_buffers)
