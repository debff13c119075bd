# SPDX-License-Identifier: Apache-2.0
"""conv2d_resample in plain PyTorch, differentiable to any order; also the driver that other backends pass theirs to."""

from collections.abc import Callable

import torch

from ..conv2d import reference as _conv2d
from ..upfirdn2d import reference as _upfirdn2d
from .plan import Convolution, Plan


def conv2d_resample(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None,
    plan: Plan,
    groups: int,
    flip_weight: bool,
    *,
    fir: Callable[..., torch.Tensor] = _upfirdn2d.upfirdn2d,
    conv: Callable[..., torch.Tensor] = _conv2d.conv2d,
    conv_transpose: Callable[..., torch.Tensor] = _conv2d.conv_transpose2d,
) -> torch.Tensor:
    """Follows a plan: FIR, convolution, FIR. The three steps are given so that each backend brings its own."""
    f = f if plan.filtered else None
    if plan.before is not None:
        x = fir(x, f, plan.before)
    x = convolve(x, w, plan.convolution, groups, flip_weight, conv=conv, conv_transpose=conv_transpose)
    if plan.after is not None:
        x = fir(x, f, plan.after)
    return x


def convolve(
    x: torch.Tensor,
    w: torch.Tensor,
    convolution: Convolution,
    groups: int,
    flip_weight: bool,
    *,
    conv: Callable[..., torch.Tensor],
    conv_transpose: Callable[..., torch.Tensor],
) -> torch.Tensor:
    """The convolution of a plan; weight [O, C / groups, kh, kw] whether it is transposed or not."""
    if flip_weight == convolution.transposed and w.shape[2] * w.shape[3] > 1:
        w = w.flip([2, 3])  # conv2d correlates; a transposed convolution convolves
    step = dict(stride=convolution.stride, padding=convolution.padding, groups=groups)
    if not convolution.transposed:
        return conv(x, w, **step)
    out, inner, kh, kw = w.shape
    w = w.reshape(groups, out // groups, inner, kh, kw).transpose(1, 2)
    return conv_transpose(x, w.reshape(groups * inner, out // groups, kh, kw), **step)
