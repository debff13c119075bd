# SPDX-License-Identifier: Apache-2.0
"""The parameters of several layers that demodulate: see demodulation.py, which prepares those of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch

from .._dispatch.functions import Function, is_batched, is_differentiated, is_transformed
from .._dispatch.library import Kernels
from . import ops, reference
from .demodulation import composed_gradients, demodulated, is_one_launch, like_source, needs_copies

# A launch takes no more layers: what it knows of them must fit into the 4 KB of arguments that a kernel can have.
MAX_LAYERS = 24


class Demodulated(NamedTuple):
    """A layer that demodulates.

    Attributes:
        weight: [O, C, kh, kw].
        styles: [N, C].
        dtype: Of its images.
        channels_last: Whether its convolution takes the weight in that layout.
    """

    weight: torch.Tensor
    styles: torch.Tensor
    dtype: torch.dtype
    channels_last: bool


class _Kind(NamedTuple):
    """What layers of one launch have in common.

    Attributes:
        dtype, weight_dtype, styles_dtype: Of images, weights and styles.
        samples: N.
        needs_w, needs_s: What `needs_copies` returns.
    """

    dtype: torch.dtype
    weight_dtype: torch.dtype
    styles_dtype: torch.dtype
    samples: int
    needs_w: bool
    needs_s: bool

    @classmethod
    def of(cls, layer: Demodulated) -> Self:
        """Returns a layer's kind."""
        weight, styles, dtype, channels_last = layer
        needs = needs_copies(weight, styles, dtype, False, channels_last)
        return cls(dtype, weight.dtype, styles.dtype, styles.shape[0], *needs)


Parameters = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Preparation:
    """How the parameters of several layers are computed.

    Attributes:
        kernels: What computes them; None stands for the reference.
        dtypes, channels_last: Of each layer, as `Demodulated` has them.
        launches: What layers of one launch have in common, and their numbers; the others are computed one by one.
    """

    kernels: Kernels | None
    dtypes: tuple[torch.dtype, ...]
    channels_last: tuple[bool, ...]
    launches: tuple[tuple[_Kind, tuple[int, ...]], ...]

    @classmethod
    def of(cls, backend: str, layers: Sequence[Demodulated]) -> Self:
        """Decides about layers like these."""
        kernels = None if backend == "reference" else ops.kernels[backend]
        kinds: dict[_Kind, list[int]] = {}
        if kernels is not None and kernels.has("demodulation_each"):
            for i, layer in enumerate(layers):
                if _can_share(layer):
                    kinds.setdefault(_Kind.of(layer), []).append(i)
        launches = ((kind, part) for kind, members in kinds.items() for part in _parts(tuple(members), MAX_LAYERS))
        dtypes, channels_last = (layer.dtype for layer in layers), (layer.channels_last for layer in layers)
        return cls(kernels, tuple(dtypes), tuple(channels_last), tuple(launches))

    def run(self, weights: Sequence[torch.Tensor], styles: Sequence[torch.Tensor]) -> list[Parameters]:
        """Returns (w, s, d) of each layer: see `hsr_kernels.modulated_conv2d_parameters`."""
        kernels = self.kernels
        if kernels is None:
            return [reference.parameters(*layer) for layer in zip(weights, styles, self.dtypes, strict=True)]
        found: dict[int, Parameters] = {}
        for kind, members in self.launches:
            channels_last = tuple(self.channels_last[i] for i in members)
            tensors = *(weights[i] for i in members), *(styles[i] for i in members)
            results = _parts(DemodulationEach.apply(kind, channels_last, kernels, *tensors), len(members))
            for i, w, s, d in zip(members, *results, strict=True):
                is_constant = not (is_differentiated(weights[i]) or is_differentiated(styles[i]))
                found[i] = like_source(w, weights[i]), like_source(s, styles[i]), d.detach() if is_constant else d
        for i, layer in enumerate(zip(weights, styles, self.dtypes, strict=True)):
            if i not in found:
                found[i] = demodulated(kernels, *layer, False, self.channels_last[i])
        return [found[i] for i in range(len(weights))]


def _can_share(layer: Demodulated) -> bool:
    """Whether a layer can share a launch: compilers and transforms take one layer after the other."""
    tensors = layer.weight, layer.styles
    is_float64 = layer.dtype == torch.float64
    return is_one_launch(*tensors) and not (is_float64 or is_transformed() or any(map(is_batched, tensors)))


@Function
class DemodulationEach(torch.autograd.Function):
    """(w of each layer, s of each layer, d of each layer) from the layers' weights and styles: see `Demodulation`."""

    @staticmethod
    def forward(kind, channels_last, kernels, *tensors):
        count = len(channels_last)
        weights, styles = tensors[:count], tensors[count:]
        found = kernels.demodulation_each(weights, styles, kind.dtype, channels_last, kind.needs_w, kind.needs_s)
        nothing = (None,) * count
        w = found[:count] if kind.needs_w else nothing
        s = found[count : 2 * count] if kind.needs_s else nothing
        return *w, *s, *found[2 * count :]

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        ctx.kind, channels_last, ctx.kernels, *tensors = inputs
        ctx.count = len(channels_last)
        ctx.save_for_backward(*tensors, *outputs[ctx.count :])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *gradients):
        (weights, styles, s, d), (dw, ds, dd) = (_parts(of, ctx.count) for of in (ctx.saved_tensors, gradients))
        missing = [sum(t is None for t in of_layers) for of_layers in (dw, dd)]
        # The kernel has no derivatives of its own, and takes what is there of all layers.
        if torch.is_grad_enabled() or missing not in ([0, 0], [ctx.count, 0]):
            layers = zip(weights, styles, d, dw, ds, dd, *_parts(ctx.needs_input_grad[3:], ctx.count), strict=True)
            each = [composed_gradients(*layer, dtype=ctx.kind.dtype, flip=False) for layer in layers]
            return None, None, None, *(gradient for of_layers in zip(*each, strict=True) for gradient in of_layers)
        s, dw = s if ctx.kind.needs_s else styles, [] if missing[0] else dw
        found = ctx.kernels.demodulation_each_bwd(weights, styles, s, d, dw, ds, dd, ctx.kind.dtype)
        return None, None, None, *found


def _parts(sequence: Any, count: int) -> list[Any]:
    """Cuts a sequence into sequences of `count`, of which the last one may have less."""
    return [sequence[i : i + count] for i in range(0, len(sequence), count)]
