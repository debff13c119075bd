# SPDX-License-Identifier: Apache-2.0
"""The operators of the HSR loss that its backends implement: all scales of one dtype at once, and their gradients.

Features and heads come in one dtype. The gradients of features have their dtype and their layout, those of heads have
the accumulation dtype.
`feature_loss` returns the losses, one per scale, and the tensors that the backend keeps for `feature_loss_bwd`. Each
backend chooses them: the CPU keeps the pooled hidden layer and one bit per element of the hidden layer, Triton
recomputes both.
"""

from functools import partial

import torch

from .._dispatch.library import define
from .._tensors import accumulation_dtype, image_format


def pooled_size(x, side: int) -> tuple[int, int]:
    """Returns (height, width) of the CPU's pooled hidden layer: where the map grows, the second layer comes first."""
    h, w = x.shape[2], x.shape[3]
    return (side, side) if side * side <= h * w else (h, w)


def empty_gradient(x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Returns an uninitialized gradient of features x in their layout and, unless one is given, their dtype."""
    return torch.empty(x.shape, dtype=dtype or x.dtype, device=x.device, memory_format=image_format(x))


def cpu_operand_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype that the CPU multiplies matrices of a dtype in."""
    return torch.float32 if dtype == torch.float16 else dtype


def _kept_on_cpu(x, target, w1, w2):
    n, _, h, w = x.shape
    k, d, side = w1.shape[0], w2.shape[0], target.shape[2]
    pooled = pooled_size(x, side)
    return (
        x.new_empty((k, n * pooled[0] * pooled[1]), dtype=cpu_operand_dtype(x.dtype)),
        x.new_empty((n, k, (h * w + 7) // 8), dtype=torch.uint8),
        x.new_empty((d, n, side * side), dtype=accumulation_dtype(x.dtype)),
    )


def _kept_on_triton(x, target, w1, w2):
    d, side = w2.shape[0], target.shape[2]
    return x.new_empty((d, x.shape[0] * side * side)), x.new_empty(d, dtype=torch.float32)


def _fake_loss(kept, x, target, w1, b1, w2, b2, gain):
    tensors = [t for scale in zip(x, target, w1, w2, strict=True) for t in kept(*scale)]
    return x[0].new_empty(len(x), dtype=accumulation_dtype(x[0].dtype)), tensors


def _fake_loss_bwd(dloss, loss, kept, x, w1, b1, w2, b2, sides, gain, needs):
    grads = []
    for images, *head in zip(x, w1, b1, w2, b2, strict=True):
        grads += [empty_gradient(images), *(t.new_empty(t.shape, dtype=accumulation_dtype(t.dtype)) for t in head)]
    return [g if need else g.new_empty(0) for g, need in zip(grads, needs, strict=True)]


feature_loss = define(
    "feature_loss(Tensor[] x, Tensor[] target, Tensor[] w1, Tensor[] b1, Tensor[] w2, Tensor[] b2, float gain)"
    " -> (Tensor, Tensor[])",
    __package__,
    fake={"cpu": partial(_fake_loss, _kept_on_cpu), "triton": partial(_fake_loss, _kept_on_triton)},
    backends=("cpu", "triton"),
)
feature_loss_bwd = define(
    "feature_loss_bwd(Tensor dloss, Tensor loss, Tensor[] kept, Tensor[] x, Tensor[] w1, Tensor[] b1, Tensor[] w2,"
    " Tensor[] b2, SymInt[] sides, float gain, bool[] needs) -> Tensor[]",
    __package__,
    fake=_fake_loss_bwd,
    backends=("cpu", "triton"),
)
