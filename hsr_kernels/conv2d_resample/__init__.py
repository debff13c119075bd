# SPDX-License-Identifier: Apache-2.0
"""Convolution with FIR up- or downsampling.

reference   the specification, in plain PyTorch, which other backends pass their own steps to
plan        the order of the steps
autograd    the steps of the other backends: this package's own operators, derivatives included
"""

from collections.abc import Sequence

import torch

from .. import _checks
from .._dispatch import operators
from ..upfirdn2d.geometry import check_filter, filter_taps, native_limit
from . import autograd, reference
from .plan import plan as plan_of

_operator = operators.register(
    "conv2d_resample",
    reference=operators.on_reference(reference.conv2d_resample),
    cpu=operators.on_cpu(autograd.conv2d_resample),
    triton=operators.on_triton(autograd.conv2d_resample),
    cuda=operators.on_cuda(autograd.conv2d_resample),
    folder="upfirdn2d",
)


def conv2d_resample(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> torch.Tensor:
    """Upsamples (zero-insert, FIR, gain up^2), convolves, filters, keeps every down-th pixel.

    Strided and transposed convolutions do the same at the lower resolution; that order is taken wherever it exists.

    Args:
        x: Images [N, C, H, W], float32, float16, bfloat16 or float64; contiguous or channels_last.
        w: Weight [O, C / groups, kh, kw], cast to the dtype of x.
        f: FIR filter from `setup_filter`, or None; used where up or down exceeds 1.
        up, down: Integer factors.
        padding: On the upsampled image: int, (x, y) or (x0, x1, y0, y1); the filter's centring is added to it.
        groups: Groups of channels.
        flip_weight: True correlates, as torch.nn.functional.conv2d; False convolves.
        flip_filter: True correlates with f, False convolves.

    Returns:
        [N, O, H', W'] in the dtype of x.

    Raises:
        TypeError, ValueError: An argument of the wrong type, shape, dtype or device.

    Derivatives: every order, with respect to x and w.

    Source: the operator of StyleGAN2 (Karras et al., CVPR 2020).
    """
    x, w = _checks.autocast(x), _checks.autocast(w)
    _checks.tensor("x", x, ndim=4)
    _checks.tensor("w", w, ndim=4)
    f = check_filter(f)
    _checks.same_device("x", x, w=w, f=f)
    _checks.positive(up=up, down=down, groups=groups)
    _checks.not_empty("w", w)
    if x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
        raise ValueError(
            f"w must have shape [O, {x.shape[1]} / groups, kh, kw] with O divisible by groups={groups} "
            f"for x {list(x.shape)}, got {list(w.shape)}"
        )
    plan = plan_of(
        (w.shape[2], w.shape[3]),
        filter_taps(f),
        up,
        down,
        _checks.padding4("padding", padding),
        flip_filter,
    )
    # This raises where nothing would be left of an image.
    plan.output_size(x, (w.shape[2], w.shape[3]), filter_taps(f))
    choice = _operator.choose(x, native_limit(f, max(up, down)))
    return _operator.run(choice, x.device, x, w.to(x.dtype), f, plan, groups, flip_weight)
