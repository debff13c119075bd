# SPDX-License-Identifier: Apache-2.0
"""What training.networks_stylegan3 defines beside its classes."""

from collections.abc import Sequence

import torch

import hsr_kernels as kernels

from .. import arguments

__all__ = ["modulated_conv2d"]


def modulated_conv2d(
    x: torch.Tensor,
    w: torch.Tensor,
    s: torch.Tensor,
    demodulate: bool = True,
    padding: int | Sequence[int] = 0,
    input_gain: torch.Tensor | float | None = None,
) -> torch.Tensor:
    """The modulated convolution of StyleGAN3, on `hsr_kernels.modulated_conv2d`.

    With demodulation, weights and styles are first brought to a mean square of 1: weights per output channel, styles
    over all of the batch.

    Args:
        x: [N, C, H, W].
        w: [O, C, kh, kw].
        s: [N, C].
        demodulate: Whether the output's variance is kept at 1.
        padding: int or (y, x).
        input_gain: Factor of x: a number, [], [C] or [N, C].

    Derivatives: every order, with respect to x, w, s and input_gain.
    """
    padding = arguments.ints(padding)
    if isinstance(padding, tuple):
        padding = padding[::-1]
    if demodulate:
        w = w * w.square().mean([1, 2, 3], keepdim=True).rsqrt()
        s = s * s.square().mean().rsqrt()
    if input_gain is None:
        return kernels.modulated_conv2d(x, w, s, padding=padding, demodulate=demodulate)
    gain = torch.as_tensor(input_gain, dtype=s.dtype, device=s.device)
    # Demodulation doesn't see the gain, so it can't join the styles there.
    if not demodulate:
        return kernels.modulated_conv2d(x, w, s * gain, padding=padding, demodulate=False)
    if gain.numel() == 1:
        return kernels.modulated_conv2d(x, w, s, padding=padding) * gain.reshape([]).to(x.dtype)
    return kernels.modulated_conv2d(x * gain.expand(s.shape)[:, :, None, None].to(x.dtype), w, s, padding=padding)
