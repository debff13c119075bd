# SPDX-License-Identifier: Apache-2.0
"""Derivatives of the modulated convolution over the native operators.

    u = x * s                                   scale      (to channels_last)
    v = convolution of u                        oneDNN, cuDNN
    z = FIR of v                                where the layer upsamples, on the way into the epilogue
    y = clamp(act(z * d + noise + b) * gain)    epilogue

Kept for backward are the layer's inputs and y: u is scaled again, z * d is told from y. Every backward is made of
Functions that can be differentiated in turn, so every order exists. On GPUs a layer that doesn't resample is one
operator, and so are its first derivatives where no second ones are to come: their convolution may be one with the rest.
"""

import torch

from .._functions import Function
from .._registry import is_channels_last, runs_on, wide
from ..bias_act.activations import Epilogue
from ..bias_act.autograd import bias_act
from ..conv2d import autograd as _conv
from ..conv2d_resample.plan import Plan
from ..upfirdn2d.autograd import Upfirdn2d
from ..upfirdn2d.geometry import filter_taps
from . import ops as _ops
from . import reference
from .demodulation import Demodulation, in_one_launch

_LAST = torch.channels_last
_FOLDER = "modulated_conv2d"


@Function
class ScaleChannels(torch.autograd.Function):
    """u = x * s, in channels_last; bilinear."""

    @staticmethod
    def forward(x, s):
        return _ops.scale_op(x, s)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, du):
        return ScaleChannelsBackward.apply(du, *ctx.saved_tensors)


@Function
class ScaleChannelsBackward(torch.autograd.Function):
    """(dx, ds) from du; dx in the layout of x."""

    @staticmethod
    def forward(du, x, s):
        return _ops.scale_bwd_op(du, x, s)

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, ddx, dds):
        du, x, s = ctx.saved_tensors
        ddu, ds = ScaleChannelsBackward.apply(ddx, du, s)
        return ddu + ScaleChannels.apply(x, dds), ScaleChannels.apply(du, dds), ds


@Function
class EpilogueBackward(torch.autograd.Function):
    """(dz, dd, dnoise, db) from dy, told from y; the epilogue's activation is piecewise linear."""

    @staticmethod
    def forward(dy, y, d, noise, b, epilogue, needs_dnoise):
        dz, dd, db, dnoise = _ops.epilogue_bwd_op(dy, y, d, noise, b, needs_dnoise, *epilogue.args)
        dnoise = dnoise.sum_to_size(noise.shape) if needs_dnoise else None
        return dz, dd if d is not None else None, dnoise, db if b is not None else None

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        *tensors, ctx.epilogue, _ = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, ddz, ddd, ddnoise, ddb):
        dy, y, d, noise, b = ctx.saved_tensors
        if not torch.is_grad_enabled() and ddz is not None:
            return *_second_order(ctx, ddz, ddd, ddnoise, ddb), None, None
        # Differentiable: a third derivative may follow.
        slope, inverse = _slopes(y.detach(), ctx.epilogue)
        channel = lambda v: v[:, :, None, None]  # noqa: E731
        dpre = dy * slope
        gdpre = gd = gy = gnoise = gb = None
        if ddz is not None:
            gdpre = ddz if d is None else ddz * channel(d)
            gd = None if d is None else (ddz * dpre).sum([2, 3], dtype=d.dtype)
        if ddd is not None:
            # dd = sum(dpre * zd) / d with zd = z * d = y * inverse - noise - b.
            zd = y * inverse
            zd = zd if noise is None else zd - noise
            zd = zd if b is None else zd - b[:, None, None]
            ratio = ddd / d
            gdpre = _plus(gdpre, channel(ratio) * zd)
            gzd = channel(ratio) * dpre
            gy = (gzd * inverse).to(y.dtype)
            gd = _plus(gd, -(ratio / d) * (dpre * zd).sum([2, 3], dtype=d.dtype))
            gnoise = None if noise is None else -gzd.sum(1, keepdim=True).sum_to_size(noise.shape)
            gb = None if b is None else -gzd.sum([0, 2, 3])
        if ddnoise is not None:
            gdpre = _plus(gdpre, ddnoise)
        if ddb is not None:
            gdpre = _plus(gdpre, ddb[:, None, None])
        gdy = None if gdpre is None else (gdpre * slope).to(dy.dtype)
        return gdy, gy, gd, gnoise, gb, None, None


def _second_order(ctx, ddz, ddd, ddnoise, ddb):
    """What EpilogueBackward.backward computes, in one pass."""
    dy, y, d, noise, b = ctx.saved_tensors
    n, c = y.shape[:2]
    ratio = dy.new_zeros((n, c), dtype=wide(y.dtype)) if ddd is None else ddd / d
    ddb = dy.new_zeros(c, dtype=wide(y.dtype)) if ddb is None else ddb
    gdy, gy, gnoise, sums = _ops.epilogue_bwd_bwd_op(
        ddz, ratio, ddnoise, ddb, dy, y, d, noise, b,
        noise is not None and ctx.needs_input_grad[3], *ctx.epilogue.args,
    )  # fmt: skip
    dot, dot_zd, total = sums
    gd = None if d is None else dot if ddd is None else dot - ratio / d * dot_zd
    if ddd is None:
        return gdy, None, gd, None, None
    gnoise = gnoise.sum_to_size(noise.shape) if gnoise.numel() else None
    return gdy, gy, gd, gnoise, None if b is None else -(ratio * total).sum(0)


def _plus(a: torch.Tensor | None, b: torch.Tensor) -> torch.Tensor:
    return b if a is None else a + b


def _slopes(y: torch.Tensor, epilogue: Epilogue) -> tuple[torch.Tensor, torch.Tensor]:
    """dy/dpre and, where that isn't 0, its inverse, from the output y; both constant almost everywhere.

    Where dy/dpre is 0 the inverse only has to be finite: it never stands without dy/dpre as another factor.
    """
    alpha = {"linear": 1.0, "relu": 0.0}.get(epilogue.act, epilogue.alpha)
    above = y > 0 if epilogue.gain > 0 else y < 0
    one = torch.ones((), dtype=wide(y.dtype), device=y.device)
    slope = torch.where(above, one * epilogue.gain, one * (epilogue.gain * alpha))
    if epilogue.clamp >= 0:
        slope.masked_fill_(y.abs() >= epilogue.clamp, 0)
    inverse = torch.where(above, one / epilogue.gain, one / (epilogue.gain * alpha) if alpha else one * 0)
    return slope, inverse


@Function
class ModulatedConv2d(torch.autograd.Function):
    """The whole layer; w as its convolution takes it, s, d, noise and b in the dtype that is accumulated in."""

    @staticmethod
    def forward(x, w, s, d, noise, b, f, plan, epilogue):
        if _is_one_operator(x, plan):
            return _ops.layer_op(x, w, s, d, noise, b, plan.convolution.padding, *epilogue.args)
        return _composed(x, w, s, d, noise, b, f, plan, epilogue)

    @staticmethod
    def setup_context(ctx, inputs, y):
        *tensors, ctx.plan, ctx.epilogue = inputs
        x, w, *_, f = tensors
        ctx.whole = _is_one_operator(x, ctx.plan)
        # Of the images that go into the convolution and come out of it.
        ctx.u_size, ctx.v_size, _ = ctx.plan.sizes(x, (w.shape[2], w.shape[3]), filter_taps(f))
        ctx.save_for_backward(*tensors, y)

    @staticmethod
    def backward(ctx, dy):
        x, w, s, d, noise, b, f, y = ctx.saved_tensors
        plan = ctx.plan
        needs_x, needs_w, needs_s = ctx.needs_input_grad[:3]
        needs_w = needs_w and not _conv.weight_gradients_disabled()
        dv, dd, dnoise, db = EpilogueBackward.apply(dy, y, d, noise, b, ctx.epilogue, ctx.needs_input_grad[4])
        dx = ds = dw = None
        if ctx.whole and not torch.is_grad_enabled():
            padding = plan.convolution.padding
            dw = _ops.layer_weight_op(x, s, dv, w.shape[2:], padding) if needs_w else None
            dx, ds = _ops.layer_bwd_op(dv, w, x, s, padding) if needs_x or needs_s else (None, None)
            return dx, dw, ds, dd, dnoise, db, None, None, None
        if plan.after is not None:
            dv = Upfirdn2d.apply(dv, f, plan.after.adjoint(ctx.v_size, filter_taps(f)))
        if needs_w:
            dw = _weight_gradient(_before_convolution(x, s, f, plan), dv, w, plan)
        if needs_x or needs_s:
            du = _input_gradient(dv, w, ctx.u_size, plan)
            if plan.before is not None:
                used = f if plan.filtered else None
                du = Upfirdn2d.apply(du, used, plan.before.adjoint(x.shape[2:], filter_taps(used)))
            dx, ds = ScaleChannelsBackward.apply(du, x, s)
        return dx, dw, ds, dd, dnoise, db, None, None, None


def _is_one_operator(x, plan):
    """Whether a GPU's layer is one operator, which takes a route of its own."""
    return runs_on(_FOLDER, x) != "cpu" and not plan.resamples


def _composed(x, w, s, d, noise, b, f, plan, epilogue):
    u = _before_convolution(x, s, f, plan)
    v = _convolve(u, w, plan)
    last = is_channels_last(x)
    if plan.after is None:
        return _ops.epilogue_op(v, d, noise, b, last, *epilogue.args)
    g = plan.after
    fir = (f, g.up, g.down, g.padding, g.flip_filter, g.gain)
    return _ops.fir_epilogue_op(v, *fir, d, noise, b, last, *epilogue.args)


def _before_convolution(x, s, f, plan):
    u = ScaleChannels.apply(x, s)
    return u if plan.before is None else Upfirdn2d.apply(u, f if plan.filtered else None, plan.before)


def _spec(plan: Plan) -> _conv.Spec:
    step = plan.convolution
    return _conv.Spec((step.stride, step.stride), step.padding)


def _convolve(u, w, plan):
    kind = _conv.TransposedConvolution if plan.convolution.transposed else _conv.Convolution
    return kind.apply(u, w, None, _spec(plan))


def _input_gradient(dv, w, size, plan):
    spec = _spec(plan)
    if plan.convolution.transposed:
        return _conv.Convolution.apply(dv, w, None, spec)
    return _conv.TransposedConvolution.apply(dv, w, None, spec.transposed(size, dv.shape, w.shape))


def _weight_gradient(u, dv, w, plan):
    if plan.convolution.transposed:
        u, dv = dv, u
    return _conv.WeightGradient.apply(u, dv, w.shape, _spec(plan))


def modulated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    noise: torch.Tensor | None,
    f: torch.Tensor | None,
    plan: Plan,
    demodulate: bool,
    flip_weight: bool,
    bias: torch.Tensor | None,
    epilogue: Epilogue,
) -> torch.Tensor:
    """See `hsr_kernels.modulated_conv2d`."""
    # conv2d correlates; a transposed convolution convolves.
    flip = flip_weight == plan.convolution.transposed and weight.shape[2] * weight.shape[3] > 1
    w = d = None
    if demodulate and runs_on(_FOLDER, x) == "cuda" and in_one_launch(weight, styles):
        w, s, d = Demodulation.apply(weight, styles, x.dtype, flip, not plan.convolution.transposed)
        w, styles = weight if w is None else w, styles if s is None else s
    elif demodulate:
        weight, styles = reference.prescale(x.dtype, weight, styles)
        d = demodulation(weight.to(wide(x.dtype)), styles.to(wide(x.dtype)))
    whole = runs_on(_FOLDER, x) == "triton" and is_channels_last(x)  # then a kernel scales the images as it reads them
    if not demodulate and _is_small_projection(weight, plan) and not whole:
        y = _project(x, weight, styles)
        y = y if noise is None else y + noise.to(y.dtype)
        return bias_act(y, bias, 1, epilogue)

    fused = epilogue.act in ("linear", "relu", "lrelu") and epilogue.from_output
    if w is None:
        w = weight.to(x.dtype)
        w = w.flip([2, 3]) if flip else w
    if plan.convolution.transposed:
        w = w.transpose(0, 1)
    if noise is not None:
        noise = noise.to(wide(x.dtype))
        if noise.ndim == 0:  # a map is small beside the images, and one number isn't worth kernels of its own
            size = plan.output_size(x, (weight.shape[2], weight.shape[3]), filter_taps(f))
            noise = noise.expand(1, 1, *size).contiguous()
    b = bias.to(wide(x.dtype)) if fused and bias is not None else None
    y = ModulatedConv2d.apply(x, w, styles.to(wide(x.dtype)), d, noise, b, f, plan, epilogue if fused else _IDENTITY)
    return y if fused else bias_act(y, bias, 1, epilogue)


_IDENTITY = Epilogue("linear", 0.0, 1.0, -1.0)


def demodulation(weight: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """rsqrt(sum over C, kh, kw of (weight * styles)^2 + eps), [N, O]: a GEMM on squares, never per-sample weights."""
    energy = weight.square().sum([2, 3])
    return (styles.square() @ energy.t() + reference.EPS).rsqrt()


def _is_small_projection(weight: torch.Tensor, plan: Plan) -> bool:
    """Whether the layer is a 1x1 convolution to few channels (ToRGB): scaling its weights is cheaper."""
    plain = plan.before is None and plan.after is None and plan.convolution.padding == (0, 0)
    return plain and weight.shape[2:] == (1, 1) and weight.shape[0] * 4 <= weight.shape[1]


def _project(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """A 1x1 modulated convolution as one small matrix product per sample."""
    n, c, h, w = x.shape
    scaled = (weight[:, :, 0, 0] * styles[:, None, :]).to(x.dtype)
    if is_channels_last(x):
        y = x.permute(0, 2, 3, 1).reshape(n, h * w, c) @ scaled.transpose(1, 2)
        return y.reshape(n, h, w, weight.shape[0]).permute(0, 3, 1, 2)
    return (scaled @ x.reshape(n, c, h * w)).reshape(n, weight.shape[0], h, w)
