# SPDX-License-Identifier: Apache-2.0
"""A modulated layer that doesn't resample, and its gradients, around PyTorch's convolution: one pass before, one after.

The arguments are those of the operators `modulated_conv2d_layer...` in ops.py, which take this route or a kernel.
"""

import torch

from .._registry import is_channels_last
from ..conv2d.autograd import Convolution, Spec, TransposedConvolution, WeightGradient
from . import ops as _ops


def modulated_conv2d_layer(x, w, s, d, noise, b, padding, act, alpha, gain, clamp) -> torch.Tensor:
    z = Convolution.apply(_ops.scale_op(x, s), w, None, _spec(padding))
    return _ops.epilogue_op(z, d, noise, b, is_channels_last(x), act, alpha, gain, clamp)


def modulated_conv2d_layer_bwd(dz, w, x, s, padding) -> tuple[torch.Tensor, torch.Tensor]:
    du = TransposedConvolution.apply(dz, w, None, _spec(padding).transposed(x.shape, dz.shape, w.shape))
    return _ops.scale_bwd_op(du, x, s)


def modulated_conv2d_layer_weight(x, s, dz, kernel, padding) -> torch.Tensor:
    shape = torch.Size((dz.shape[1], x.shape[1], *kernel))
    dw = WeightGradient.apply(_ops.scale_op(x, s), dz, shape, _spec(padding))
    return dw.contiguous(memory_format=torch.channels_last)


def _spec(padding) -> Spec:
    return Spec(padding=tuple(padding))
