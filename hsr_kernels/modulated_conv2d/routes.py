# SPDX-License-Identifier: Apache-2.0
"""Which way a modulated layer that doesn't resample takes on a GPU, pass by pass, and why.

    fused        one kernel: an implicit GEMM with the style scale in its loads and the epilogue in its stores
    convolution  PyTorch's convolution (cuDNN) between one pass that scales and one that does the epilogue

Which is faster depends on the chip and on the shape, and is known from measurements only. They stand in routes.csv,
one line per pass, layer and chip, as `python -m benchmarks gpu-report` writes them; the measured layer that is most
like the one at hand decides. Far from all measurements the convolution is taken.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import torch

from .. import _precision, _tables
from .._registry import is_channels_last

FUSED, CONVOLUTION = "fused", "convolution"
PASSES = ("forward", "input gradient", "weight gradient")
FEW = 16  # output channels that one column of tensor-core tiles holds: ToRGB
_TABLE = Path(__file__).with_name("routes.csv")
_ROUTE = "HSR_KERNELS_ROUTE"
ENVIRONMENT = "HSR_KERNELS_ROUTES"  # names a table to be read instead of routes.csv
_REACH = 2.0  # a measured layer speaks for layers with up to so many times (as a power of 2) its size
_requested: str | None = None


@dataclass(frozen=True)
class Layer:
    """A layer's shape: weight [o, c, kernel, kernel] over maps of `pixels`; `products` is "half", "tf32" or "ieee"."""

    kernel: int
    c: int
    o: int
    pixels: int
    products: str

    def far_from(self, other: "Layer") -> float:
        """How unlike two layers are: in powers of 2 of channels and pixels; infinite where no comparison holds."""
        if (self.kernel, self.products) != (other.kernel, other.products):
            return math.inf
        pairs = ((self.c, other.c), (self.o, other.o), (self.pixels, other.pixels))
        return sum(abs(math.log2(a / b)) for a, b in pairs)


@dataclass(frozen=True)
class Measurement:
    """Microseconds of both routes for one pass of a layer on a chip ("9.0": its compute capability)."""

    chip: str
    direction: str
    layer: Layer
    fused: float
    convolution: float

    @property
    def faster(self) -> str:
        return FUSED if self.fused < self.convolution else CONVOLUTION


class use_route:
    """Makes modulated layers on GPUs take one route: `use_route("fused")`, or `with use_route("convolution"): ...`.

    Acts at once in the whole process, wherever a layer has both routes, which it has on the triton backend alone; as a
    context manager it restores the earlier setting on exit. It outranks the environment variable HSR_KERNELS_ROUTE.
    `use_route(None)`: as measured.

    Args:
        name: "fused", "convolution" or None.

    Raises:
        ValueError: The name isn't a route's.
    """

    def __init__(self, name: str | None) -> None:
        global _requested
        self._before = _requested
        _requested = None if name is None else _known(name, "route")

    def __enter__(self) -> "use_route":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _requested
        _requested = self._before


def _known(name: str, what: str) -> str:
    if name not in (FUSED, CONVOLUTION):
        raise ValueError(f"{what} must be {FUSED} or {CONVOLUTION}, got {name!r}")
    return name


def products(dtype: torch.dtype) -> str:
    """How elements are multiplied: 16-bit, or float32 as tf32, where convolutions may, or as IEEE numbers."""
    if dtype != torch.float32:
        return "half"
    return "tf32" if _precision.convolutions_use_tf32() else "ieee"


def choose(direction: str, x: torch.Tensor, weight: torch.Size | tuple[int, ...]) -> tuple[str, str]:
    """(route, reason) of one of PASSES of the layer that takes images x and weights of shape [o, c, kh, kw]."""
    o, c, kh, kw = weight
    if kh != kw or kh not in (1, 3):
        return CONVOLUTION, f"the fused kernels know 1x1 and 3x3, not {kh}x{kw}"
    if not is_channels_last(x):
        return CONVOLUTION, "the fused kernels know channels_last images only"
    wanted = _requested or os.environ.get(_ROUTE)
    if wanted:
        return _known(wanted, _ROUTE), "it was requested"
    if kh == 1 and o <= FEW:
        return FUSED, "so few outputs are bound by memory, and it reads the images once"
    layer = Layer(kh, c, o, max(x.shape[2] * x.shape[3], 1), products(x.dtype))
    return _measured(direction, layer, _tables.chip(x.device), os.environ.get(ENVIRONMENT) or str(_TABLE))


def describe(x: torch.Tensor | None = None, weight: torch.Tensor | None = None, *_: torch.Tensor) -> Iterator[str]:
    """For `hsr_kernels.explain`: a sentence for each pass of the layer with images x and this weight."""
    if x is None or weight is None or x.ndim != 4 or weight.ndim != 4:
        yield 'give x and weight to see the routes: explain("modulated_conv2d", x, weight)'
        return
    for direction in PASSES:
        route, reason = choose(direction, x, weight.shape)
        yield f"{direction} of a layer that doesn't resample: {route} ({reason})"


@lru_cache(maxsize=1024)
def _measured(direction: str, layer: Layer, on: str, table: str) -> tuple[str, str]:
    near = [m for m in read(table) if (m.chip, m.direction) == (on, direction)]
    nearest = min(near, key=lambda m: layer.far_from(m.layer), default=None)
    if nearest is None:
        return CONVOLUTION, "nothing has been measured on this chip; python -m benchmarks gpu-report does"
    if layer.far_from(nearest.layer) > _REACH:
        return CONVOLUTION, "no layer like this has been measured on this chip"
    like = nearest.layer
    return nearest.faster, (
        f"measured for {like.kernel}x{like.kernel}, {like.c} -> {like.o} channels, {like.pixels} pixels: "
        f"fused {nearest.fused:.0f} µs, convolution {nearest.convolution:.0f} µs"
    )


HEADER = ("chip", "pass", "kernel", "c", "o", "pixels", "products", "fused_us", "convolution_us")


@lru_cache(maxsize=8)
def read(table: str) -> tuple[Measurement, ...]:
    """The measurements in a file.

    Raises:
        ValueError: It isn't such a file; the message says where.
    """
    return _tables.read(table, HEADER, _parsed)


def _parsed(row: Mapping[str, str]) -> Measurement:
    kernel, c, o, pixels = (int(row[name]) for name in ("kernel", "c", "o", "pixels"))
    layer = Layer(kernel, c, o, pixels, row["products"])
    return Measurement(row["chip"], row["pass"], layer, float(row["fused_us"]), float(row["convolution_us"]))


def write(table: Path, measurements: list[Measurement]) -> None:
    """What `read` reads; to be copied over routes.csv, or named by HSR_KERNELS_ROUTES."""
    rows = []
    for m in measurements:
        shape = (m.layer.kernel, m.layer.c, m.layer.o, m.layer.pixels, m.layer.products)
        rows.append((m.chip, m.direction, *shape, f"{m.fused:.1f}", f"{m.convolution:.1f}"))
    _tables.write(table, HEADER, rows)
