# SPDX-License-Identifier: Apache-2.0
"""The parameters of a layer as its convolution and its epilogue take them: weight, styles and factors d."""

import torch

from .._dispatch.functions import Function, is_batched, is_differentiated
from .._dispatch.library import Kernels
from .._dispatch.replay import may_skip_dispatcher
from .._tensors import accumulation_dtype, cast
from . import reference
from .layer import Layer

# One launch takes convolution kernels of no more taps: this is kMaxPieceWeights of csrc/cuda/demodulation.cu.
MAX_TAPS = 4608
# Offsets into weights and styles are 32 bits wide.
MAX_ELEMENTS = 1 << 30


def parameters(
    layer: Layer, x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, d: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Prepares the parameters, in one launch on a GPU.

    Args:
        layer: The layer.
        x: Images [N, C, H, W] of the layer.
        weight: [O, C, kh, kw].
        styles: [N, C].
        d: The factors [N, O] for this weight and these styles, if they are there already.

    Returns:
        w, in the dtype of x: [O, C, kh, kw], or [C, O, kh, kw] where the convolution is transposed; s [N, C]; d [N, O],
        None without demodulation.
    """
    transposed, flip = layer.plan.convolution.transposed, layer.flip
    if layer.demodulate and d is None:
        w, s, d = demodulated(layer.kernels, weight, styles, x.dtype, flip, not transposed)
    else:
        w, s = cast(weight, x.dtype), styles
        w = w.flip([2, 3]) if flip else w
        d = None if d is None else cast(d, accumulation_dtype(x.dtype))
    return w.transpose(0, 1) if transposed else w, s, d


def demodulated(
    kernels: Kernels, weight: torch.Tensor, styles: torch.Tensor, dtype: torch.dtype, flip: bool, channels_last: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns (w, s, d) of a layer that demodulates images of `dtype`: see `Demodulation`."""
    if kernels.has("demodulation") and is_one_launch(weight, styles):
        w, s, d = Demodulation.apply(weight, styles, dtype, flip, channels_last, kernels)
        return like_source(w, weight), like_source(s, styles), d
    weight, styles = reference.prescale(dtype, weight, styles)
    wide = accumulation_dtype(dtype)
    d = factors(weight.to(wide), styles.to(wide))
    w = cast(weight, dtype)
    return w.flip([2, 3]) if flip else w, styles, d


def like_source(result: torch.Tensor | None, source: torch.Tensor) -> torch.Tensor:
    """Returns what was made of a parameter, a constant if that is one: a Function's results are all alike."""
    if result is None:
        return source
    return result if is_differentiated(source) else result.detach()


def factors(weight: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """Returns rsqrt(sum over C, kh, kw of (weight * styles)^2 + eps), [N, O].

    It is a GEMM on squares: there are never weights per sample.
    """
    energy = weight.square().sum([2, 3])
    return (styles.square() @ energy.t() + reference.EPS).rsqrt()


def is_one_launch(weight: torch.Tensor, styles: torch.Tensor) -> bool:
    """Whether one launch takes this weight [O, C, kh, kw] and these styles [N, C]."""
    fits = weight.shape[2] * weight.shape[3] <= MAX_TAPS and max(weight.numel(), styles.numel()) < MAX_ELEMENTS
    return fits and torch.float64 not in (weight.dtype, styles.dtype)


def needs_copies(
    weight: torch.Tensor, styles: torch.Tensor, dtype: torch.dtype, flip: bool, channels_last: bool
) -> tuple[bool, bool]:
    """Returns whether w and whether s are other tensors than weight and styles themselves."""
    is_scaled = dtype == torch.float16
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    # Under vmap weights don't tell their layout.
    needs_w = is_scaled or flip or weight.dtype != dtype or is_batched(weight)
    needs_w = needs_w or not weight.is_contiguous(memory_format=memory_format)
    return needs_w, is_scaled or styles.dtype != torch.float32


@Function
class Demodulation(torch.autograd.Function):
    """(w, s, d) from weight [O, C, kh, kw] and styles [N, C], in one launch: `reference.prescale`, the casts, the taps
    in reverse (`flip`), and d = rsqrt(sum over C, kh and kw of (w * s)^2 + eps), [N, O] in float32.

    w has the dtype of the images; s is float32. None stands for a w or s that would be weight or styles themselves.

    d cancels the factors of prescaling, so the output of a layer doesn't depend on them, and derivatives of every order
    take them for constants.
    """

    @staticmethod
    def forward(weight, styles, dtype, flip, channels_last, kernels):
        needs_w, needs_s = needs_copies(weight, styles, dtype, flip, channels_last)
        w, s, d = kernels.demodulation(weight, styles, dtype, flip, channels_last, needs_w, needs_s)
        return w if needs_w else None, s if needs_s else None, d

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        weight, styles, dtype, ctx.flip, _, kernels = inputs
        ctx.dtype, ctx.kernels = dtype, kernels
        ctx.save_for_backward(weight, styles, *outputs[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, dw, ds, dd):
        weight, styles, s, d = ctx.saved_tensors
        needs_weight, needs_styles = ctx.needs_input_grad[:2]
        # The kernels have no derivatives of their own.
        if dd is not None and not torch.is_grad_enabled():
            # Hooks of saved tensors, which return what they like, treat all of them alike.
            kernels = ctx.kernels if may_skip_dispatcher(weight, d, dw, ds, dd) else ctx.kernels.dispatched
            s = styles if s is None else s
            needs = needs_weight, needs_styles
            dweight, dstyles = kernels.demodulation_bwd(weight, styles, s, d, dw, ds, dd, ctx.dtype, ctx.flip, *needs)
            return dweight if needs_weight else None, dstyles if needs_styles else None, None, None, None, None
        options = {"dtype": ctx.dtype, "flip": ctx.flip}
        return *composed_gradients(weight, styles, d, dw, ds, dd, needs_weight, needs_styles, **options), *[None] * 4


def composed_gradients(weight, styles, d, dw, ds, dd, needs_weight, needs_styles, *, dtype, flip):
    """Computes the gradients of weight and styles by operations that have derivatives; None stands for zero."""
    w_factor, s_factor = _prescaling_factors(weight, styles) if dtype == torch.float16 else (None, None)
    if dw is not None:
        dw = (dw.flip([2, 3]) if flip else dw).float()
    if dd is not None:
        w, s = _times(weight.float(), w_factor), _times(styles.float(), s_factor)
        # Of the gradient of the sum under the root this is -2 times as much.
        denergy = dd * d.pow(3)
        if needs_weight:
            product = (denergy.t() @ s.square()).view(*w.shape[:2], 1, 1)
            dw = -w * product if dw is None else torch.addcmul(dw, w, product, value=-1)
        if needs_styles:
            product = torch.addmm(s, denergy, w.square().sum([2, 3]), beta=0, alpha=-1)
            ds = s * product if ds is None else torch.addcmul(ds, s, product)
    dw = cast(_times(dw, w_factor), weight.dtype) if needs_weight and dw is not None else None
    ds = cast(_times(ds, s_factor), styles.dtype) if needs_styles and ds is not None else None
    return dw, ds


def _prescaling_factors(weight: torch.Tensor, styles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the factors of `reference.prescale` as constants, [O, 1, 1, 1] and [N, 1]."""
    weight, styles = weight.detach(), styles.detach()
    w_magnitude = weight.abs().amax([1, 2, 3], keepdim=True).float().clamp_min(reference.MIN_MAGNITUDE)
    s_magnitude = styles.abs().amax(1, keepdim=True).float().clamp_min(reference.MIN_MAGNITUDE)
    return weight[0].numel() ** -0.5 / w_magnitude, s_magnitude.reciprocal()


def _times(x: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
    return x if factor is None else x * factor


def plus(a: torch.Tensor | None, b: torch.Tensor) -> torch.Tensor:
    """Returns a + b, where None stands for zero."""
    return b if a is None else a + b
