# SPDX-License-Identifier: Apache-2.0
"""First derivatives of the HSR loss over the native operators; a second order goes through the reference.

The second layer is linear and so is pooling: where the map shrinks, the hidden layer is pooled first and the second
layer sees T x T pixels instead of H x W. Where it grows, the second layer comes first and its output is resized.
"""

from collections.abc import Sequence

import torch

from .._registry import wide
from . import ops as _ops
from . import reference
from .reference import Head


def feature_projection_loss(
    features: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    heads: Sequence[Head],
    hidden_gain: float,
) -> torch.Tensor:
    """See `hsr_kernels.feature_projection_loss`."""
    scales = zip(features, targets, heads, strict=True)
    losses = [ScaleLoss.apply(x, target.detach(), *head, hidden_gain) for x, target, head in scales]
    return torch.stack(losses)


class ScaleLoss(torch.autograd.Function):
    """The loss of one scale."""

    @staticmethod
    def forward(ctx, x, target, w1, b1, w2, b2, gain):
        dtype = wide(x.dtype)
        size, out = (x.shape[2], x.shape[3]), (target.shape[2], target.shape[3])
        ctx.gain, ctx.size, ctx.out = gain, size, out
        ctx.pooled_size = out if out[0] * out[1] <= size[0] * size[1] else size
        pooled, mask = _ops.hidden_op(x, w1.to(x.dtype), b1.to(x.dtype), *ctx.pooled_size, gain)
        projected = torch.matmul(w2.to(x.dtype).to(dtype), pooled) + b2.to(x.dtype).to(dtype)[:, None]
        if ctx.pooled_size != out:
            projected = _resize(projected, size, out)
        difference = projected - target.to(dtype).flatten(2)
        ctx.save_for_backward(x, target, w1, b1, w2, b2, pooled, mask, difference)
        return difference.square().mean()

    @staticmethod
    def backward(ctx, dloss):
        *inputs, pooled, mask, difference = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _through_reference(ctx, inputs, dloss)
        x, _, w1, b1, w2, b2 = inputs
        needs_dx, _, needs_dw1, needs_db1, needs_dw2, needs_db2, _ = ctx.needs_input_grad
        dprojected = difference * (dloss * (2 / max(difference.numel(), 1)))
        if ctx.pooled_size != ctx.out:
            dprojected = _resize(dprojected, ctx.size, ctx.out, transposed=True)
        dx = dw1 = db1 = dw2 = db2 = None
        if needs_dw2:
            dw2 = torch.bmm(dprojected, pooled.transpose(1, 2)).sum(0).to(w2.dtype)
        if needs_db2:
            db2 = dprojected.sum([0, 2]).to(b2.dtype)
        if needs_dx or needs_dw1 or needs_db1:
            dpooled = torch.matmul(w2.to(x.dtype).to(dprojected.dtype).t(), dprojected)
            dx, dw1, db1 = _ops.hidden_bwd_op(
                dpooled, mask, x, w1.to(x.dtype), *ctx.pooled_size, ctx.gain, needs_dx, needs_dw1
            )
            dx = dx if needs_dx else None
            dw1 = dw1.to(w1.dtype) if needs_dw1 else None
            db1 = db1.to(b1.dtype) if needs_db1 else None
        return dx, None, dw1, db1, dw2, db2, None


def _through_reference(ctx, inputs, dloss):
    """The same gradients as a graph that can be differentiated again."""
    x, target, *head = inputs
    loss = reference.scale_loss(x, target, tuple(head), ctx.gain)
    wanted = [i for i, need in enumerate(ctx.needs_input_grad[:6]) if need]
    found = torch.autograd.grad(loss, [inputs[i] for i in wanted], dloss, create_graph=True)
    grads: list[torch.Tensor | None] = [None] * 7
    for i, grad in zip(wanted, found, strict=True):
        grads[i] = grad
    return tuple(grads)


def _windows(size: int, out: int, like: torch.Tensor) -> torch.Tensor:
    """Adaptive average pooling of one axis as a matrix [out, size]."""
    position = torch.arange(size, device=like.device)
    index = torch.arange(out, device=like.device)[:, None]
    begin = index * size // out
    end = ((index + 1) * size + out - 1) // out
    inside = ((position >= begin) & (position < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def _resize(z: torch.Tensor, size: tuple[int, int], out: tuple[int, int], *, transposed: bool = False) -> torch.Tensor:
    """Area-resizes maps [N, D, H * W] from `size` to `out`; transposed: the transpose, from `out` to `size`."""
    rows, columns = _windows(size[0], out[0], z), _windows(size[1], out[1], z)
    if transposed:
        rows, columns = rows.t(), columns.t()
    maps = z.unflatten(2, out if transposed else size)
    return (rows @ maps @ columns.t()).flatten(2)
