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
    """See `hsr_kernels.feature_projection_loss`. Scales of one dtype are one call of the operators."""
    scales = [(x, target.detach(), *head) for x, target, head in zip(features, targets, heads, strict=True)]
    losses: dict[int, torch.Tensor] = {}
    for dtype in dict.fromkeys(x.dtype for x in features):
        group = [i for i, x in enumerate(features) if x.dtype == dtype]
        tensors = [t for i in group for t in scales[i]]
        found = ProjectionLoss.apply(hidden_gain, backend, *tensors)[0]
        if len(group) == len(scales):
            return found
        losses.update(zip(group, found.unbind(), strict=True))
    return torch.stack([losses[i] for i in range(len(scales))])


def _by_argument(tensors: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """x, target, w1, b1, w2, b2 of the first scale, then of the next one ... as a list of each."""
    return [list(tensors[i::6]) for i in range(6)]


@Function
class ProjectionLoss(torch.autograd.Function):
    """The losses of scales of one dtype, whose x, target, w1, b1, w2 and b2 follow one another; and what is kept."""

    @staticmethod
    def forward(gain, backend, *tensors):
        x, target, *heads = _by_argument(tensors)
        loss, kept = ops.feature_loss[backend](x, target, *_like(x, heads), gain)
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
        x, target, *heads = _by_argument(tensors)
        needs = [need for i, need in enumerate(ctx.needs_input_grad[2:]) if i % 6 != 1]
        sides = [t.shape[2] for t in target]
        # PyTorch batches no operator that returns a list. Gradients are linear in dloss, which can as well come later.
        batched = is_batched(dloss)
        given = torch.ones_like(loss) if batched else dloss
        # Cast again rather than kept: heads are often larger than all that is.
        found = iter(ops.feature_loss_bwd[ctx.backend](given, loss, kept, x, *_like(x, heads), sides, ctx.gain, needs))
        grads = [None if i % 6 == 1 else next(found) for i in range(ctx.count)]
        if batched:
            grads = [g if g is None or not g.numel() else g * dloss[i // 6] for i, g in enumerate(grads)]
        grads = [g if g is None else g.to(t.dtype) for g, t in zip(grads, tensors, strict=True)]
        return None, None, *(g if need else None for g, need in zip(grads, ctx.needs_input_grad[2:], strict=True))


def _like(x: Sequence[torch.Tensor], heads: Sequence[Sequence[torch.Tensor]]) -> list[list[torch.Tensor]]:
    """w1, b1, w2 and b2 in the dtype of the features."""
    return [[t.to(x[0].dtype) for t in tensors] for tensors in heads]


def _through_reference(ctx, tensors, dloss):
    """The same gradients as a graph that can be differentiated again."""
    wanted = [i for i, need in enumerate(ctx.needs_input_grad[2:]) if need]

    def losses(*varied: torch.Tensor) -> torch.Tensor:
        given = dict(zip(wanted, varied, strict=True))
        features, targets, *heads = _by_argument([given.get(i, t) for i, t in enumerate(tensors)])
        return reference.feature_projection_loss(features, targets, list(zip(*heads, strict=True)), ctx.gain)

    pull = torch.func.vjp(losses, *(tensors[i] for i in wanted))[1]
    found = dict(zip(wanted, pull(dloss), strict=True))
    return None, None, *(found.get(i) for i in range(ctx.count))
