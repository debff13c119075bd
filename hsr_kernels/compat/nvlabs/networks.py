# SPDX-License-Identifier: Apache-2.0
"""What training.networks and training.networks_stylegan2 define beside their classes."""

from collections.abc import Sequence

import torch

import hsr_kernels as kernels

from .. import arguments

__all__ = ["modulated_conv2d"]


def modulated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    noise: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: torch.Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused_modconv: bool = True,
) -> torch.Tensor:
    """`hsr_kernels.modulated_conv2d`, which has one way of computing it: `fused_modconv` changes nothing.

    Args:
        noise: Whatever broadcasts to the output: a map per sample, [N, 1, H', W'], or one for all, [H', W'].
    """
    up, down, padding = (arguments.ints(v) for v in (up, down, padding))
    resample_filter = arguments.filter_on(resample_filter, x)
    # The operator takes one map of noise for all channels.
    added = noise if isinstance(noise, torch.Tensor) and noise.ndim > 2 and noise.shape[-3] != 1 else None
    noise = noise if added is None else None
    y = kernels.modulated_conv2d(
        x, weight, styles, noise, up, down, padding, resample_filter, bool(demodulate), bool(flip_weight)
    )
    return y if added is None else y + added.to(y.dtype)
