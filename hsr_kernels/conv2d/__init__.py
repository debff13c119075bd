# SPDX-License-Identifier: Apache-2.0
"""Convolutions that can be differentiated to any order, quickly.

reference          the specification, in plain PyTorch
autograd           three maps that are each other's derivatives
cpu_impl           what oneDNN has no fast kernel for
weight_gradients   the switch `no_weight_gradients`
"""

import functools
from collections.abc import Sequence

import torch

from .. import _checks
from .._dispatch import operators
from . import autograd, reference
from .weight_gradients import no_weight_gradients

__all__ = ["conv2d", "conv_transpose2d", "no_weight_gradients"]

_pair = functools.partial(_checks.pair, order="(y, x)")

# The Functions call PyTorch's convolutions, oneDNN's and cuDNN's, on any device.
_conv2d = operators.register_of_pytorch("conv2d", reference.conv2d, autograd.conv2d)
_conv_transpose2d = operators.register_of_pytorch(
    "conv_transpose2d", reference.conv_transpose2d, autograd.conv_transpose2d
)


def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> torch.Tensor:
    """torch.nn.functional.conv2d with fast derivatives of every order, honouring `no_weight_gradients`.

    Args:
        input: Images [N, C, H, W], float32, float16, bfloat16 or float64.
        weight: [O, C / groups, kh, kw], the dtype of input.
        bias: [O] or None.
        stride, padding, dilation: int or (y, x), as in torch.nn.functional.conv2d.
        groups: Groups of channels.

    Returns:
        [N, O, H', W'] in the dtype of input.

    Raises:
        TypeError, ValueError: An argument of the wrong type, shape, dtype or device.

    Derivatives: every order, with respect to input, weight and bias. PyTorch's own kernel for the weight's gradient
    may differ in its last bits between numbers of threads; all else doesn't.
    """
    input, weight, bias = _validate(input, weight, bias, groups, transposed=False)
    padding, dilation = _pair("padding", padding, minimum=0), _pair("dilation", dilation)
    padded_size = [input.shape[2 + i] + 2 * padding[i] for i in (0, 1)]
    _checks.kernel_fits("input", input, padded_size, weight.shape[2:], dilation)
    return _conv2d.run(
        _conv2d.choose(input),
        input.device,
        input,
        weight,
        bias,
        stride=_pair("stride", stride),
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


def conv_transpose2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> torch.Tensor:
    """torch.nn.functional.conv_transpose2d with fast derivatives of every order, honouring `no_weight_gradients`.

    Args:
        input: Images [N, C, H, W], float32, float16, bfloat16 or float64.
        weight: [C, O / groups, kh, kw], the dtype of input.
        bias: [O] or None.
        stride, padding, output_padding, dilation: int or (y, x), as in torch.nn.functional.conv_transpose2d.
        groups: Groups of channels.

    Returns:
        [N, O, H', W'] in the dtype of input.

    Raises:
        TypeError, ValueError: An argument of the wrong type, shape, dtype or device.

    Derivatives: every order, with respect to input, weight and bias.
    """
    input, weight, bias = _validate(input, weight, bias, groups, transposed=True)
    stride, output_padding = _pair("stride", stride), _pair("output_padding", output_padding, minimum=0)
    exceeds_limit = output_padding[0] >= stride[0] or output_padding[1] >= stride[1]
    limit = "an output_padding of the stride or more is left to the reference" if exceeds_limit else ""
    return _conv_transpose2d.run(
        _conv_transpose2d.choose(input, limit),
        input.device,
        input,
        weight,
        bias,
        stride=stride,
        padding=_pair("padding", padding, minimum=0),
        output_padding=output_padding,
        groups=groups,
        dilation=_pair("dilation", dilation),
    )


def _validate(input, weight, bias, groups, transposed):
    """Checks tensors and groups; returns the tensors, cast where autocast is on."""
    input, weight, bias = (_checks.autocast(t) for t in (input, weight, bias))
    _checks.tensor("input", input, ndim=4)
    _checks.tensor("weight", weight, ndim=4)
    _checks.same_device("input", input, weight=weight, bias=bias)
    _checks.positive(groups=groups)
    _checks.not_empty("weight", weight)
    in_channels = weight.shape[0] if transposed else weight.shape[1] * groups
    out_channels = weight.shape[1] * groups if transposed else weight.shape[0]
    if in_channels != input.shape[1] or weight.shape[0] % groups:
        expected = "[C, O / groups, kh, kw]" if transposed else "[O, C / groups, kh, kw]"
        raise ValueError(
            f"weight must have shape {expected} with C = {input.shape[1]} and groups = {groups} "
            f"for input {list(input.shape)}, got {list(weight.shape)}"
        )
    if bias is not None:
        _checks.shape("bias", _checks.tensor("bias", bias), (out_channels,))
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.dtype != input.dtype:
            raise TypeError(f"{name} must have the dtype of input ({input.dtype}), got {value.dtype}")
    return input, weight, bias
