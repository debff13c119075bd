# SPDX-License-Identifier: Apache-2.0
"""Derivatives of the modulated convolution over the native operators.

    u = x * s                                   scale      (to channels_last)
    v = convolution of u                        oneDNN, cuDNN
    z = FIR of v                                where the layer upsamples, on the way into the epilogue
    y = clamp(act(z * d + noise + b) * gain)    epilogue

Kept for backward are the layer's inputs and y: u is scaled again, z * d is recovered from y. Every backward is made of
Functions that can be differentiated in turn, so every order exists. On the triton backend a pass of a layer that
doesn't resample may be one kernel instead, convolution included (routes.py), if no further derivative can follow.
"""

import torch

from .._dispatch.functions import Function
from .._dispatch.library import Kernels
from .._dispatch.replay import may_skip_dispatcher
from .._tensors import accumulation_dtype, cast, is_channels_last
from ..bias_act.activations import Epilogue
from ..bias_act.autograd import bias_act
from ..conv2d import autograd as _conv
from ..conv2d_resample.plan import Plan
from ..upfirdn2d.autograd import Upfirdn2d
from ..upfirdn2d.geometry import filter_taps
from . import ops
from .demodulation import parameters, plus
from .layer import Layer
from .routes import FUSED, Routes, is_fir_fused


@Function
class ScaleChannels(torch.autograd.Function):
    """u = x * s, in channels_last; bilinear."""

    @staticmethod
    def forward(x, s, kernels):
        return kernels.scale_channels(x, s)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, kernels = inputs
        ctx.kernels = kernels.dispatched
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, du):
        return *ScaleChannelsBackward.apply(du, *ctx.saved_tensors, ctx.kernels), None


@Function
class ScaleChannelsBackward(torch.autograd.Function):
    """(dx, ds) from du; dx in the layout of x."""

    @staticmethod
    def forward(du, x, s, kernels):
        return kernels.scale_channels_bwd(du, x, s)

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        *tensors, kernels = inputs
        ctx.kernels = kernels.dispatched
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, ddx, dds):
        du, x, s = ctx.saved_tensors
        # The kernel has no derivatives of its own.
        if ctx.kernels.has("scale_channels_bwd_bwd") and not torch.is_grad_enabled():
            return *ctx.kernels.scale_channels_bwd_bwd(ddx, dds, du, x, s), None
        ddu, ds = ScaleChannelsBackward.apply(ddx, du, s, ctx.kernels)
        ddu = ddu + ScaleChannels.apply(x, dds, ctx.kernels)
        return ddu, ScaleChannels.apply(du, dds, ctx.kernels), ds, None


@Function
class EpilogueBackward(torch.autograd.Function):
    """(dz, dd, dnoise, db) from dy, with what they need recovered from y; for piecewise linear activations."""

    @staticmethod
    def forward(dy, y, d, noise, b, epilogue, needs_dnoise, kernels):
        run = kernels.modulated_conv2d_epilogue_bwd
        dz, dd, db, dnoise = run(dy, y, d, noise, b, needs_dnoise, *epilogue.args)
        dnoise = dnoise.sum_to_size(noise.shape) if needs_dnoise else None
        return dz, dd if d is not None else None, dnoise, db if b is not None else None

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        *tensors, ctx.epilogue, _, kernels = inputs
        ctx.kernels = kernels.dispatched
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, ddz, ddd, ddnoise, ddb):
        dy, y, d, noise, b = ctx.saved_tensors
        if not torch.is_grad_enabled() and ddz is not None:
            return *_second_order(ctx, ddz, ddd, ddnoise, ddb), None, None, None
        # These steps can be differentiated, as a third derivative may follow.
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
            gdpre = plus(gdpre, channel(ratio) * zd)
            gy = channel(ratio) * dpre * inverse
            # The backward pass of y will find the same numbers, whose sums these cancel.
            gzd = gy * slope
            gy = gy.to(y.dtype)
            gd = plus(gd, -(ratio / d) * (dpre * zd).sum([2, 3], dtype=d.dtype))
            gnoise = None if noise is None else -gzd.sum(1, keepdim=True).sum_to_size(noise.shape)
            gb = None if b is None else -gzd.sum([0, 2, 3])
        if ddnoise is not None:
            gdpre = plus(gdpre, ddnoise)
        if ddb is not None:
            gdpre = plus(gdpre, ddb[:, None, None])
        gdy = None if gdpre is None else (gdpre * slope).to(dy.dtype)
        return gdy, gy, gd, gnoise, gb, None, None, None


def _second_order(ctx, ddz, ddd, ddnoise, ddb):
    """Computes in one pass what EpilogueBackward.backward returns of tensors."""
    dy, y, d, noise, b = ctx.saved_tensors
    n, c = y.shape[:2]
    ratio = dy.new_zeros((n, c), dtype=accumulation_dtype(y.dtype)) if ddd is None else ddd / d
    ddb = dy.new_zeros(c, dtype=accumulation_dtype(y.dtype)) if ddb is None else ddb
    gdy, gy, gnoise, sums = ctx.kernels.modulated_conv2d_epilogue_bwd_bwd(
        ddz, ratio, ddnoise, ddb, dy, y, d, noise, b,
        noise is not None and ctx.needs_input_grad[3], *ctx.epilogue.args,
    )  # fmt: skip
    dot, dot_zd, total = sums
    gd = None if d is None else dot if ddd is None else dot - ratio / d * dot_zd
    if ddd is None:
        return gdy, None, gd, None, None
    gnoise = gnoise.sum_to_size(noise.shape) if gnoise.numel() else None
    return gdy, gy, gd, gnoise, None if b is None else -total.sum(0)


def _slopes(y: torch.Tensor, epilogue: Epilogue) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns dy/dpre and, where that isn't 0, its inverse, recovered from y; both are constant almost everywhere.

    Where dy/dpre is 0 the inverse only has to be finite: it never stands without dy/dpre as another factor.
    """
    alpha = epilogue.slope_below_zero
    above = y > 0 if epilogue.gain > 0 else y < 0
    one = torch.ones((), dtype=accumulation_dtype(y.dtype), device=y.device)
    slope = torch.where(above, one * epilogue.gain, one * (epilogue.gain * alpha))
    if epilogue.clamp >= 0:
        slope.masked_fill_(y.abs() >= epilogue.clamp, 0)
    inverse = torch.where(above, one / epilogue.gain, one / (epilogue.gain * alpha) if alpha else one * 0)
    return slope, inverse


@Function
class ModulatedConv2d(torch.autograd.Function):
    """y of a layer; w is as its convolution takes it, and s, d, noise and b have the accumulation dtype."""

    @staticmethod
    def forward(x, w, s, d, noise, b, f, layer):
        if layer.routes.forward == FUSED:
            padding = layer.plan.convolution.padding
            return layer.kernels.modulated_conv2d_layer(x, w, s, d, noise, b, padding, *layer.fused_epilogue.args)
        return convolution_route(x, w, s, d, noise, b, f, layer.plan, layer.fused_epilogue, layer.kernels)

    @staticmethod
    def setup_context(ctx, inputs, y):
        *tensors, ctx.layer = inputs
        x, w, *_, f = tensors
        # The images that go into the convolution have u_size, those that come out of it v_size.
        sizes = ctx.layer.sizes or ctx.layer.plan.sizes(x, (w.shape[2], w.shape[3]), filter_taps(f))
        ctx.u_size, ctx.v_size, _ = sizes
        ctx.save_for_backward(*tensors, y)

    @staticmethod
    def backward(ctx, dy):
        x, w, s, d, noise, b, f, y = ctx.saved_tensors
        plan, routes, kernels = ctx.layer.plan, ctx.layer.routes, ctx.layer.kernels
        # The fused kernels have no derivatives of their own.
        if torch.is_grad_enabled():
            routes = Routes()
        # Hooks of saved tensors, which return what they like, treat all of them alike.
        if not may_skip_dispatcher(dy, x, y):
            kernels = kernels.dispatched
        needs_x, needs_w, needs_s = ctx.needs_input_grad[:3]
        needs_w = needs_w and not _conv.weight_gradients_disabled()
        dv, dd, dnoise, db = _epilogue_gradients(ctx, dy, y, d, noise, b, f, kernels)
        dx, dw, ds = _gradients(dv, x, w, s, f, ctx.u_size, plan, routes, kernels, needs_x or needs_s, needs_w)
        return dx, dw, ds, dd, dnoise, db, None, None


def _epilogue_gradients(ctx, dy, y, d, noise, b, f, kernels):
    """Returns (dv, dd, dnoise, db) of what follows a convolution: the epilogue, after a FIR where a layer upsamples."""
    plan, epilogue, needs_dnoise = ctx.layer.plan, ctx.layer.fused_epilogue, ctx.needs_input_grad[4]
    if plan.after is None:
        return EpilogueBackward.apply(dy, y, d, noise, b, epilogue, needs_dnoise, kernels)
    g = plan.after.adjoint(ctx.v_size, filter_taps(f))
    # The kernel has no derivatives of its own.
    if kernels.has("modulated_conv2d_fir_epilogue_bwd") and not torch.is_grad_enabled() and is_fir_fused(y, f, g):
        fir = (f, g.up, g.down, g.padding, g.flip_filter, g.gain)
        run = kernels.modulated_conv2d_fir_epilogue_bwd
        dv, dd, db, dnoise = run(dy, y, *fir, d, noise, b, needs_dnoise, *epilogue.args)
        dnoise = dnoise.sum_to_size(noise.shape) if needs_dnoise else None
        return dv, dd if d is not None else None, dnoise, db if b is not None else None
    dz, dd, dnoise, db = EpilogueBackward.apply(dy, y, d, noise, b, epilogue, needs_dnoise, kernels)
    return Upfirdn2d.apply(dz, f, g, kernels.backend), dd, dnoise, db


def _gradients(dv, x, w, s, f, u_size, plan, routes, kernels, needs_xs, needs_w):
    """Computes (dx, dw, ds), as far as they are needed, from the gradient dv of the convolution's output."""
    if needs_w and needs_xs:
        if routes.is_projection(w):
            dx, ds, dw = kernels.modulated_conv2d_projection_bwd(dv, w, x, s)
            return dx, dw, ds
        if _has_joint_gradients(plan, routes, kernels):
            return _joint_gradients(dv, x, w, s, f, u_size, plan, kernels)
    padding = plan.convolution.padding
    dx = ds = dw = None
    if needs_w and routes.weight_gradient == FUSED:
        dw = kernels.modulated_conv2d_layer_weight(x, s, dv, w.shape[2:], padding)
    elif needs_w:
        dw = weight_gradient(x, s, f, dv, w, plan, kernels)
    if needs_xs and routes.input_gradient == FUSED:
        dx, ds = kernels.modulated_conv2d_layer_bwd(dv, w, x, s, padding)
    elif needs_xs:
        dx, ds = input_gradient(dv, w, x, s, f, u_size, plan, kernels)
    return dx, dw, ds


def convolution_route(x, w, s, d, noise, b, f, plan, epilogue, kernels):
    """Computes y by the convolution route: PyTorch's convolution between the native operators."""
    v = _convolve(_before_convolution(x, s, f, plan, kernels), w, plan)
    channels_last = is_channels_last(x)
    if plan.after is None:
        return kernels.modulated_conv2d_epilogue(v, d, noise, b, channels_last, *epilogue.args)
    g = plan.after
    fir = (f, g.up, g.down, g.padding, g.flip_filter, g.gain)
    return kernels.modulated_conv2d_fir_epilogue(v, *fir, d, noise, b, channels_last, *epilogue.args)


def _has_joint_gradients(plan: Plan, routes: Routes, kernels: Kernels) -> bool:
    """Whether one call computes both gradients of the convolution, or of what is around it, and nothing follows.

    On CPUs it is faster to have a transposed convolution of one's own.
    """
    takes_convolution = FUSED not in (routes.input_gradient, routes.weight_gradient)
    return takes_convolution and plan.before is None and kernels.backend != "cpu" and not torch.is_grad_enabled()


def _joint_gradients(dv, x, w, s, f, u_size, plan, kernels):
    """Computes (dx, dw, ds) by the convolution route, with no further derivative."""
    if kernels.has("scale_channels_fwd_bwd"):
        du = _input_gradient(dv, w, f, x, u_size, plan, kernels)
        u, dx, ds = kernels.scale_channels_fwd_bwd(du, x, s)
        return dx, _weight_gradient(u, dv, w, plan), ds
    u, step = kernels.scale_channels(x, s), plan.convolution
    du, dw, _ = torch.ops.aten.convolution_backward(
        dv, u, w, None, (step.stride, step.stride), step.padding, (1, 1), step.transposed, (0, 0), 1,
        (True, True, False),
    )  # fmt: skip
    # No more images are in memory at a time than one gradient after the other would need.
    del u
    dx, ds = kernels.scale_channels_bwd(du, x, s)
    return dx, dw, ds


def input_gradient(dv, w, x, s, f, u_size, plan, kernels):
    """Computes (dx, ds) by the convolution route, from the gradient dv of the convolution's output."""
    return ScaleChannelsBackward.apply(_input_gradient(dv, w, f, x, u_size, plan, kernels), x, s, kernels)


def _input_gradient(dv, w, f, x, u_size, plan, kernels):
    """Computes du, the gradient of the scaled input."""
    spec = _spec(plan)
    if plan.convolution.transposed:
        du = _conv.Conv2d.apply(dv, w, None, spec)
    else:
        du = _conv.ConvTranspose2d.apply(dv, w, None, spec.transposed(u_size, dv.shape, w.shape))
    if plan.before is not None:
        before_f = f if plan.filtered else None
        du = Upfirdn2d.apply(du, before_f, plan.before.adjoint(x.shape[2:], filter_taps(before_f)), kernels.backend)
    return du


def weight_gradient(x, s, f, dv, w, plan, kernels):
    """Computes dw by the convolution route, from the gradient dv of the convolution's output."""
    return _weight_gradient(_before_convolution(x, s, f, plan, kernels), dv, w, plan)


def _weight_gradient(u, dv, w, plan):
    if plan.convolution.transposed:
        u, dv = dv, u
    return _conv.WeightGradient.apply(u, dv, w.shape, _spec(plan))


def _before_convolution(x, s, f, plan, kernels):
    u = ScaleChannels.apply(x, s, kernels)
    return u if plan.before is None else Upfirdn2d.apply(u, f if plan.filtered else None, plan.before, kernels.backend)


def _convolve(u, w, plan):
    kind = _conv.ConvTranspose2d if plan.convolution.transposed else _conv.Conv2d
    return kind.apply(u, w, None, _spec(plan))


def _spec(plan: Plan) -> _conv.ConvolutionOptions:
    step = plan.convolution
    return _conv.ConvolutionOptions((step.stride, step.stride), step.padding)


def modulated_conv2d(
    backend: str,
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
    factors: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `hsr_kernels.modulated_conv2d`; `factors` are those of demodulation, if they are there already."""
    layer = Layer.of(ops.kernels[backend], x, weight, plan, demodulate, flip_weight, epilogue)
    return run(layer, x, weight, styles, noise, f, bias, factors)


def run(
    layer: Layer,
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    noise: torch.Tensor | None,
    f: torch.Tensor | None,
    bias: torch.Tensor | None,
    factors: torch.Tensor | None = None,
) -> torch.Tensor:
    """Computes y of a layer from its tensors, which are those that it was decided for or like them."""
    if layer.is_small_projection:
        y = _project(x, weight, styles)
        y = y if noise is None else y + noise.to(y.dtype)
        return bias_act(layer.kernels.backend, y, bias, 1, layer.epilogue)

    dtype = accumulation_dtype(x.dtype)
    w, s, d = parameters(layer, x, weight, styles, factors)
    if noise is not None:
        noise = cast(noise, dtype)
        # Kernels take maps only: a map is small beside the images, and a single number isn't worth kernels of its own.
        if noise.ndim == 0:
            size = layer.plan.output_size(x, (weight.shape[2], weight.shape[3]), filter_taps(f))
            noise = noise.expand(1, 1, *size).contiguous()
    b = cast(bias, dtype) if layer.is_fused and bias is not None else None
    y = ModulatedConv2d.apply(x, w, cast(s, dtype), d, noise, b, f, layer)
    return y if layer.is_fused else bias_act(layer.kernels.backend, y, bias, 1, layer.epilogue)


def _project(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """Computes a 1x1 modulated convolution as one small matrix product per sample."""
    n, c, h, w = x.shape
    scaled_weight = (weight[:, :, 0, 0] * styles[:, None, :]).to(x.dtype)
    if is_channels_last(x):
        y = x.permute(0, 2, 3, 1).reshape(n, h * w, c) @ scaled_weight.transpose(1, 2)
        return y.reshape(n, h, w, weight.shape[0]).permute(0, 3, 1, 2)
    return (scaled_weight @ x.reshape(n, c, h * w)).reshape(n, weight.shape[0], h, w)
