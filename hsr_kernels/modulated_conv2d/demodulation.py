# SPDX-License-Identifier: Apache-2.0
"""The parameters of a layer as its convolution and its epilogue take them: weight, styles and factors d."""

import torch

from .._dispatch.functions import Function
from .._tensors import accumulation_dtype
from . import ops, reference

# Of a kernel, in one launch: kRow of csrc/cuda/demodulation.cu.
MAX_TAPS = 4608


def parameters(
    backend: str,
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    transposed: bool,
    demodulate: bool,
    flip_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Makes the parameters ready: in one launch, where the cuda backend can.

    Args:
        backend: That of the layer.
        x: Its images.
        weight: [O, C, kh, kw].
        styles: [N, C].
        transposed: Whether its convolution is.
        demodulate, flip_weight: As in `hsr_kernels.modulated_conv2d`.

    Returns:
        w, in the dtype of x: [O, C, kh, kw], or [C, O, kh, kw] where the convolution is transposed; s [N, C]; d [N, O],
        None without demodulation.
    """
    # conv2d correlates; a transposed convolution convolves.
    flip = flip_weight == transposed and weight.shape[2] * weight.shape[3] > 1
    d = None
    if demodulate and backend == "cuda" and _fits_one_launch(weight, styles):
        w, s, d = Demodulation.apply(weight, styles, x.dtype, flip, not transposed, backend)
        w, s = weight if w is None else w, styles if s is None else s
    else:
        if demodulate:
            weight, styles = reference.prescale(x.dtype, weight, styles)
            dtype = accumulation_dtype(x.dtype)
            d = factors(weight.to(dtype), styles.to(dtype))
        w, s = weight.to(x.dtype), styles
        w = w.flip([2, 3]) if flip else w
    return w.transpose(0, 1) if transposed else w, s, d


def factors(weight: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """rsqrt(sum over C, kh, kw of (weight * styles)^2 + eps), [N, O]: a GEMM on squares, never per-sample weights."""
    energy = weight.square().sum([2, 3])
    return (styles.square() @ energy.t() + reference.EPS).rsqrt()


def _fits_one_launch(weight: torch.Tensor, styles: torch.Tensor) -> bool:
    return torch.float64 not in (weight.dtype, styles.dtype) and weight.shape[2] * weight.shape[3] <= MAX_TAPS


@Function
class Demodulation(torch.autograd.Function):
    """(w, s, d) from weight [O, C, kh, kw] and styles [N, C], in one launch: `reference.prescale`, the casts, the taps
    in reverse (`flip`), and d = rsqrt(sum over C, kh and kw of (w * s)^2 + eps), [N, O] in float32.

    w has the dtype of the images; s is float32. None stands for a w or s that would be weight or styles themselves.

    What a layer makes of its results doesn't depend on the factors of prescaling, as d cancels them. So derivatives of
    every order are those at constant factors.
    """

    @staticmethod
    def forward(weight, styles, dtype, flip, channels_last, backend):
        scaled = dtype == torch.float16
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        needs_w = scaled or flip or weight.dtype != dtype or not weight.is_contiguous(memory_format=memory_format)
        needs_s = scaled or styles.dtype != torch.float32
        w, s, d = ops.demodulation[backend](weight, styles, dtype, flip, channels_last, needs_w, needs_s)
        return w if needs_w else None, s if needs_s else None, d

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        weight, styles, dtype, ctx.flip, *_ = inputs
        ctx.scaled = dtype == torch.float16
        ctx.save_for_backward(weight, styles, outputs[2])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, dw, ds, dd):
        weight, styles, d = ctx.saved_tensors
        needs_weight, needs_styles = ctx.needs_input_grad[:2]
        a, m = _prescaling_factors(weight, styles) if ctx.scaled else (None, None)
        if dw is not None:
            dw = (dw.flip([2, 3]) if ctx.flip else dw).float()
        if dd is not None:
            w, s = _times(weight.float(), a), _times(styles.float(), m)
            dq = dd * d.pow(3) * -0.5  # of the sum under the root
            if needs_weight:
                dw = plus(dw, w * (dq.t() @ s.square() * 2)[:, :, None, None])
            if needs_styles:
                ds = plus(ds, s * (dq @ w.square().sum([2, 3]) * 2))
        dw = _times(dw, a).to(weight.dtype) if needs_weight and dw is not None else None
        ds = _times(ds, m).to(styles.dtype) if needs_styles and ds is not None else None
        return dw, ds, None, None, None, None


def _prescaling_factors(weight: torch.Tensor, styles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of `reference.prescale` as constants, [O, 1, 1, 1] and [N, 1]."""
    weight, styles = weight.detach(), styles.detach()
    largest = weight.abs().amax([1, 2, 3], keepdim=True).float().clamp_min(reference.MIN_MAGNITUDE)
    a = weight[0].numel() ** -0.5 / largest
    return a, styles.abs().amax(1, keepdim=True).float().clamp_min(reference.MIN_MAGNITUDE).reciprocal()


def _times(x: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
    return x if factor is None else x * factor


def plus(a: torch.Tensor | None, b: torch.Tensor) -> torch.Tensor:
    """a + b, where None stands for zero."""
    return b if a is None else a + b
