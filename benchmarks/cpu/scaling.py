# SPDX-License-Identifier: Apache-2.0
"""How time grows with a case's batch, resolution or channels, or falls with threads: points, and a fitted exponent."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .. import AXES, markdown
from ..case import Case, Size
from ..setting import cores
from .report import CpuRow

BATCH, RESOLUTION, CHANNELS, THREADS = AXES
# What of a case's size belongs to an axis.
_KEYS: Mapping[str, tuple[str, ...]] = {
    BATCH: ("n", "batch"),
    RESOLUTION: ("side", "sides", "resolution"),
    CHANNELS: ("channels", "c_in", "c_out", "channel_base", "channel_max"),
}
# Powers of two that a size is multiplied by, as far as whole numbers come out.
_POWERS = (-3, -2, -1, 0, 1)
# Below, FIRs and networks have nothing left to do.
MIN_SIDE = 8


@dataclass(frozen=True)
class Fit:
    """time = constant * x ** exponent, by least squares in logarithms.

    Attributes:
        exponent: Of x.
        spread: The exponent's standard error; None for two points, through which every curve of this kind goes.
        constant: The time at x = 1.
    """

    exponent: float
    spread: float | None
    constant: float

    def __str__(self) -> str:
        return f"{self.exponent:.2f}" + (f" ± {self.spread:.2f}" if self.spread is not None else "")


def fit(x: Sequence[float], y: Sequence[float]) -> Fit | None:
    """Fits an exponent to positive numbers; None where there are fewer than two different x."""
    if len(set(x)) < 2:
        return None
    log_x, log_y = np.log(x), np.log(y)
    centred = log_x - log_x.mean()
    exponent = float(centred @ log_y / (centred @ centred))
    offset = float(log_y.mean() - exponent * log_x.mean())
    residuals = log_y - offset - exponent * log_x
    freedom = len(x) - 2
    spread = math.sqrt(float(residuals @ residuals) / freedom / float(centred @ centred)) if freedom > 0 else None
    return Fit(exponent, spread, math.exp(offset))


def _scaled(value: object, factor: float) -> object:
    if isinstance(value, tuple | list):
        return tuple(_scaled(one, factor) for one in value)
    assert isinstance(value, int)
    return value * factor if (value * factor).is_integer() else None


def scaled(size: Size, axis: str, factor: float) -> Size | None:
    """Returns a size whose numbers of an axis are multiplied; None where one of them wouldn't be a whole number."""
    changed = {key: _scaled(size[key], factor) for key in _KEYS[axis] if key in size}
    numbers = [one for value in changed.values() for one in (value if isinstance(value, tuple) else (value,))]
    if None in numbers or (axis == RESOLUTION and min(numbers) < MIN_SIDE):
        return None

    def whole(value: object) -> object:
        return tuple(map(whole, value)) if isinstance(value, tuple) else int(value)  # type: ignore[call-overload]

    return size | {key: whole(value) for key, value in changed.items()}


@dataclass(frozen=True)
class Point:
    """One measurement of a curve: a position, and the case and the threads that it is measured with."""

    x: int
    case: Case
    threads: int


def points(case: Case, axis: str, *, tiny: bool = False) -> list[Point]:
    """Returns the positions of a curve, in order; an axis that the case hasn't has none."""
    if axis == THREADS:
        counts = sorted({*(2**i for i in range(cores().bit_length()) if 2**i <= cores()), cores()})
        return [Point(count, case, count) for count in counts]
    base = case.tiny_size if tiny else case.size
    keys = [key for key in _KEYS[axis] if key in base]
    found = []
    for size in (scaled(base, axis, 2.0**power) for power in _POWERS if keys):
        if size is not None:
            x = size[keys[0]]
            sized = replace(case, tiny_size=size) if tiny else replace(case, size=size)
            found.append(Point(max(x) if isinstance(x, tuple) else x, sized, 1 if tiny else cores()))
    return found


@dataclass(frozen=True)
class Curve:
    """The rows of one variant in one pass, by position."""

    phase: str
    variant: str
    x: list[int]
    rows: list[CpuRow]

    @property
    def milliseconds(self) -> list[float]:
        return [row.median_ms for row in self.rows if row.median_ms is not None]

    @property
    def fit(self) -> Fit | None:
        return fit(self.x, self.milliseconds)

    @property
    def floor(self) -> Fit | None:
        """The fit of what the machine can't be faster than."""
        floors = [row.floor_ms for row in self.rows if row.floor_ms]
        return fit(self.x, floors) if len(floors) == len(self.x) else None


def curves(measured: Mapping[int, Sequence[CpuRow]]) -> list[Curve]:
    """Returns the curves of what was measured by position; where there is no figure, there is no point."""
    found: dict[tuple[str, str], Curve] = {}
    for x, rows in sorted(measured.items()):
        for row in (row for row in rows if row.median_ms is not None):
            curve = found.setdefault((row.phase, row.variant), Curve(row.phase, row.variant, [], []))
            curve.x.append(x)
            curve.rows.append(row)
    return [*found.values()]


def table(found: Sequence[Curve], axis: str) -> list[str]:
    """The lines of a Markdown table: each curve's times and exponent."""
    positions = sorted({x for curve in found for x in curve.x})
    header = ("pass", "variant", *(f"{axis} {x}, ms" for x in positions), "exponent", "of its floor")
    lines = []
    for curve in found:
        times = dict(zip(curve.x, curve.milliseconds, strict=True))
        exponents = [str(one) if one is not None else markdown.NOT_MEASURED for one in (curve.fit, curve.floor)]
        lines.append([curve.phase, curve.variant, *(markdown.number(times.get(x)) for x in positions), *exponents])
    return markdown.table(header, "ll" + "r" * (len(positions) + 2), lines)


def text(title: str, axis: str, found: Sequence[Curve], setting: str, picture: str) -> str:
    """The report in Markdown."""
    about = (
        f"Time over {axis}: medians of rounds in turns. exponent: of time = constant * {axis} ** exponent, by least "
        "squares in logarithms, ± its standard error; of its floor: the same of what the machine can't be faster than."
    )
    return "\n".join(
        [f"# {title}", "", f"![time over {axis}]({picture})", "", *table(found, axis), "", about, "", setting, ""]
    )
