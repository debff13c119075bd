# SPDX-License-Identifier: Apache-2.0
"""Launches of the Triton kernels of demodulation, which stand in triton_demodulation.py."""

import math

import torch

from .._tensors import NHWC, dense_image
from .._triton import launch_options, on_device_of
from .reference import EPS, MIN_MAGNITUDE
from .triton_demodulation import demodulation_bwd_kernel, demodulation_kernel

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


def demodulation_bwd(weight, styles, s, d, dw, dd, dtype, flip):
    weight, strides = _dense_weight(weight)
    styles, s, d, dd = styles.contiguous(), s.contiguous(), d.contiguous(), dd.contiguous()
    (o, c, kh, kw), n = weight.shape, styles.shape[0]
    dweight, energy, denergy = torch.empty_like(weight), d.new_empty((o, c)), torch.empty_like(d)
    factors = d.new_empty(n if dtype == torch.float16 else 0)
    if dw is not None and kh > 1 and dw.stride(2) != kw * dw.stride(3):
        dw = dw.contiguous()
    dw_strides = (0, 0, 0) if dw is None else (*dw.stride()[:2], dw.stride(3) if kw > 1 else dw.stride(2))
    with on_device_of(weight):
        demodulation_bwd_kernel[(o,)](
            weight, styles, s, d, dw, dd, dweight, energy, denergy, factors, n, o, c, kh * kw, int(flip), *strides,
            *dw_strides, (c * kh * kw) ** -0.5, MIN_MAGNITUDE,
            dtype == torch.float16, _SAMPLES, _CHANNELS, **launch_options(weight, _THREADS),
        )  # fmt: skip
    return dweight, denergy, energy, factors


def _dense_weight(weight: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
    """Returns a weight [O, C, kh, kw] without gaps, and its strides along channels and along taps."""
    weight, layout = dense_image(weight)
    return weight, (1, weight.shape[1]) if layout == NHWC else (weight[0, 0].numel(), 1)
