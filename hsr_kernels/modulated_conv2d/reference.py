# SPDX-License-Identifier: Apache-2.0
"""The specification of modulated_conv2d: plain PyTorch, differentiable to any order."""

import torch

from ..bias_act.activations import Epilogue
from ..bias_act.reference import bias_act
from ..conv2d_resample.plan import Plan
from ..conv2d_resample.reference import conv2d_resample

EPS = 1e-8
# Channels and samples of a smaller magnitude are scaled as if they had this one, so that zeros stay zero.
MIN_MAGNITUDE = 1e-7


def modulated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    noise: torch.Tensor | None,
    f: torch.Tensor | None,
    plan: Plan,
    demodulate: bool,
    flip_weight: bool,
    bias: torch.Tensor | None,
    epilogue: Epilogue,
    coefficients: torch.Tensor | None = None,
) -> torch.Tensor:
    """Scales the input channels by the styles, convolves, demodulates, adds noise, bias and activation.

    To demodulate it needs coefficients for weight and styles, which `parameters` computes unless they are given.
    """
    if demodulate and coefficients is None:
        weight, styles, coefficients = parameters(weight, styles, x.dtype)
    y = conv2d_resample(
        x * styles.to(x.dtype)[:, :, None, None],
        weight.to(x.dtype),
        f,
        plan,
        groups=1,
        flip_weight=flip_weight,
    )
    if coefficients is not None:
        y = y * coefficients.to(x.dtype)[:, :, None, None]
    if noise is not None:
        y = y + noise.to(x.dtype)
    return bias_act(y, bias, 1, epilogue)


def parameters(
    weight: torch.Tensor, styles: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns weight and styles of a layer whose images have `dtype`, prescaled, and its coefficients [N, O]."""
    weight, styles = prescale(dtype, weight, styles)
    wide = torch.promote_types(weight.dtype, torch.float32)
    modulated = weight.to(wide)[None] * styles.to(wide)[:, None, :, None, None]
    return weight, styles, (modulated.square().sum([2, 3, 4]) + EPS).rsqrt()


def prescale(dtype: torch.dtype, weight: torch.Tensor, styles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """In float16, brings weight and styles to a magnitude that can't overflow; demodulation cancels the factors."""
    if dtype != torch.float16 or weight.numel() == 0 or styles.numel() == 0:
        return weight, styles
    fan_in = weight[0].numel()
    weight = weight * (fan_in**-0.5 / weight.abs().amax([1, 2, 3], keepdim=True).clamp_min(MIN_MAGNITUDE))
    styles = styles / styles.abs().amax(1, keepdim=True).clamp_min(MIN_MAGNITUDE)
    return weight, styles
