# SPDX-License-Identifier: Apache-2.0
"""First derivatives of the HSR loss over the native operators; a second order goes through the reference."""

from collections.abc import Sequence

import torch

from .._dispatch.functions import Function, is_batched
from . import ops, reference
from .reference import Head


def feature_projection_loss(
    backend: str,
    features: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    heads: Sequence[Head],
    hidden_gain: float,
) -> torch.Tensor:
    """See `hsr_kernels.feature_projection_loss`. The scales of one dtype are one call of the operators."""
    scales = [(x, target.detach(), *head) for x, target, head in zip(features, targets, heads, strict=True)]
    losses: dict[int, torch.Tensor] = {}
    for dtype in dict.fromkeys(x.dtype for x in features):
        group = [i for i, x in enumerate(features) if x.dtype == dtype]
        tensors = [t for i in group for t in scales[i]]
        group_losses = ProjectionLoss.apply(hidden_gain, backend, *tensors)[0]
        if len(group) == len(scales):
            return group_losses
        losses.update(zip(group, group_losses.unbind(), strict=True))
    return torch.stack([losses[i] for i in range(len(scales))])


def _group_by_argument(tensors: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Returns lists of x, target, w1, b1, w2 and b2 from those six of the first scale, of the next scale, and so on."""
    return [list(tensors[i::6]) for i in range(6)]


@Function
class ProjectionLoss(torch.autograd.Function):
    """(losses, *tensors kept for the backward) of scales of one dtype, whose x, target, w1, b1, w2, b2 are in turn."""

    @staticmethod
    def forward(gain, backend, *tensors):
        x, target, *heads = _group_by_argument(tensors)
        loss, kept = ops.feature_loss[backend](x, target, *_cast_heads(heads, x[0].dtype), gain)
        return loss, *kept

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        ctx.gain, ctx.backend, *tensors = inputs
        ctx.count = len(tensors)
        loss, *kept = outputs
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(loss, *tensors, *kept)

    @staticmethod
    def backward(ctx, dloss, *_):
        if dloss is None:
            return (None,) * (ctx.count + 2)
        loss, *saved = ctx.saved_tensors
        tensors, kept = saved[: ctx.count], saved[ctx.count :]
        if torch.is_grad_enabled():
            return _through_reference(ctx, tensors, dloss)
        x, target, *heads = _group_by_argument(tensors)
        needs = [need for i, need in enumerate(ctx.needs_input_grad[2:]) if i % 6 != 1]
        sides = [t.shape[2] for t in target]
        # PyTorch's vmap has no rule for operators that return a list. Gradients are linear in dloss, so it can wait.
        batched = is_batched(dloss)
        operator_dloss = torch.ones_like(loss) if batched else dloss
        # The heads are cast again rather than kept: they are often larger than all that is kept.
        heads = _cast_heads(heads, x[0].dtype)
        backward = ops.feature_loss_bwd[ctx.backend]
        results = iter(backward(operator_dloss, loss, kept, x, *heads, sides, ctx.gain, needs))
        grads = [None if i % 6 == 1 else next(results) for i in range(ctx.count)]
        if batched:
            grads = [g if g is None or not g.numel() else g * dloss[i // 6] for i, g in enumerate(grads)]
        grads = [g if g is None else g.to(t.dtype) for g, t in zip(grads, tensors, strict=True)]
        return None, None, *(g if need else None for g, need in zip(grads, ctx.needs_input_grad[2:], strict=True))


def _cast_heads(heads: Sequence[Sequence[torch.Tensor]], dtype: torch.dtype) -> list[list[torch.Tensor]]:
    return [[t.to(dtype) for t in tensors] for tensors in heads]


def _through_reference(ctx, tensors, dloss):
    """Returns the same gradients as a graph that can be differentiated again."""
    needed = [i for i, need in enumerate(ctx.needs_input_grad[2:]) if need]

    def losses(*arguments: torch.Tensor) -> torch.Tensor:
        varied = dict(zip(needed, arguments, strict=True))
        features, targets, *heads = _group_by_argument([varied.get(i, t) for i, t in enumerate(tensors)])
        return reference.feature_projection_loss(features, targets, list(zip(*heads, strict=True)), ctx.gain)

    vjp = torch.func.vjp(losses, *(tensors[i] for i in needed))[1]
    grads = dict(zip(needed, vjp(dloss), strict=True))
    return None, None, *(grads.get(i) for i in range(ctx.count))
