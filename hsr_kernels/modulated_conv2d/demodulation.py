# SPDX-License-Identifier: Apache-2.0
"""The parameters of a demodulating layer made ready for its convolution and epilogue in one launch, and derivatives."""

import torch

from .._functions import Function
from . import ops as _ops
from . import reference

_MOST_TAPS = 4608  # of a kernel, that the launch can take; see csrc/cuda/demodulation.cu


def in_one_launch(weight: torch.Tensor, styles: torch.Tensor) -> bool:
    """Whether `Demodulation` takes these parameters."""
    return torch.float64 not in (weight.dtype, styles.dtype) and weight.shape[2] * weight.shape[3] <= _MOST_TAPS


@Function
class Demodulation(torch.autograd.Function):
    """(w, s, d) from weight [O, C, kh, kw] and styles [N, C]: `reference.prescale`, the casts, the taps in reverse
    (`flip`), and d = rsqrt(sum over C, kh and kw of (w * s)^2 + eps), [N, O] in float32.

    w has the dtype of the images; s is float32. None stands for a w or s that would be weight or styles themselves.

    What a layer makes of its results doesn't depend on the factors of prescaling, as d cancels them. So derivatives of
    every order are those at constant factors.
    """

    @staticmethod
    def forward(weight, styles, dtype, flip, channels_last):
        scaled = dtype == torch.float16
        like = torch.channels_last if channels_last else torch.contiguous_format
        needs_w = scaled or flip or weight.dtype != dtype or not weight.is_contiguous(memory_format=like)
        needs_s = scaled or styles.dtype != torch.float32
        w, s, d = _ops.demodulation_op(weight, styles, dtype, flip, channels_last, needs_w, needs_s)
        return w if needs_w else None, s if needs_s else None, d

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        weight, styles, dtype, ctx.flip, _ = inputs
        ctx.scaled = dtype == torch.float16
        ctx.save_for_backward(weight, styles, outputs[2])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, dw, ds, dd):
        weight, styles, d = ctx.saved_tensors
        needs_weight, needs_styles = ctx.needs_input_grad[:2]
        a, m = _factors(weight, styles) if ctx.scaled else (None, None)
        if dw is not None:
            dw = (dw.flip([2, 3]) if ctx.flip else dw).float()
        if dd is not None:
            w, s = _times(weight.float(), a), _times(styles.float(), m)
            dq = dd * d.pow(3) * -0.5  # of the sum under the root
            if needs_weight:
                dw = _plus(dw, w * (dq.t() @ s.square() * 2)[:, :, None, None])
            if needs_styles:
                ds = _plus(ds, s * (dq @ w.square().sum([2, 3]) * 2))
        dw = _times(dw, a).to(weight.dtype) if needs_weight and dw is not None else None
        ds = _times(ds, m).to(styles.dtype) if needs_styles and ds is not None else None
        return dw, ds, None, None, None


def _factors(weight: torch.Tensor, styles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of `reference.prescale`, [O, 1, 1, 1] and [N, 1]."""
    weight, styles = weight.detach(), styles.detach()
    magnitude = (weight.shape[1] * weight.shape[2] * weight.shape[3]) ** -0.5
    a = magnitude / weight.abs().amax([1, 2, 3], keepdim=True).float().clamp_min(reference._TINY)
    return a, styles.abs().amax(1, keepdim=True).float().clamp_min(reference._TINY).reciprocal()


def _times(x: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
    return x if factor is None else x * factor


def _plus(a: torch.Tensor | None, b: torch.Tensor) -> torch.Tensor:
    return b if a is None else a + b
