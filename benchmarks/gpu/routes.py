# SPDX-License-Identifier: Apache-2.0
"""Which route each pass of a modulated layer is faster on: measures what hsr_kernels' routes.csv holds."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from hsr_kernels import _tables, use_backend, use_route
from hsr_kernels.modulated_conv2d import ops
from hsr_kernels.modulated_conv2d.routes import CONVOLUTION, FUSED, PASSES, Layer, Measurement

from . import device as gpu

_CLAMPED_LRELU = (2, 0.2, math.sqrt(2), 256.0)  # code, alpha, gain, clamp


def _layer(kernel: int, side: int, products: str) -> Layer:
    channels = min(512, 32768 // side)
    return Layer(kernel, channels, channels, side**2, products)


# Those of StyleGAN2's generators, the most usual first; 1x1 is what other generators have. Layers that can't be seen
# apart from these (routes.Layer.far_from) need no line of their own.
LAYERS = (
    *(_layer(3, side, "half") for side in (16, 32, 64, 128, 256, 512)),
    *(_layer(3, side, "half") for side in (4, 8, 1024)),
    *(_layer(3, side, "tf32") for side in (4, 8, 16, 32, 64, 128, 256)),
    *(_layer(1, side, "half") for side in (16, 64, 256)),
    *(_layer(3, side, "ieee") for side in (8, 32, 128)),
)
USUAL = 6  # so many of LAYERS are where mixed-precision training spends its time
TINY = (Layer(3, 8, 4, 64, "half"), Layer(1, 4, 32, 16, "tf32"))


def _batch(layer: Layer) -> int:
    """As training has it: the larger the images, the fewer."""
    return max(4, min(32, 2**19 // layer.pixels))


@contextmanager
def _multiplying(products: str) -> Iterator[None]:
    """float32 as tf32 or as IEEE numbers."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = products == "tf32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _passes(layer: Layer, device: str) -> dict[str, Callable[[], Any]]:
    """The passes of a layer, ready to run."""
    n, side, pad = _batch(layer), math.isqrt(layer.pixels), layer.kernel // 2
    dtype = torch.bfloat16 if layer.products == "half" else torch.float32

    def image(channels: int, height: int) -> torch.Tensor:
        values = torch.randn(n, channels, height, height, dtype=dtype, device=device)
        return values.contiguous(memory_format=torch.channels_last)

    def vector(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device)

    x, dz, s = image(layer.c, side), image(layer.o, side), vector(n, layer.c)
    w = torch.randn(layer.o, layer.c, layer.kernel, layer.kernel, device=device).to(dtype)
    added = vector(n, layer.o), vector(n, 1, side, side), vector(layer.o)
    padding = [pad, pad]
    calls = (
        partial(ops.layer_op, x, w, s, *added, padding, *_CLAMPED_LRELU),
        partial(ops.layer_bwd_op, dz, w, x, s, padding),
        partial(ops.layer_weight_op, x, s, dz, list(w.shape[2:]), padding),
    )
    return dict(zip(PASSES, calls, strict=True))


def run_fused(layer: Layer, device: str) -> None:
    """Every pass of a layer by its kernel, once."""
    with _multiplying(layer.products), use_route(FUSED):
        for call in _passes(layer, device).values():
            call()


def measure(layer: Layer, direction: str) -> Measurement:
    """Times one pass of a layer on both routes, as CUDA graphs."""
    times = {}
    with _multiplying(layer.products):
        call = _passes(layer, gpu.name())[direction]
        for route in (FUSED, CONVOLUTION):
            with use_backend(gpu.backend("triton")), use_route(route):  # the cuda backend knows one route only
                times[route] = 1e6 * gpu.timed(gpu.captured(call)).median
    chip = _tables.chip(torch.device(gpu.name()))
    return Measurement(chip, direction, layer, times[FUSED], times[CONVOLUTION])
