# SPDX-License-Identifier: Apache-2.0
"""conv2d and conv_transpose2d as PyTorch has them; its own autograd differentiates them to any order."""

import functools

import torch
import torch.nn.functional as F

from .._dispatch.functions import is_differentiated, is_recorded
from .weight_gradients import DropGradient


def complete(function):
    """Adds to a convolution of PyTorch what it lacks: `no_weight_gradients`, and some of float16 on the CPU."""

    @functools.wraps(function)
    def call(input, weight, bias=None, *args, **kwargs):
        # A recorded program can't contain a Python Function, and knows nothing of `no_weight_gradients` anyway.
        if is_differentiated(weight) and not is_recorded():
            weight = DropGradient.apply(weight)
        # A tensor without data that stands for a GPU's says so by `is_cuda` alone.
        if input.dtype != torch.float16 or input.device.type != "cpu" or input.is_cuda:
            return function(input, weight, bias, *args, **kwargs)
        bias = None if bias is None else bias.float()
        return function(input.float(), weight.float(), bias, *args, **kwargs).half()

    return call


conv2d = complete(F.conv2d)
conv_transpose2d = complete(F.conv_transpose2d)
