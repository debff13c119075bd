# SPDX-License-Identifier: Apache-2.0
"""Measured times of what can be chosen between on a GPU, and the choice that follows from them.

measured.csv has a line for each problem and chip. The line whose problem is most like the one at hand decides; far from
all lines the first candidate is taken, which is a rule of thumb. Lines come from `python -m benchmarks gpu-report`.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from .. import _gpu
from . import request

_TABLE = Path(__file__).with_name("measured.csv")
HEADER = ("chip", "op", "pass", "dtype", "layout", "size", "candidates")
# A line speaks for problems up to this much larger or smaller: powers of 2, added up over the dimensions of the size.
MAX_DOUBLINGS = 3.0


@dataclass(frozen=True)
class Problem:
    """What there is to compute.

    Attributes:
        op: The operator's folder, "upfirdn2d".
        direction: A pass, such as "input gradient 3x3", or "forward and backward".
        dtype: "float32", "float16", "bfloat16"; of passes, how their products are computed: "tf32", "ieee" or "half".
        layout: "contiguous" or "channels_last".
        size: What the time grows with: elements, or input channels, output channels and pixels.
    """

    op: str
    direction: str
    dtype: str
    layout: str
    size: tuple[int, ...]

    def doublings_from(self, other: "Problem") -> float:
        """How unlike in size two problems are; infinite where they can't be compared."""
        if self._kind != other._kind:
            return math.inf
        pairs = zip(self.size, other.size, strict=True)
        return sum(abs(math.log2(max(a, 1) / max(b, 1))) for a, b in pairs)

    @property
    def _kind(self) -> tuple[object, ...]:
        return self.op, self.direction, self.dtype, self.layout, len(self.size)


@dataclass(frozen=True)
class Measurement:
    """Times of every candidate for a problem.

    Attributes:
        chip: As `chip` returns it.
        problem: What was computed.
        microseconds: By candidate: backends or routes.
    """

    chip: str
    problem: Problem
    microseconds: Mapping[str, float]


def chip(device: torch.device) -> str:
    """What the table knows chips by: compute capability, "9.0", or AMD's name, "gfx942"; "none" for a CPU."""
    return _gpu.chip(device.index) if device.type == "cuda" else "none"


def covers(op: str, device: torch.device) -> bool:
    """Whether the table has anything about an operator on this chip. It is constant to torch.compile."""
    return _covers(op, device)


@lru_cache(maxsize=1024)
def _covers(op: str, device: torch.device) -> bool:
    device_chip = chip(device)
    return any((m.chip, m.problem.op) == (device_chip, op) for m in read(_table()))


covers._dynamo_marked_constant = True  # type: ignore[attr-defined]


def fastest(problem: Problem, device: torch.device, candidates: Sequence[str]) -> tuple[str, str]:
    """(candidate, evidence): the first one where nothing like the problem has been measured on this chip."""
    device_chip = chip(device)
    lines = [m for m in read(_table()) if m.chip == device_chip and m.microseconds.keys() >= set(candidates)]
    nearest = min(lines, key=lambda m: m.problem.doublings_from(problem), default=None)
    distance = math.inf if nearest is None else nearest.problem.doublings_from(problem)
    if nearest is None or distance == math.inf:
        return candidates[0], "not measured on this chip for such tensors"
    if distance > MAX_DOUBLINGS:
        return candidates[0], "not measured on this chip for tensors of about this size"
    times = ", ".join(f"{name} {nearest.microseconds[name]:.1f} µs" for name in candidates)
    return min(candidates, key=nearest.microseconds.__getitem__), f"measured for {_described(nearest.problem)}: {times}"


def _described(problem: Problem) -> str:
    if len(problem.size) == 1:
        return f"{problem.size[0]} elements"
    inputs, outputs, pixels = problem.size
    return f"{inputs} -> {outputs} channels, {pixels} pixels"


def _table() -> str:
    return request.MEASURED.value() or str(_TABLE)


@lru_cache(maxsize=8)
def read(table: str) -> tuple[Measurement, ...]:
    """The measurements in a file.

    Raises:
        ValueError: It isn't such a file; the message says where.
    """
    measurements = []
    with open(table, newline="") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != HEADER:
            raise ValueError(f"{table} must begin with the columns {','.join(HEADER)}")
        for row in rows:
            try:
                measurements.append(_parsed(row))
            except (AttributeError, TypeError, ValueError) as error:
                raise ValueError(f"{table}, line {rows.line_num}: {error}") from None
    return tuple(measurements)


def _parsed(row: Mapping[str, str]) -> Measurement:
    size = tuple(int(number) for number in row["size"].split("x"))
    times = dict(pair.split("=") for pair in row["candidates"].split())
    problem = Problem(row["op"], row["pass"], row["dtype"], row["layout"], size)
    return Measurement(row["chip"], problem, {name: float(time) for name, time in times.items()})


def write(table: Path, measurements: Sequence[Measurement]) -> None:
    """Writes what `read` reads: a file to be copied over measured.csv, or named by HSR_KERNELS_MEASURED."""
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for m in measurements:
            size = "x".join(map(str, m.problem.size))
            times = " ".join(f"{name}={time:.1f}" for name, time in m.microseconds.items())
            writer.writerow((m.chip, m.problem.op, m.problem.direction, m.problem.dtype, m.problem.layout, size, times))


def reset() -> None:
    """Has the table read again."""
    read.cache_clear()
    _covers.cache_clear()
