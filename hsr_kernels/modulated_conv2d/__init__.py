# SPDX-License-Identifier: Apache-2.0
"""Modulated convolution with its epilogue (demodulate, noise, bias, activation) fused.

reference             the specification, in plain PyTorch
autograd              a layer and its derivatives, by native operators and PyTorch's convolution
layer                 what is decided about a layer before its numbers matter
demodulation          weight, styles and demodulation factors, as the convolution and its epilogue take them
demodulation_each     those of several layers at once
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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch.compiler import is_compiling

from .. import _checks
from .._dispatch import operators, request
from .._dispatch.library import undispatched
from .._dispatch.replay import Calls, is_autocast_on, key_of
from ..bias_act.activations import Epilogue
from ..bias_act.activations import epilogue as epilogue_of
from ..conv2d_resample.plan import Plan, plan
from ..upfirdn2d.geometry import check_filter, filter_taps, native_limit
from . import autograd, reference, routes
from .demodulation_each import Demodulated, Preparation
from .layer import Layer

_operator = operators.register(
    "modulated_conv2d",
    reference=operators.on_reference(reference.modulated_conv2d),
    cpu=operators.on_cpu(autograd.modulated_conv2d),
    triton=operators.on_triton(autograd.modulated_conv2d, routes.describe),
    cuda=operators.on_cuda(autograd.modulated_conv2d),
)
_calls, _preparations = Calls(), Calls()


def modulated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    noise: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: torch.Tensor | None = None,
    demodulate: bool | torch.Tensor = True,
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
        demodulate: Scale each sample's output channels by d, a sum over C, kh and kw; or d itself, [N, O], where
            `modulated_conv2d_parameters` has computed it with this weight and these styles.
        bias: [O] or None.
        act, alpha, gain, clamp: As in `bias_act`; the default is linear with gain 1.

    Returns:
        [N, O, H', W'], dtype and layout of x.

    Raises:
        TypeError, ValueError: An argument of the wrong type, shape, dtype or device.

    Derivatives: every order, with respect to x, weight, styles, noise, bias and d. In float16, before d is computed,
    weight and styles are scaled by their largest magnitudes, which demodulation cancels. The fast backends keep the
    output instead of the convolution's result: what a bias or noise far larger than that result has rounded away from
    the output is also missing in the gradients of the styles and of d.

    Source: StyleGAN2 (Karras et al., CVPR 2020), equations 1 and 3.
    """
    factors = demodulate if isinstance(demodulate, torch.Tensor) else None
    demodulate = factors is not None or bool(demodulate)
    key = None
    if not is_compiling() and isinstance(x, torch.Tensor) and not is_autocast_on():
        # The routes depend on the last two.
        of_routes = (request.ROUTE.used, routes.products(x.dtype))
        options = (up, down, padding, demodulate, flip_weight, act, alpha, gain, clamp, *of_routes)
        key = key_of((x, weight, styles, noise, resample_filter, bias, factors), *options)
        if call := _calls.get(key):
            return call(x, weight, styles, noise, resample_filter, bias, factors)
    x, weight, styles = _checks.autocast(x), _checks.autocast(weight), _checks.autocast(styles)
    resample_filter = check_filter(resample_filter)
    layer_plan = _validate(x, weight, styles, up, down, padding, resample_filter)
    epilogue = epilogue_of(act, alpha, gain, clamp, x.dtype)
    for name, value in (("noise", noise), ("bias", bias), ("demodulate", factors)):
        if value is not None:
            _checks.tensor(name, value)
    others = {"weight": weight, "styles": styles, "noise": noise, "bias": bias, "demodulate": factors}
    _checks.same_device("x", x, **others, resample_filter=resample_filter)
    if bias is not None:
        _checks.shape("bias", bias, (weight.shape[0],))
    if factors is not None:
        _checks.shape("demodulate", factors, (x.shape[0], weight.shape[0]))
    noise_shape = _noise_shape(noise, x, weight, layer_plan, resample_filter)
    choice = _operator.choose(x, native_limit(resample_filter, max(up, down)))
    of_layer = (layer_plan, demodulate, bool(flip_weight), epilogue)
    noise = noise if noise is None or noise_shape is None else noise.expand(noise_shape).contiguous()
    tensors = (x, weight, styles, noise, resample_filter)
    y = _operator.run(choice, x.device, *tensors, *of_layer[:3], bias, epilogue, factors)
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

    def call(x, weight, styles, noise, f, bias, factors):
        if noise is not None and noise_shape is not None and noise.shape != noise_shape:
            noise = noise.expand(noise_shape).contiguous()
        return autograd.run(layer, x, weight, styles, noise, check_filter(f), bias, factors)

    return call


def modulated_conv2d_parameters(
    layers: Iterable[tuple[torch.Tensor, torch.Tensor, torch.dtype, int]],
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Demodulates several layers at once: on the triton backend, in one launch for all layers that are alike.

    With (weight, styles, d) as they are returned, `modulated_conv2d(x, weight, styles, demodulate=d)` is what it would
    be with the layer's own weight and styles and `demodulate=True`.

    Args:
        layers: Of each, weight [O, C, kh, kw]; styles [N, C]; the dtype of its images; and its `up`, on which the
            layout of the returned weight depends, but no value.

    Returns:
        Of each layer, weight [O, C, kh, kw], styles [N, C] and d [N, O], which the dtype of the images has scaled and
        cast as `modulated_conv2d` does.

    Raises:
        TypeError, ValueError: An argument of the wrong type, shape, dtype or device.

    Derivatives: every order, with respect to weights and styles.

    Source: StyleGAN2 (Karras et al., CVPR 2020), equations 1 and 3.
    """
    columns = [*zip(*layers, strict=True)]
    if not columns:
        return []
    weights, styles, dtypes, ups = columns
    key = None
    if not is_compiling() and isinstance(weights[0], torch.Tensor) and not is_autocast_on():
        key = key_of((*weights, *styles), dtypes, ups)
        if call := _preparations.get(key):
            return call(weights, styles)
    checked = [_checked(f"layers[{i}]", *layer) for i, layer in enumerate(zip(*columns, strict=True))]
    first = checked[0].weight
    for i, layer in enumerate(checked):
        _checks.same_device("layers[0].weight", first, **{f"layers[{i}].weight": layer.weight})
    backend = _operator.choose(first).backend
    prepare = Preparation.of(backend, checked).run
    if key is not None and backend != "reference":
        _preparations.note(key, prepare)
    weights, styles, *_ = zip(*checked, strict=True)
    return operators.without_autocast(first.device, prepare, weights, styles)


def _checked(name: str, weight: torch.Tensor, styles: torch.Tensor, dtype: torch.dtype, up: int) -> Demodulated:
    weight, styles = _checks.autocast(weight), _checks.autocast(styles)
    _checks.tensor(f"{name}.weight", weight, ndim=4)
    _checks.not_empty(f"{name}.weight", weight)
    _checks.tensor(f"{name}.styles", styles, ndim=2)
    _checks.shape(f"{name}.styles", styles, (styles.shape[0], weight.shape[1]))
    _checks.same_device(f"{name}.weight", weight, **{f"{name}.styles": styles})
    if dtype not in _checks.FLOATS:
        raise TypeError(f"{name}.dtype must be float32, float16, bfloat16 or float64, got {dtype}")
    _checks.positive(**{f"{name}.up": up})
    # A convolution that upsamples is a transposed one, whose weight isn't read in the order of the images.
    return Demodulated(weight, styles, _checks.autocast_dtype(dtype, weight.device), channels_last=up == 1)


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
