# SPDX-License-Identifier: Apache-2.0
"""Derivatives of upfirdn2d: the transpose of a FIR resampling is a FIR resampling, so one Function has every order."""

import torch

from . import ops as _ops
from .geometry import Geometry, filter_taps


class Upfirdn2d(torch.autograd.Function):
    """y = upfirdn2d(x); linear in x."""

    @staticmethod
    def forward(ctx, x, f, geometry):
        ctx.save_for_backward(f)
        ctx.geometry, ctx.size = geometry, (x.shape[2], x.shape[3])
        g = geometry
        return _ops.upfirdn2d_op(x, f, g.up, g.down, g.padding, g.flip_filter, g.gain)

    @staticmethod
    def backward(ctx, dy):
        (f,) = ctx.saved_tensors
        return Upfirdn2d.apply(dy, f, ctx.geometry.adjoint(ctx.size, filter_taps(f))), None, None


def upfirdn2d(x: torch.Tensor, f: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
    """See `hsr_kernels.upfirdn2d`."""
    return Upfirdn2d.apply(x, f, geometry)
