# SPDX-License-Identifier: Apache-2.0
"""Bias, activation, gain and clamp in one pass."""

import torch

from .. import _backends, _checks
from . import autograd, reference
from .activations import epilogue as _epilogue

_operator = _backends.register(
    "bias_act",
    reference=_backends.Implementation(reference.bias_act, devices=("cpu", "cuda", "meta")),
    cpu=_backends.Implementation(autograd.bias_act, native="_cpu"),
    triton=_backends.on_gpu(autograd.bias_act),
)


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> torch.Tensor:
    """clamp(act(x + b) * gain).

    Args:
        x: Any shape, float32, float16, bfloat16 or float64; dense layouts (channels_last too) run
            without a copy.
        b: Bias [x.shape[dim]], cast to the dtype of x, or None.
        dim: The dimension of x that b runs along.
        act: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus or swish.
        alpha: Slope of lrelu below zero (default 0.2).
        gain: Factor after the activation (default sqrt(2) for relu, lrelu and swish, 1 for the rest).
        clamp: The output is limited to [-clamp, clamp], which also masks the gradient; None or negative: no limit.

    Returns:
        A tensor of the shape, dtype and layout of x.

    Raises:
        TypeError, ValueError: An argument of the wrong type, shape, dtype or device.

    Derivatives: every order for piecewise linear activations, second order for the others (every order on the
    reference backend), with respect to x and b. Under a clamp the gradient is zero where the output has the
    magnitude of the clamp.

    Source: the operator of StyleGAN2 (Karras et al., CVPR 2020).
    """
    x = _checks.tensor("x", x)
    spec = _epilogue(act, alpha, gain, clamp, x.dtype)
    if b is not None:
        if not _checks.is_int(dim) or not -x.ndim <= dim < x.ndim:
            raise ValueError(
                f"dim must be an int in [{-x.ndim}, {x.ndim - 1}] for x of shape {list(x.shape)}, got {dim}"
            )
        dim = dim % x.ndim
        _checks.shape("b", _checks.tensor("b", b), (x.shape[dim],))
        _checks.same_device("x", x, b=b)
    return _operator.select(x)(x, b, dim if b is not None else 0, spec)
