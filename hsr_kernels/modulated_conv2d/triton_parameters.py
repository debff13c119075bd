# SPDX-License-Identifier: Apache-2.0
"""Launches of the Triton kernels of demodulation, which stand in triton_demodulation.py."""

import math
from itertools import accumulate

import torch

from .._tensors import NHWC, dense_image
from .._triton import launch_options, on_device_of
from .gpu_common import with_equal_tap_strides
from .reference import EPS, MIN_MAGNITUDE
from .triton_demodulation import (
    demodulation_bwd_kernel,
    demodulation_each_bwd_kernel,
    demodulation_each_kernel,
    demodulation_kernel,
)

# Sides of a tile of styles.
_SAMPLES, _CHANNELS = 32, 64
_THREADS = 128
# Left to itself, ptxas spills registers, so that more programs fit; there aren't enough programs for that.
_MAX_REGISTERS = 255


def demodulation(weight, styles, dtype, flip, channels_last, needs_w, needs_s):
    weight, strides = _dense_weight(weight)
    styles, (o, c, *kernel), n = styles.contiguous(), weight.shape, styles.shape[0]
    d = torch.empty((n, o), dtype=torch.float32, device=weight.device)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    shape, taps = weight.shape if needs_w else (0, 0, 0, 0), math.prod(kernel)
    w = torch.empty(shape, dtype=dtype, device=weight.device, memory_format=memory_format)
    s = d.new_empty(styles.shape if needs_s else 0)
    if d.numel():
        with on_device_of(weight):
            demodulation_kernel[(o,)](
                weight, styles, w if needs_w else None, s if needs_s else None, d, n, o, c, taps, int(flip), *strides,
                *((1, c) if channels_last else (taps, 1)), (c * taps) ** -0.5, MIN_MAGNITUDE, EPS,
                dtype == torch.float16, _SAMPLES, _CHANNELS,
                **launch_options(weight, _THREADS, max_registers=_MAX_REGISTERS),
            )  # fmt: skip
    return w if needs_w else d.new_empty(0, dtype=dtype), s, d


def demodulation_bwd(weight, styles, s, d, dw, ds, dd, dtype, flip, needs_weight, needs_styles):
    (weight, strides), (dw, dw_strides) = _dense_weight(weight), with_equal_tap_strides(dw)
    styles, s, d, dd = styles.contiguous(), s.contiguous(), d.contiguous(), dd.contiguous()
    (o, c, kh, kw), n, is_scaled = weight.shape, styles.shape[0], dtype == torch.float16
    dweight = torch.empty_like(weight) if needs_weight else None
    energy, denergy = d.new_empty((o, c)), torch.empty_like(d)
    factors = d.new_empty((n, 1) if is_scaled else 0)
    with on_device_of(weight):
        demodulation_bwd_kernel[(o,)](
            weight, styles, s, d, dw, dd, dweight, energy, denergy, factors, n, o, c, kh * kw, int(flip), *strides,
            *dw_strides, (c * kh * kw) ** -0.5, MIN_MAGNITUDE, is_scaled, _SAMPLES, _CHANNELS,
            **launch_options(weight, _THREADS),
        )  # fmt: skip
    dweight = weight.new_empty(0) if dweight is None else dweight
    if not needs_styles:
        return dweight, styles.new_empty(0)
    return dweight, _styles_gradient(styles, s, ds, denergy, energy, factors)


def _dense_weight(weight: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
    """Returns a weight [O, C, kh, kw] without gaps, and its strides along channels and along taps."""
    weight, layout = dense_image(weight)
    return weight, _strides(weight, layout == NHWC)


def _strides(weight: torch.Tensor, channels_last: bool) -> tuple[int, int]:
    """Returns the strides along channels and along taps of a weight of this shape in a layout."""
    return (1, weight.shape[1]) if channels_last else (weight[0, 0].numel(), 1)


def demodulation_each(weights, styles, dtype, channels_last, needs_w, needs_s):
    weights, strides = zip(*map(_dense_weight, weights), strict=True)
    styles, n = tuple(t.contiguous() for t in styles), styles[0].shape[0]
    starts, *sizes, scales = _sizes(weights)
    d = tuple(t.new_empty((n, t.shape[0]), dtype=torch.float32) for t in weights)
    formats = [torch.channels_last if last else torch.contiguous_format for last in channels_last]
    w = s = None
    if needs_w:
        w = tuple(torch.empty_like(t, dtype=dtype, memory_format=f) for t, f in zip(weights, formats, strict=True))
    if needs_s:
        s = tuple(torch.empty_like(t, dtype=torch.float32) for t in styles)
    if n:
        w_strides = zip(*map(_strides, weights, channels_last), strict=True)
        with on_device_of(weights[0]):
            demodulation_each_kernel[(starts[-1],)](
                weights, styles, w, s, d, starts[:-1], *sizes, *zip(*strides, strict=True),
                *w_strides, scales, n, MIN_MAGNITUDE, EPS, dtype == torch.float16, _SAMPLES,
                _CHANNELS, **launch_options(weights[0], _THREADS, max_registers=_MAX_REGISTERS),
            )  # fmt: skip
    return [*(w or (t.new_empty(0, dtype=dtype) for t in weights)), *(s or (t.new_empty(0) for t in d)), *d]


def demodulation_each_bwd(weights, styles, s, d, dw, ds, dd, dtype):
    weights, strides = zip(*map(_dense_weight, weights), strict=True)
    styles, s, d, dd = (tuple(t.contiguous() for t in tensors) for tensors in (styles, s, d, dd))
    n, is_scaled, (starts, *sizes, scales) = styles[0].shape[0], dtype == torch.float16, _sizes(weights)
    dw, dw_strides = zip(*map(with_equal_tap_strides, dw or [None] * len(weights)), strict=True)
    dweights, denergy = tuple(map(torch.empty_like, weights)), tuple(map(torch.empty_like, d))
    energy = tuple(t.new_empty(weight.shape[:2]) for t, weight in zip(d, weights, strict=True))
    factors = tuple(t.new_empty((n, 1) if is_scaled else 0) for t in d)
    with on_device_of(weights[0]):
        demodulation_each_bwd_kernel[(starts[-1],)](
            weights, styles, s, d, None if dw[0] is None else dw, dd, dweights, energy, denergy, factors, starts[:-1],
            *sizes, *zip(*strides, strict=True), *zip(*dw_strides, strict=True), scales, n, MIN_MAGNITUDE, is_scaled,
            _SAMPLES, _CHANNELS, **launch_options(weights[0], _THREADS),
        )  # fmt: skip
    of_layers = zip(styles, s, ds, denergy, energy, factors, strict=True)
    return [*dweights, *(_styles_gradient(*of_layer) for of_layer in of_layers)]


def _styles_gradient(styles, s, ds, denergy, energy, factors):
    gradient = denergy @ energy
    ds = s * gradient if ds is None else torch.addcmul(ds, s, gradient)
    return (ds * factors if factors.numel() else ds).to(styles.dtype)


def _sizes(weights):
    """Returns what kernels know of weights [O, C, kh, kw]: first programs and their number, O, C, taps, and scales."""
    o, c, *_ = zip(*(t.shape for t in weights), strict=True)
    taps = tuple(t[0, 0].numel() for t in weights)
    starts = tuple(accumulate(o, initial=0))
    return starts, o, c, taps, tuple(t[0].numel() ** -0.5 for t in weights)
