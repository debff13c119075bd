# SPDX-License-Identifier: Apache-2.0
"""Layers with equalized learning rate: what is stored, and what their operators take of it.

Weights are stored with unit variance, and each layer has a gain at run time, so an optimizer that normalises gradients
(Adam) moves all of them at the same relative speed. A network prepares the parameters of all its layers at once: gains
and casts then take a handful of operations, forward and backward, instead of several for each parameter.

Source: Karras et al., "Progressive Growing of GANs" (2018), section 4.1.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from hsr_kernels._dispatch.functions import Function, is_batched, is_transformed

# A weight and a bias, or None where there is none, as a layer's operators take them.
Prepared = tuple[Tensor, Tensor | None]


class EqualizedLayer(nn.Module):
    """A layer with a weight and a bias, each with a gain at run time.

    Attributes:
        weight_gain, bias_gain: Factors of the weight and of the bias.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    weight_gain: float = 1.0
    bias_gain: float = 1.0

    def prepared(self, dtype: torch.dtype) -> Prepared:
        """Returns this layer's parameters alone, in `dtype`."""
        return prepared([(self, dtype)])[self]


def prepared(layers: Iterable[tuple[EqualizedLayer, torch.dtype]]) -> dict[EqualizedLayer, Prepared]:
    """Returns the parameters of layers with their gains, each layer's in the dtype given for it."""
    pairs = list(layers)
    tensors: list[Tensor] = []
    gains: list[float] = []
    dtypes: list[torch.dtype] = []
    for layer, dtype in pairs:
        tensors.append(layer.weight)
        gains.append(layer.weight_gain)
        if layer.bias is not None:
            tensors.append(layer.bias)
            gains.append(layer.bias_gain)
        dtypes += [dtype] * (len(tensors) - len(dtypes))
    scaled = iter(scale(tensors, gains, dtypes))
    return {layer: (next(scaled), None if layer.bias is None else next(scaled)) for layer, _ in pairs}


def scale(tensors: Sequence[Tensor], gains: Sequence[float], dtypes: Sequence[torch.dtype]) -> list[Tensor]:
    """Returns tensors times numbers in the dtypes given for them; products are rounded before they are narrowed.

    Derivatives: every order.
    """
    # PyTorch's transforms don't know operations on lists.
    if is_transformed() or any(map(is_batched, tensors)):
        return [
            (tensor.to(torch.promote_types(tensor.dtype, dtype)) * gain).to(dtype)
            for tensor, gain, dtype in zip(tensors, gains, dtypes, strict=True)
        ]
    results = list(tensors)
    changed = [i for i, tensor in enumerate(tensors) if gains[i] != 1 or tensor.dtype != dtypes[i]]
    if changed:
        options = tuple(gains[i] for i in changed), tuple(dtypes[i] for i in changed)
        scaled = Scale.apply(*options, *(tensors[i] for i in changed))
        for i, result in zip(changed, scaled, strict=True):
            results[i] = result
    return results


@Function
class Scale(torch.autograd.Function):
    """Each tensor times its number, in its dtype; linear, and its own derivative with the dtypes exchanged."""

    @staticmethod
    def forward(gains, dtypes, *tensors):
        wide = [torch.promote_types(tensor.dtype, dtype) for tensor, dtype in zip(tensors, dtypes, strict=True)]
        scaled = _cast(tensors, wide)
        multiplied = [i for i, gain in enumerate(gains) if gain != 1]
        if multiplied:
            products = torch._foreach_mul([scaled[i] for i in multiplied], [gains[i] for i in multiplied])
            for i, product in zip(multiplied, products, strict=True):
                scaled[i] = product
        return tuple(_cast(scaled, dtypes))

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        ctx.gains, _, *tensors = inputs
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *gradients):
        there = [i for i, gradient in enumerate(gradients) if gradient is not None and ctx.needs_input_grad[2 + i]]
        found = scale([gradients[i] for i in there], [ctx.gains[i] for i in there], [ctx.dtypes[i] for i in there])
        by_position = dict(zip(there, found, strict=True))
        return None, None, *(by_position.get(i) for i in range(len(gradients)))


def _cast(tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> list[Tensor]:
    """Returns tensors in the dtypes given for them: those that have them already themselves, others as copies."""
    changed = [i for i, dtype in enumerate(dtypes) if tensors[i].dtype != dtype]
    cast = list(tensors)
    for i in changed:
        cast[i] = torch.empty_like(tensors[i], dtype=dtypes[i])
    if changed:
        torch._foreach_copy_([cast[i] for i in changed], [tensors[i] for i in changed])
    return cast
