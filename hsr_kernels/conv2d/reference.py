# SPDX-License-Identifier: Apache-2.0
"""conv2d and conv_transpose2d as PyTorch has them; its own autograd differentiates them to any order."""

import functools

import torch
import torch.nn.functional as F

from .weight_gradients import DropGradient


def every_dtype(function):
    """Honours `no_weight_gradients`, and computes float16 on the CPU in float32: PyTorch lacks some of it there."""

    @functools.wraps(function)
    def call(input, weight, bias=None, *args, **kwargs):
        # A trace could hold no Function of ours, and knows no backward anyway.
        if weight.requires_grad and torch.is_grad_enabled() and not torch.jit.is_tracing():
            weight = DropGradient.apply(weight)
        if input.dtype != torch.float16 or input.device.type != "cpu":
            return function(input, weight, bias, *args, **kwargs)
        bias = None if bias is None else bias.float()
        return function(input.float(), weight.float(), bias, *args, **kwargs).half()

    return call


conv2d = every_dtype(F.conv2d)
conv_transpose2d = every_dtype(F.conv_transpose2d)
