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
from .._tensors import accumulation_dtype, is_channels_last
from ..bias_act.activations import Epilogue
from ..bias_act.autograd import bias_act
from ..conv2d import autograd as _conv
from ..conv2d_resample.plan import Plan
from ..upfirdn2d.autograd import Upfirdn2d
from ..upfirdn2d.geometry import filter_taps
from . import ops
from .demodulation import parameters, plus
from .routes import FUSED, Routes
from .routes import choose as choose_routes

_IDENTITY = Epilogue("linear", 0.0, 1.0, -1.0)


@Function
class ScaleChannels(torch.autograd.Function):
    """u = x * s, in channels_last; bilinear."""

    @staticmethod
    def forward(x, s, backend):
        return ops.scale_channels[backend](x, s)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.backend = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, du):
        return *ScaleChannelsBackward.apply(du, *ctx.saved_tensors, ctx.backend), None


@Function
class ScaleChannelsBackward(torch.autograd.Function):
    """(dx, ds) from du; dx in the layout of x."""

    @staticmethod
    def forward(du, x, s, backend):
        return ops.scale_channels_bwd[backend](du, x, s)

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        *tensors, ctx.backend = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, ddx, dds):
        du, x, s = ctx.saved_tensors
        # The kernel has no derivatives of its own.
        if ctx.backend in ops.scale_channels_bwd_bwd and not torch.is_grad_enabled():
            return *ops.scale_channels_bwd_bwd[ctx.backend](ddx, dds, du, x, s), None
        ddu, ds = ScaleChannelsBackward.apply(ddx, du, s, ctx.backend)
        ddu = ddu + ScaleChannels.apply(x, dds, ctx.backend)
        return ddu, ScaleChannels.apply(du, dds, ctx.backend), ds, None


@Function
class EpilogueBackward(torch.autograd.Function):
    """(dz, dd, dnoise, db) from dy, with what they need recovered from y; for piecewise linear activations."""

    @staticmethod
    def forward(dy, y, d, noise, b, epilogue, needs_dnoise, backend):
        run = ops.modulated_conv2d_epilogue_bwd[backend]
        dz, dd, db, dnoise = run(dy, y, d, noise, b, needs_dnoise, *epilogue.args)
        dnoise = dnoise.sum_to_size(noise.shape) if needs_dnoise else None
        return dz, dd if d is not None else None, dnoise, db if b is not None else None

    @staticmethod
    def setup_context(ctx, inputs, outputs):
        *tensors, ctx.epilogue, _, ctx.backend = inputs
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
    gdy, gy, gnoise, sums = ops.modulated_conv2d_epilogue_bwd_bwd[ctx.backend](
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
    def forward(x, w, s, d, noise, b, f, plan, epilogue, routes, backend):
        if routes.forward == FUSED:
            return ops.modulated_conv2d_layer[backend](x, w, s, d, noise, b, plan.convolution.padding, *epilogue.args)
        return convolution_route(x, w, s, d, noise, b, f, plan, epilogue, backend)

    @staticmethod
    def setup_context(ctx, inputs, y):
        *tensors, ctx.plan, ctx.epilogue, ctx.routes, ctx.backend = inputs
        x, w, *_, f = tensors
        # The images that go into the convolution have u_size, those that come out of it v_size.
        ctx.u_size, ctx.v_size, _ = ctx.plan.sizes(x, (w.shape[2], w.shape[3]), filter_taps(f))
        ctx.save_for_backward(*tensors, y)

    @staticmethod
    def backward(ctx, dy):
        x, w, s, d, noise, b, f, y = ctx.saved_tensors
        plan, backend = ctx.plan, ctx.backend
        needs_x, needs_w, needs_s = ctx.needs_input_grad[:3]
        needs_w = needs_w and not _conv.weight_gradients_disabled()
        needs_dnoise = ctx.needs_input_grad[4]
        dv, dd, dnoise, db = EpilogueBackward.apply(dy, y, d, noise, b, ctx.epilogue, needs_dnoise, backend)
        # The fused kernels have no derivatives of their own.
        routes = Routes() if torch.is_grad_enabled() else ctx.routes
        dx = ds = dw = None
        if plan.after is not None:
            dv = Upfirdn2d.apply(dv, f, plan.after.adjoint(ctx.v_size, filter_taps(f)), backend)
        needs_xs = needs_x or needs_s
        if needs_w and needs_xs and backend in ops.scale_channels_fwd_bwd and _has_joint_gradients(plan, routes):
            du = _input_gradient(dv, w, f, x, ctx.u_size, plan, backend)
            u, dx, ds = ops.scale_channels_fwd_bwd[backend](du, x, s)
            dw = _weight_gradient(u, dv, w, plan)
            return dx, dw, ds, dd, dnoise, db, None, None, None, None, None
        if needs_w and needs_xs and routes.is_projection(w):
            dx, ds, dw = ops.modulated_conv2d_projection_bwd[backend](dv, w, x, s)
            return dx, dw, ds, dd, dnoise, db, None, None, None, None, None
        if needs_w and routes.weight_gradient == FUSED:
            dw = ops.modulated_conv2d_layer_weight[backend](x, s, dv, w.shape[2:], plan.convolution.padding)
        elif needs_w:
            dw = weight_gradient(x, s, f, dv, w, plan, backend)
        if needs_xs and routes.input_gradient == FUSED:
            dx, ds = ops.modulated_conv2d_layer_bwd[backend](dv, w, x, s, plan.convolution.padding)
        elif needs_xs:
            dx, ds = input_gradient(dv, w, x, s, f, ctx.u_size, plan, backend)
        return dx, dw, ds, dd, dnoise, db, None, None, None, None, None


def convolution_route(x, w, s, d, noise, b, f, plan, epilogue, backend):
    """Computes y by the convolution route: PyTorch's convolution between the native operators."""
    v = _convolve(_before_convolution(x, s, f, plan, backend), w, plan)
    channels_last = is_channels_last(x)
    if plan.after is None:
        return ops.modulated_conv2d_epilogue[backend](v, d, noise, b, channels_last, *epilogue.args)
    g = plan.after
    fir = (f, g.up, g.down, g.padding, g.flip_filter, g.gain)
    return ops.modulated_conv2d_fir_epilogue[backend](v, *fir, d, noise, b, channels_last, *epilogue.args)


def _has_joint_gradients(plan: Plan, routes: Routes) -> bool:
    """Whether u, for the weight's gradient, can be had with the input's gradients in one pass, and nothing follows."""
    takes_convolution = FUSED not in (routes.input_gradient, routes.weight_gradient)
    return takes_convolution and plan.before is None and not torch.is_grad_enabled()


def input_gradient(dv, w, x, s, f, u_size, plan, backend):
    """Computes (dx, ds) by the convolution route, from the gradient dv of the convolution's output."""
    return ScaleChannelsBackward.apply(_input_gradient(dv, w, f, x, u_size, plan, backend), x, s, backend)


def _input_gradient(dv, w, f, x, u_size, plan, backend):
    """Computes du, the gradient of the scaled input."""
    spec = _spec(plan)
    if plan.convolution.transposed:
        du = _conv.Conv2d.apply(dv, w, None, spec)
    else:
        du = _conv.ConvTranspose2d.apply(dv, w, None, spec.transposed(u_size, dv.shape, w.shape))
    if plan.before is not None:
        before_f = f if plan.filtered else None
        du = Upfirdn2d.apply(du, before_f, plan.before.adjoint(x.shape[2:], filter_taps(before_f)), backend)
    return du


def weight_gradient(x, s, f, dv, w, plan, backend):
    """Computes dw by the convolution route, from the gradient dv of the convolution's output."""
    return _weight_gradient(_before_convolution(x, s, f, plan, backend), dv, w, plan)


def _weight_gradient(u, dv, w, plan):
    if plan.convolution.transposed:
        u, dv = dv, u
    return _conv.WeightGradient.apply(u, dv, w.shape, _spec(plan))


def _before_convolution(x, s, f, plan, backend):
    u = ScaleChannels.apply(x, s, backend)
    return u if plan.before is None else Upfirdn2d.apply(u, f if plan.filtered else None, plan.before, backend)


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
) -> torch.Tensor:
    """See `hsr_kernels.modulated_conv2d`."""
    routes = choose_routes(backend, x, weight.shape, plan.resamples)
    # The fused kernel needs no scaled weights: it scales the images as it reads them.
    if not demodulate and routes.forward != FUSED and _is_small_projection(weight, plan):
        y = _project(x, weight, styles)
        y = y if noise is None else y + noise.to(y.dtype)
        return bias_act(backend, y, bias, 1, epilogue)

    dtype = accumulation_dtype(x.dtype)
    w, s, d = parameters(backend, x, weight, styles, plan.convolution.transposed, demodulate, flip_weight)
    if noise is not None:
        noise = noise.to(dtype)
        # Kernels take maps only: a map is small beside the images, and a single number isn't worth kernels of its own.
        if noise.ndim == 0:
            size = plan.output_size(x, (weight.shape[2], weight.shape[3]), filter_taps(f))
            noise = noise.expand(1, 1, *size).contiguous()
    # The backward pass recovers the convolution's result from y, which only some activations allow.
    is_fused = epilogue.piecewise_linear and epilogue.from_output
    b = bias.to(dtype) if is_fused and bias is not None else None
    fused_epilogue = epilogue if is_fused else _IDENTITY
    y = ModulatedConv2d.apply(x, w, s.to(dtype), d, noise, b, f, plan, fused_epilogue, routes, backend)
    return y if is_fused else bias_act(backend, y, bias, 1, epilogue)


def _is_small_projection(weight: torch.Tensor, plan: Plan) -> bool:
    """Returns whether the layer is a 1x1 convolution to few channels (ToRGB): scaling its weights is cheaper."""
    is_pointwise = plan.before is None and plan.after is None and plan.convolution.padding == (0, 0)
    return is_pointwise and weight.shape[2:] == (1, 1) and weight.shape[0] * 4 <= weight.shape[1]


def _project(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """Computes a 1x1 modulated convolution as one small matrix product per sample."""
    n, c, h, w = x.shape
    scaled_weight = (weight[:, :, 0, 0] * styles[:, None, :]).to(x.dtype)
    if is_channels_last(x):
        y = x.permute(0, 2, 3, 1).reshape(n, h * w, c) @ scaled_weight.transpose(1, 2)
        return y.reshape(n, h, w, weight.shape[0]).permute(0, 3, 1, 2)
    return (scaled_weight @ x.reshape(n, c, h * w)).reshape(n, weight.shape[0], h, w)
