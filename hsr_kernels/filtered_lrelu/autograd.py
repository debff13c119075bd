# SPDX-License-Identifier: Apache-2.0
"""Derivatives of filtered_lrelu: a mask of the leaky ReLU makes it linear, and the transposed map is of its own kind.

The forward notes two bits per upsampled pixel, whether it is below zero and whether it was clamped. With 2x upsampling
that is a quarter of the memory of x in float32 (with 4x as much as x), and saves the backward from upsampling x again.
"""

import torch

from .._dispatch.functions import Function
from .._tensors import is_channels_last
from ..bias_act import autograd as _bias_act
from ..bias_act.activations import Epilogue
from ..bias_act.activations import epilogue as epilogue_of
from ..upfirdn2d import autograd as _upfirdn2d
from . import ops, routes
from .geometry import Resamplings


def filtered_lrelu(
    backend: str,
    x: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    b: torch.Tensor | None,
    resamplings: Resamplings,
    epilogue: Epilogue,
) -> torch.Tensor:
    """See `hsr_kernels.filtered_lrelu`: one fused kernel."""
    if fd is not None and fd is fu:
        # torch.compile passes no tensor to a Function twice.
        fd = fd.view_as(fd)
    return FilteredLrelu.apply(x, fu, fd, b, resamplings, epilogue, torch.is_grad_enabled(), backend)[0]


def composition(
    backend: str,
    x: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    b: torch.Tensor | None,
    resamplings: Resamplings,
    epilogue: Epilogue,
) -> torch.Tensor:
    """The same from the kernels of bias_act and upfirdn2d, with upsampled images in memory."""
    if fu is None and resamplings.keeps_resolution:
        # The leaky ReLU leaves the zeros of padding as they are.
        x = _bias_act.bias_act(backend, x, b, 1, epilogue)
        return _upfirdn2d.upfirdn2d(backend, x, fd, resamplings.merged)
    if b is not None:
        x = _bias_act.bias_act(backend, x, b, 1, epilogue_of("linear", None, None, None, x.dtype))
    x = _upfirdn2d.upfirdn2d(backend, x, fu, resamplings.up)
    x = _bias_act.bias_act(backend, x, None, 0, epilogue)
    return _upfirdn2d.upfirdn2d(backend, x, fd, resamplings.down)


def on_triton(
    backend: str,
    x: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    b: torch.Tensor | None,
    resamplings: Resamplings,
    epilogue: Epilogue,
) -> torch.Tensor:
    """Either of them, as `routes` says."""
    function = composition if routes.why_not_fused(x, fu, fd, resamplings) else filtered_lrelu
    return function(backend, x, fu, fd, b, resamplings, epilogue)


@Function
class FilteredLrelu(torch.autograd.Function):
    """(y, mask) from x and b; the mask is empty unless it is needed."""

    @staticmethod
    def forward(x, fu, fd, b, resamplings, epilogue, needs_mask, backend):
        return ops.filtered_lrelu[backend](x, fu, fd, b, *resamplings.args, *epilogue.args, needs_mask)

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        x, fu, fd, b, ctx.resamplings, ctx.epilogue, _, ctx.backend = inputs
        _, mask = outputs
        ctx.mark_non_differentiable(mask)
        # PyTorch would make zeros for the mask.
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(mask, fu, fd)
        ctx.size, ctx.channels_last = (x.shape[2], x.shape[3]), is_channels_last(x)
        ctx.b_dtype = None if b is None else b.dtype

    @staticmethod
    def backward(ctx, dy, _):
        if dy is None:
            return (None,) * 8
        mask, fu, fd = ctx.saved_tensors
        adjoint = ctx.resamplings.adjoint(ctx.size, fu, fd)
        needs_db = ctx.needs_input_grad[3]
        dx, db = MaskedResamplings.apply(
            dy, mask, fd, fu, adjoint, ctx.epilogue, ctx.channels_last, needs_db, ctx.backend
        )
        return dx, None, None, db.to(ctx.b_dtype) if needs_db else None, None, None, None, None


@Function
class MaskedResamplings(torch.autograd.Function):
    """(dx, db) from dy: linear, by the slopes that the mask holds; db has the dtype of sums and is empty unless needed.

    The filters come in the order in which they apply.
    """

    @staticmethod
    def forward(dy, mask, fu, fd, resamplings, epilogue, channels_last, needs_db, backend):
        return ops.filtered_lrelu_bwd[backend](
            dy, mask, fu, fd, *resamplings.args, *epilogue.args, channels_last, needs_db
        )

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        dy, mask, fu, fd, ctx.resamplings, ctx.epilogue, ctx.channels_last, _, ctx.backend = inputs
        dx, _ = outputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(mask, fu, fd)
        ctx.size, ctx.shape, ctx.dtype = (dy.shape[2], dy.shape[3]), dx.shape, dx.dtype

    @staticmethod
    def backward(ctx, ddx, ddb):
        if ddb is not None and ddb.numel():
            ddb_image = ddb.to(ctx.dtype)[:, None, None].expand(ctx.shape)
            ddx = ddb_image if ddx is None else ddx + ddb_image
        if ddx is None:
            return (None,) * 9
        mask, fu, fd = ctx.saved_tensors
        adjoint = ctx.resamplings.adjoint(ctx.size, fu, fd)
        ddy, _ = MaskedResamplings.apply(
            ddx, mask, fd, fu, adjoint, ctx.epilogue, ctx.channels_last, False, ctx.backend
        )
        return ddy, *(None,) * 8
