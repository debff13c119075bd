# SPDX-License-Identifier: Apache-2.0
"""The route of each pass of a modulated layer on the triton backend, and the reason for it.

    fused        one kernel: an implicit GEMM with the style scale in its loads and the epilogue in its stores
    convolution  PyTorch's convolution (cuDNN) between one pass that scales and one that does the epilogue

Which is faster depends on the chip and on the shape, and only measurements tell: see `_dispatch/measured.py`. Far from
all measurements it is the convolution. The other backends, and layers that resample, have no fused kernels.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from .. import _precision
from .._dispatch import measured, operators, request
from .._dispatch.request import CONVOLUTION, FUSED
from .._tensors import is_channels_last
from ..upfirdn2d.geometry import Geometry

OP = "modulated_conv2d"
PASSES = ("forward", "input gradient", "weight gradient")
# A column of tensor-core tiles holds this many output channels. A layer with no more, such as ToRGB, is memory-bound.
MAX_MEMORY_BOUND_OUTPUTS = 16
# A FIR of more taps reads the pixels of its images too often to be fused with the epilogue's gradient.
MAX_FUSED_TAPS = 6
# Fewer channels aren't read in vectors, for which that kernel lacks registers.
MIN_FUSED_CHANNELS = 16
# Sums over more of them would take too many registers.
MAX_PROJECTION_OUTPUTS = 4


class Routes(NamedTuple):
    """The route of each of PASSES."""

    forward: str = CONVOLUTION
    input_gradient: str = CONVOLUTION
    weight_gradient: str = CONVOLUTION

    def is_projection(self, w: torch.Tensor) -> bool:
        """Whether one kernel takes both backward passes: with a weight w [o, c, 1, 1] to an image's few channels."""
        takes_fused = self.input_gradient == self.weight_gradient == FUSED
        return takes_fused and w.shape[2:] == (1, 1) and w.shape[0] <= MAX_PROJECTION_OUTPUTS


def products(dtype: torch.dtype) -> str:
    """Returns how elements are multiplied: "half", or for float32 "tf32", where convolutions may use it, or "ieee"."""
    if dtype != torch.float32:
        return "half"
    return "tf32" if _precision.convolutions_use_tf32() else "ieee"


def problem(direction: str, kernel: int, c: int, o: int, pixels: int, product_kind: str) -> measured.Problem:
    """Returns the problem that one of PASSES is.

    Args:
        direction: Which of PASSES.
        kernel, c, o: Those of the layer's weight [o, c, kernel, kernel].
        pixels: Of an image.
        product_kind: As `products` returns it.
    """
    return measured.Problem(OP, f"{direction} {kernel}x{kernel}", product_kind, "channels_last", (c, o, pixels))


def is_fir_fused(y: torch.Tensor, f: torch.Tensor | None, fir: Geometry) -> bool:
    """Whether one Triton kernel takes the epilogue's gradient and the transpose `fir` of the FIR before it."""
    is_short = f is not None and f.ndim == 1 and f.shape[0] <= MAX_FUSED_TAPS
    has_vectors = is_channels_last(y) and y.shape[1] >= MIN_FUSED_CHANNELS
    return is_short and has_vectors and fir.up == fir.down == (1, 1)


def choose(backend: str, x: torch.Tensor, weight: torch.Size, resamples: bool) -> Routes:
    """Returns the routes of the layer that takes images x and weights of shape [o, c, kh, kw]."""
    if backend == "cuda" and request.ROUTE.value() == FUSED:
        operators.warn_once(OP, "takes the convolution route: only the triton backend has fused kernels")
    if backend != "triton" or resamples:
        return Routes()
    return Routes(*(route(direction, x, weight)[0] for direction in PASSES))


def route(direction: str, x: torch.Tensor, weight: torch.Size) -> tuple[str, str]:
    """Returns (route, reason) of one of PASSES, on the triton backend, of a layer that doesn't resample."""
    o, c, kh, kw = weight
    if kh != kw or kh not in (1, 3):
        return CONVOLUTION, f"the fused kernels compute 1x1 and 3x3 convolutions, not {kh}x{kw}"
    if not is_channels_last(x):
        return CONVOLUTION, "the fused kernels take only channels_last images"
    if requested := request.ROUTE.value():
        return requested, "it was requested"
    if kh == 1 and o <= MAX_MEMORY_BOUND_OUTPUTS:
        return FUSED, "with so few output channels it is memory-bound, and this route reads the images only once"
    # The size matters only where it was measured: a compiled graph shouldn't depend on it elsewhere.
    pixels = x.shape[2] * x.shape[3] if measured.covers(OP, x.device) else 0
    return _fastest(direction, kh, c, o, pixels, x.dtype, x.device)


def _fastest(
    direction: str, kernel: int, c: int, o: int, pixels: int, dtype: torch.dtype, device: torch.device
) -> tuple[str, str]:
    """Returns the route that was measured to be faster, and the reason: constants to torch.compile."""
    pass_problem = problem(direction, kernel, c, o, pixels, products(dtype))
    return measured.fastest(pass_problem, device, (CONVOLUTION, FUSED))


_fastest._dynamo_marked_constant = True  # type: ignore[attr-defined]


def describe(x: torch.Tensor | None = None, weight: torch.Tensor | None = None, *_: torch.Tensor) -> Iterator[str]:
    """Yields a sentence for each pass of the layer with images x and this weight, for `hsr_kernels.explain`."""
    if x is None or weight is None or x.ndim != 4 or weight.ndim != 4:
        yield 'give x and weight to see the routes: explain("modulated_conv2d", x, weight)'
        return
    for direction in PASSES:
        taken, reason = route(direction, x, weight.shape)
        yield f"{direction} of a layer that doesn't resample: {taken} ({reason})"
