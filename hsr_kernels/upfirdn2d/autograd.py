# SPDX-License-Identifier: Apache-2.0
"""Derivatives of upfirdn2d: the transpose of a FIR resampling is a FIR resampling, so one Function has every order."""

import torch

from .._dispatch.functions import Function
from . import ops
from .geometry import Geometry, filter_taps


@Function
class Upfirdn2d(torch.autograd.Function):
    """y = upfirdn2d(x); linear in x."""

    @staticmethod
    def forward(x, f, geometry, backend):
        g = geometry
        return ops.upfirdn2d[backend](x, f, g.up, g.down, g.padding, g.flip_filter, g.gain)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, f, ctx.geometry, ctx.backend = inputs
        ctx.save_for_backward(f)
        ctx.size = (x.shape[2], x.shape[3])

    @staticmethod
    def backward(ctx, dy):
        (f,) = ctx.saved_tensors
        adjoint = ctx.geometry.adjoint(ctx.size, filter_taps(f))
        return Upfirdn2d.apply(dy, f, adjoint, ctx.backend), None, None, None


def upfirdn2d(backend: str, x: torch.Tensor, f: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
    """See `hsr_kernels.upfirdn2d`."""
    return Upfirdn2d.apply(x, f, geometry, backend)
