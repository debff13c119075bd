# SPDX-License-Identifier: Apache-2.0
"""Which of a GPU's two backends, cuda or triton, is faster for an operator, and how that is known.

It depends on the chip, and on how much there is to do: launching Triton's kernels costs the host more. Measurements
stand in measured.csv, one line per operator, tensor and chip, as `python -m benchmarks gpu-report` writes them; that of
the tensor most like the one at hand decides, and cuda is taken where it is at least as fast. Far from all measurements
cuda is taken too: it compiles nothing at its first use, and its launches cost the host less.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from . import _tables

_TABLE = Path(__file__).with_name("measured.csv")
ENVIRONMENT = "HSR_KERNELS_MEASURED"  # names a table to be read instead
HEADER = ("chip", "op", "dtype", "layout", "elements", "cuda_us", "triton_us")
_REACH = 3.0  # a measurement speaks for tensors up to so many times (as a power of 2) larger or smaller


@dataclass(frozen=True)
class Measurement:
    """Microseconds of both backends for an operator on images of so many elements.

    Attributes:
        chip: Compute capability, "9.0".
        op: The operator's folder, "upfirdn2d".
        dtype: "float32", "float16" or "bfloat16".
        layout: "contiguous" or "channels_last".
    """

    chip: str
    op: str
    dtype: str
    layout: str
    elements: int
    cuda: float
    triton: float


def faster(op: str, device: torch.device, dtype: torch.dtype, last: bool, bits: int) -> tuple[str, str]:
    """("cuda" or "triton", reason) for an operator's folder and images on a GPU.

    Args:
        last: Whether the images are channels_last.
        bits: Binary digits of their number of elements.
    """
    layout = "channels_last" if last else "contiguous"
    key = (_tables.chip(device), op, str(dtype).removeprefix("torch."), layout)
    near = [m for m in read(os.environ.get(ENVIRONMENT) or str(_TABLE)) if (m.chip, m.op, m.dtype, m.layout) == key]
    if not near:
        return "cuda", "not measured on this chip for such images; cuda has nothing to compile"

    def distance(m: Measurement) -> float:
        return abs(math.log2(max(m.elements, 1)) - max(bits - 0.5, 0))

    nearest = min(near, key=distance)
    if distance(nearest) > _REACH:
        return "cuda", "not measured on this chip for images of about this size; cuda has nothing to compile"
    name = "cuda" if nearest.cuda <= nearest.triton else "triton"
    return name, f"measured for {nearest.elements} elements: cuda {nearest.cuda:.1f} µs, triton {nearest.triton:.1f} µs"


@lru_cache(maxsize=8)
def read(table: str) -> tuple[Measurement, ...]:
    """The measurements in a file.

    Raises:
        ValueError: It isn't such a file; the message says where.
    """
    return _tables.read(table, HEADER, _parsed)


def _parsed(row: Mapping[str, str]) -> Measurement:
    times = float(row["cuda_us"]), float(row["triton_us"])
    return Measurement(row["chip"], row["op"], row["dtype"], row["layout"], int(row["elements"]), *times)


def write(table: Path, measurements: list[Measurement]) -> None:
    """What `read` reads; to be copied over measured.csv, or named by HSR_KERNELS_MEASURED."""
    rows = ((m.chip, m.op, m.dtype, m.layout, m.elements, f"{m.cuda:.1f}", f"{m.triton:.1f}") for m in measurements)
    _tables.write(table, HEADER, rows)
