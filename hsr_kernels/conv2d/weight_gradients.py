# SPDX-License-Identifier: Apache-2.0
"""The switch that leaves out the gradient of convolution weights."""

from contextlib import contextmanager

import torch

_disabled = False


@contextmanager
def no_weight_gradients(disable: bool = True):
    """Inside, backward passes of `conv2d` and `conv_transpose2d` leave out the gradient of the weight.

    R1 and path length differentiate with respect to images or latents only; the work for the weight's first
    gradient is really not done, on every version of PyTorch. (The reference backend, which leaves the backward to
    PyTorch, drops the gradient once PyTorch has it.) Gradients of a gradient are unaffected once outside.

    Args:
        disable: False makes it a no-op.
    """
    global _disabled
    before = _disabled
    _disabled = before or disable
    try:
        yield
    finally:
        _disabled = before


def weight_gradients_disabled() -> bool:
    """Whether the gradient of the weight is being left out now."""
    return _disabled


class DropGradient(torch.autograd.Function):
    """The identity; its gradient is dropped inside `no_weight_gradients`."""

    @staticmethod
    def forward(ctx, weight):
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx, gradient):
        return None if _disabled else gradient
