# SPDX-License-Identifier: Apache-2.0
"""Modulated convolution with its epilogue (demodulate, noise, bias, activation) fused.

reference             the specification, in plain PyTorch
autograd              a layer and its derivatives, by native operators and PyTorch's convolution
layer                 what is decided about a layer before its numbers matter
demodulation          weight, styles and demodulation factors, as the convolution and its epilogue take them
routes                the passes that are one Triton kernel, convolution included, and the reason for it
ops                   the native operators that the backends implement
cpu_impl              the CPU kernels
cuda_impl             the CUDA kernels
triton_impl           launches of the Triton kernels, and their tilings
triton_parameters     launches of the kernels of demodulation
triton_pointwise      kernels before and after the convolution
triton_demodulation   kernels of demodulation, and of its gradient
triton_fir_epilogue   kernels after it in a layer that upsamples
triton_fir_launches   launches of these
triton_conv           kernels with the convolution inside
triton_common         what these kernels share
gpu_common            what cuda_impl and triton_impl share
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch.compiler import is_compiling

from .. import _checks
from .._dispatch import operators, request
from .._dispatch.library import undispatched
from .._dispatch.replay import Calls, key_of
from ..bias_act.activations import Epilogue
from ..bias_act.activations import epilogue as epilogue_of
from ..conv2d_resample.plan import Plan, plan
from ..upfirdn2d.geometry import check_filter, filter_taps, native_limit
from . import autograd, reference, routes
from .layer import Layer

_operator = operators.register(
    "modulated_conv2d",
    reference=operators.on_reference(reference.modulated_conv2d),
    cpu=operators.on_cpu(autograd.modulated_conv2d),
    triton=operators.on_triton(autograd.modulated_conv2d, routes.describe),
    cuda=operators.on_cuda(autograd.modulated_conv2d),
)
_calls = Calls()


def modulated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    noise: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: torch.Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    *,
    bias: torch.Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> torch.Tensor:
    """y = clamp(act(conv(x * styles, weight) * d + noise + bias) * gain), d = rsqrt(sum((weight * styles)^2) + 1e-8).

    Args:
        x: [N, C, H, W], float32, float16, bfloat16 or float64; contiguous or channels_last.
        weight: [O, C, kh, kw], one for all samples; cast to the dtype of x for the convolution.
        styles: [N, C], the scale of each sample's input channels.
        noise: Added after demodulation: [N or 1, 1, H', W'], [H', W'], a scalar tensor or whatever else broadcasts to
            [N, 1, H', W']; None for none.
        up, down, padding, resample_filter, flip_weight: As in `conv2d_resample` (with f = resample_filter).
        demodulate: Scale each sample's output channels by d, a sum over C, kh and kw.
        bias: [O] or None.
        act, alpha, gain, clamp: As in `bias_act`; the default is linear with gain 1.

    Returns:
        [N, O, H', W'], dtype and layout of x.

    Raises:
        TypeError, ValueError: An argument of the wrong type, shape, dtype or device.

    Derivatives: every order, with respect to x, weight, styles, noise and bias. In float16 with demodulation, weight
    and styles are first scaled by their largest magnitudes, which demodulation cancels. The fast backends keep the
    output instead of the convolution's result: what a bias or noise far larger than that result has rounded away from
    the output is also missing in the gradient of the styles.

    Source: StyleGAN2 (Karras et al., CVPR 2020), equations 1 and 3.
    """
    key = None
    if not is_compiling() and isinstance(x, torch.Tensor) and not _checks.autocast_is_on(x.device):
        # The routes depend on the last two.
        of_routes = (request.ROUTE.used, routes.products(x.dtype))
        options = (up, down, padding, demodulate, flip_weight, act, alpha, gain, clamp, *of_routes)
        key = key_of((x, weight, styles, noise, resample_filter, bias), *options)
        if call := _calls.get(key):
            return call(x, weight, styles, noise, resample_filter, bias)
    x, weight, styles = _checks.autocast(x), _checks.autocast(weight), _checks.autocast(styles)
    resample_filter = check_filter(resample_filter)
    layer_plan = _validate(x, weight, styles, up, down, padding, resample_filter)
    epilogue = epilogue_of(act, alpha, gain, clamp, x.dtype)
    for name, value in (("noise", noise), ("bias", bias)):
        if value is not None:
            _checks.tensor(name, value)
    _checks.same_device("x", x, weight=weight, styles=styles, noise=noise, bias=bias, resample_filter=resample_filter)
    if bias is not None:
        _checks.shape("bias", bias, (weight.shape[0],))
    noise_shape = _noise_shape(noise, x, weight, layer_plan, resample_filter)
    choice = _operator.choose(x, native_limit(resample_filter, max(up, down)))
    of_layer = (layer_plan, bool(demodulate), bool(flip_weight), epilogue)
    noise = noise if noise is None or noise_shape is None else noise.expand(noise_shape).contiguous()
    y = _operator.run(choice, x.device, x, weight, styles, noise, resample_filter, *of_layer[:3], bias, epilogue)
    if key is not None and choice.backend != "reference":
        _calls.note(key, _repeatable(choice.backend, x, weight, resample_filter, noise_shape, *of_layer))
    return y


def _repeatable(
    backend: str,
    x: torch.Tensor,
    weight: torch.Tensor,
    f: torch.Tensor | None,
    noise_shape: tuple[int, ...] | None,
    layer_plan: Plan,
    demodulate: bool,
    flip_weight: bool,
    epilogue: Epilogue,
) -> Callable[..., torch.Tensor]:
    """Returns what a call with tensors like these does once its arguments are checked and its backend is chosen."""
    kernels = undispatched(__package__, backend)
    sizes = layer_plan.sizes(x, (weight.shape[2], weight.shape[3]), filter_taps(f))
    layer = replace(Layer.of(kernels, x, weight, layer_plan, demodulate, flip_weight, epilogue), sizes=sizes)

    def call(x, weight, styles, noise, f, bias):
        if noise is not None and noise_shape is not None and noise.shape != noise_shape:
            noise = noise.expand(noise_shape).contiguous()
        return autograd.run(layer, x, weight, styles, noise, check_filter(f), bias)

    return call


def _validate(x, weight, styles, up, down, padding, f) -> Plan:
    _checks.tensor("x", x, ndim=4)
    _checks.tensor("weight", weight, ndim=4)
    _checks.tensor("styles", styles, ndim=2)
    if weight.shape[1] != x.shape[1]:
        raise ValueError(
            f"weight must have shape [O, {x.shape[1]}, kh, kw] for x {list(x.shape)}, got {list(weight.shape)}"
        )
    _checks.shape("styles", styles, x.shape[:2])
    _checks.positive(up=up, down=down)
    _checks.not_empty("weight", weight)
    kernel = (weight.shape[2], weight.shape[3])
    return plan(kernel, filter_taps(f), up, down, _checks.padding4("padding", padding), flip_filter=False)


def _noise_shape(noise, x, weight, layer_plan: Plan, f) -> tuple[int, ...] | None:
    """Returns the shape [N or 1, 1, H', W'] that noise is to be expanded to; None for a scalar tensor and for none."""
    size = layer_plan.output_size(x, (weight.shape[2], weight.shape[3]), filter_taps(f))
    if noise is None or noise.ndim == 0:
        return None
    n = noise.shape[0] if noise.ndim == 4 else 1
    shape = (n, 1, *size)
    fits = noise.ndim <= 4 and all(a in (1, b) for a, b in zip(noise.shape[::-1], shape[::-1], strict=False))
    if not fits or n not in (1, x.shape[0]):
        raise ValueError(
            f"noise must be a scalar tensor or broadcast to [{x.shape[0]} or 1, 1, {size[0]}, {size[1]}], "
            f"got {list(noise.shape)}"
        )
    return shape
