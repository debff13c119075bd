# SPDX-License-Identifier: Apache-2.0
"""Which route each pass of a modulated layer that doesn't resample is faster on, on the triton backend.

What is timed is what the layer's autograd Function calls: the fused operator of a pass, or the function that runs the
pass around PyTorch's convolution. Each is captured as a CUDA graph.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from hsr_kernels._dispatch import measured
from hsr_kernels._dispatch.measured import Measurement, Problem
from hsr_kernels._dispatch.request import CONVOLUTION, FUSED, ROUTES
from hsr_kernels.bias_act.activations import epilogue
from hsr_kernels.conv2d_resample.plan import plan
from hsr_kernels.modulated_conv2d import autograd, ops
from hsr_kernels.modulated_conv2d.routes import PASSES, problem

from .. import device
from ..variants import TRITON

# As training has them: the larger the images, the fewer.
MIN_BATCH, MAX_BATCH = 4, 32
MAX_PIXELS_PER_BATCH = 2**19


@dataclass(frozen=True)
class Layer:
    """A layer with weight [outputs, inputs, kernel, kernel]; `products` as in `routes.products`."""

    kernel: int
    inputs: int
    outputs: int
    pixels: int
    products: str

    def __str__(self) -> str:
        shape = f"{self.kernel}x{self.kernel}, {self.inputs} -> {self.outputs} channels, {self.pixels} pixels"
        return f"{shape}, {self.products}"

    @property
    def batch(self) -> int:
        return max(MIN_BATCH, min(MAX_BATCH, MAX_PIXELS_PER_BATCH // self.pixels))

    def problem(self, direction: str) -> Problem:
        """What the library's table knows one of its passes by."""
        return problem(direction, self.kernel, self.inputs, self.outputs, self.pixels, self.products)


def _generator_layer(kernel: int, side: int, products: str) -> Layer:
    channels = min(512, 32768 // side)
    return Layer(kernel, channels, channels, side**2, products)


# Those of StyleGAN2's generators, the most usual first; 1x1 is what other generators have. As a measurement speaks for
# layers of about its size, those that are like these have no line of their own.
LAYERS = (
    *(_generator_layer(3, side, "half") for side in (16, 32, 64, 128, 256, 512)),
    *(_generator_layer(3, side, "half") for side in (4, 8, 1024)),
    *(_generator_layer(3, side, "tf32") for side in (4, 8, 16, 32, 64, 128, 256)),
    *(_generator_layer(1, side, "half") for side in (16, 64, 256)),
    *(_generator_layer(3, side, "ieee") for side in (8, 32, 128)),
)
# The number of LAYERS, from the first, where mixed-precision training spends its time.
USUAL_LAYERS = 6
TINY_LAYERS = (Layer(3, 8, 4, 64, "half"), Layer(1, 4, 32, 16, "tf32"))


@contextmanager
def _multiplying(products: str) -> Iterator[None]:
    """Lets float32 be multiplied as tf32 or as IEEE numbers."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = products == "tf32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def passes(layer: Layer, device_name: str, backend: str) -> dict[tuple[str, str], Callable[[], Any]]:
    """Returns each pass of a layer on each route, by (pass, route).

    Each is alone: two backward passes by the convolution route would share the scaled images.
    """
    side, kernel = math.isqrt(layer.pixels), (layer.kernel, layer.kernel)
    dtype = torch.bfloat16 if layer.products == "half" else torch.float32
    pad = layer.kernel // 2
    layer_plan = plan(kernel, (1, 1), 1, 1, (pad, pad, pad, pad), flip_filter=False)
    applied = epilogue("lrelu", None, None, 256.0, dtype)
    padding = layer_plan.convolution.padding

    def images(channels: int) -> torch.Tensor:
        values = torch.randn(layer.batch, channels, side, side, dtype=dtype, device=device_name)
        return values.contiguous(memory_format=torch.channels_last)

    def vector(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device_name)

    x, dv, s = images(layer.inputs), images(layer.outputs), vector(layer.batch, layer.inputs)
    w = vector(layer.outputs, layer.inputs, *kernel).to(dtype)
    vectors = vector(layer.batch, layer.outputs), vector(layer.batch, 1, side, side), vector(layer.outputs)
    forward, input_gradient, weight_gradient = PASSES
    kernels = ops.kernels[backend]
    calls: dict[tuple[str, str], Callable[[], Any]] = {
        (forward, CONVOLUTION): partial(
            autograd.convolution_route, x, w, s, *vectors, None, layer_plan, applied, kernels
        ),
        (input_gradient, CONVOLUTION): partial(
            autograd.input_gradient, dv, w, x, s, None, (side, side), layer_plan, kernels
        ),
        (weight_gradient, CONVOLUTION): partial(autograd.weight_gradient, x, s, None, dv, w, layer_plan, kernels),
    }
    if backend == TRITON:
        calls |= {
            (forward, FUSED): partial(kernels.modulated_conv2d_layer, x, w, s, *vectors, padding, *applied.args),
            (input_gradient, FUSED): partial(kernels.modulated_conv2d_layer_bwd, dv, w, x, s, padding),
            (weight_gradient, FUSED): partial(kernels.modulated_conv2d_layer_weight, x, s, dv, kernel, padding),
        }
    return calls


def run_all(layer: Layer, device_name: str) -> None:
    """Runs every pass of a layer on both routes, once."""
    with _multiplying(layer.products), torch.no_grad():
        for call in passes(layer, device_name, TRITON).values():
            call()


def measure_routes(layer: Layer, direction: str) -> Measurement:
    """Times one pass of a layer on both routes; in a rehearsal the convolution stands in for the fused kernel."""
    microseconds = {}
    backend = "cpu" if device.rehearsing() else TRITON
    with _multiplying(layer.products), torch.no_grad():
        calls = passes(layer, device.name(), backend)
        for route in ROUTES:
            call = calls.get((direction, route), calls[direction, CONVOLUTION])
            microseconds[route] = 1e6 * device.timed(device.captured(call)).median
    chip = measured.chip(torch.device(device.name()))
    return Measurement(chip, layer.problem(direction), microseconds)
