# SPDX-License-Identifier: Apache-2.0
"""The specification of conv2d_resample in plain PyTorch, differentiable to any order.

It also drives the other backends, which pass it their own FIR and convolutions.
"""

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
    """Follows a plan: FIR, convolution, FIR. `fir`, `conv` and `conv_transpose` are the backend's."""
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
    """Runs the convolution of a plan; weight [O, C / groups, kh, kw] whether it is transposed or not."""
    # conv2d correlates; a transposed convolution convolves.
    if flip_weight == convolution.transposed and w.shape[2] * w.shape[3] > 1:
        w = w.flip([2, 3])
    options = dict(stride=convolution.stride, padding=convolution.padding, groups=groups)
    if not convolution.transposed:
        return conv(x, w, **options)
    out_channels, group_channels, kh, kw = w.shape
    w = w.reshape(groups, out_channels // groups, group_channels, kh, kw).transpose(1, 2)
    return conv_transpose(x, w.reshape(groups * group_channels, out_channels // groups, kh, kw), **options)
