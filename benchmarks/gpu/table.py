# SPDX-License-Identifier: Apache-2.0
"""What was measured on a GPU as CSV and as Markdown."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields

from hsr_kernels._dispatch.measured import Measurement

from .. import markdown
from ..variants import BASELINE, COMPILE, CONVOLUTION, COPY, CUDA, GPU_BACKENDS, REFERENCE, RELEASED, TRITON
from .measuring import EAGER, GRAPH
from .results import OUT_OF_TIME, PhaseResult, ratio


@dataclass(frozen=True)
class GpuRow:
    """One variant in one pass of one case; None means not measured, and `note` says why.

    Attributes:
        case, title, phase: What was measured.
        variant: "triton", "cuda", "reference", "compile" (torch.compile of the reference), "released" (the reference in
            float32), "convolution" (the bare one) or "baseline" (triton, without the part whose cost the case
            measures).
        mode: "eager", or "graph" for the replay of a CUDA graph.
        median_us, p20_us, p80_us: Microseconds, the L2 cache cold.
        vs_reference, vs_compile, vs_released, vs_baseline: The other's median, called eagerly, over this one's.
        of_copy: The time of a copy that moves the fewest bytes, taken in the same way, over this one's.
        of_large_copy: Bandwidth over the fewest bytes that can be moved, as a fraction of that of a copy of gigabytes.
        peak_bytes: Peak of allocated memory above the inputs.
        goals: What the faster backend must reach, and whether it did; in the row of triton called eagerly.
        note: Why there is no time, or how it was taken.
    """

    case: str
    title: str
    phase: str
    variant: str
    mode: str
    median_us: float | None
    p20_us: float | None
    p80_us: float | None
    vs_reference: float | None
    vs_compile: float | None
    vs_released: float | None
    vs_baseline: float | None
    of_copy: float | None
    of_large_copy: float | None
    peak_bytes: int | None
    goals: str
    note: str


def rows(result: PhaseResult, large_copy: float | None) -> Iterator[GpuRow]:
    """Yields a row for each variant and mode; one for triton in any case.

    Args:
        result: What was measured of a pass.
        large_copy: Bytes per second, read and written, of a copy of gigabytes.
    """
    for key in dict.fromkeys([(TRITON, EAGER), *result.times, *result.notes]):
        yield _row(result, *key, large_copy)


def _row(result: PhaseResult, name: str, mode: str, large_copy: float | None) -> GpuRow:
    time, median = result.times.get((name, mode)), result.median(name, mode)
    median_us, p20_us, p80_us = [1e6 * t for t in time] if time else (None, None, None)

    def against(other: str) -> float | None:
        return ratio(result.median(other), median) if other != name else None

    moves_fewest = name in (*GPU_BACKENDS, REFERENCE, COMPILE, COPY)
    return GpuRow(
        case=result.case.name,
        title=result.case.title,
        phase=result.phase,
        variant=name,
        mode=mode,
        median_us=median_us,
        p20_us=p20_us,
        p80_us=p80_us,
        vs_reference=against(REFERENCE),
        vs_compile=against(COMPILE),
        vs_released=against(RELEASED),
        vs_baseline=against(BASELINE),
        of_copy=result.share_of_copy(name, mode) if moves_fewest and name != COPY else None,
        of_large_copy=ratio(ratio(result.min_bytes, median), large_copy) if moves_fewest else None,
        peak_bytes=result.peaks.get(name) if mode == EAGER else None,
        goals="; ".join(result.verdicts()) if (name, mode) == (TRITON, EAGER) else "",
        note=result.notes.get((name, mode), "" if time else OUT_OF_TIME),
    )


def csv_text(lines: Sequence[GpuRow], setting: dict[str, str]) -> str:
    """One line per row, with the setting in columns of its own."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*(field.name for field in fields(GpuRow)), *setting], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) | setting for row in lines)
    return text.getvalue()


_TIME_COLUMNS = {
    "copy as a graph": (COPY, GRAPH),
    "reference": (REFERENCE, EAGER),
    "compile": (COMPILE, EAGER),
    "released": (RELEASED, EAGER),
    "baseline": (BASELINE, EAGER),
    "convolution": (CONVOLUTION, EAGER),
    "triton": (TRITON, EAGER),
    "triton as a graph": (TRITON, GRAPH),
    "cuda": (CUDA, EAGER),
    "cuda as a graph": (CUDA, GRAPH),
}
_HEADER = ("case", "pass", *_TIME_COLUMNS, "x reference", "x compile", "of copy", "peak, MB", "must reach")
_ALIGNMENT = "ll" + "r" * (len(_HEADER) - 3) + "l"
_MEASURED_HEADER = ("operator", "pass", "dtype", "layout", "size", "times", "fastest")


def text(
    lines: Sequence[GpuRow],
    setting: dict[str, str],
    tests: str,
    large_copy: float | None,
    measurements: Sequence[Measurement] = (),
    unmeasured: Sequence[str] = (),
) -> str:
    """The backends' times beside the others', what must be reached and whether it was, in Markdown.

    Args:
        lines: What was measured of the cases.
        setting: What it was measured on.
        tests: How many tests passed.
        large_copy: Bytes per second of a copy of gigabytes.
        measurements: What the library chooses by.
        unmeasured: What wasn't measured, and why.
    """
    found = {(row.case, row.phase, row.variant, row.mode): row for row in lines}
    cells = [_cells(row, found) for row in lines if (row.variant, row.mode) == (TRITON, EAGER)]
    notes = [f"{r.title}, {r.phase}, {r.variant} {r.mode}: {r.note}." for r in lines if r.note]
    notes += [f"Not measured: {note}." for note in unmeasured]
    parts = [
        *markdown.table(_HEADER, _ALIGNMENT, cells),
        "",
        _legend(lines, setting, tests, large_copy),
        *_measured_table(measurements),
        *(f"\n{note}" for note in notes),
    ]
    return "\n".join(parts)


def _legend(lines: Sequence[GpuRow], setting: dict[str, str], tests: str, large_copy: float | None) -> str:
    about = ", ".join(f"{name} {value}" for name, value in setting.items())
    goals = "; ".join(row.goals for row in lines)
    verdicts = ("reached", "**not reached**", "not measured")
    counts = ", ".join(f"{goals.count(f': {verdict}')} {verdict.strip('*')}" for verdict in verdicts)
    rate = f"{large_copy / 1e12:.2f} TB/s" if large_copy else "not measured"
    return (
        f"{about}. Goals: {counts}. `pytest -m gpu`: {tests}. Medians, L2 cold. The columns to the right of the times "
        "are of the faster of triton and cuda. x reference and x compile: of eager calls on both sides; of copy: the "
        "time of a device copy that moves the fewest bytes over the backend's, both as CUDA graphs if there are any. "
        f"A copy of gigabytes, read and written: {rate}. released: the reference in float32. baseline: triton without "
        "the part whose cost the case measures. peak: reference → the faster backend. 1000 images: steps as scheduled, "
        "R1 in every 16th and path length in every 4th."
    )


def _cells(row: GpuRow, found: dict[tuple[str, str, str, str], GpuRow]) -> list[str]:
    """One pass of a case, given the row of triton called eagerly."""
    others = {name: found.get((row.case, row.phase, *key)) for name, key in _TIME_COLUMNS.items()}
    timed = [r for name in GPU_BACKENDS if (r := others[name]) is not None and r.median_us is not None]
    fastest = min(timed, key=lambda r: r.median_us or 0.0, default=row)
    peaks = [r.peak_bytes / 1e6 for r in (others["reference"], fastest) if r is not None and r.peak_bytes is not None]
    shares = [r.of_copy for name in GPU_BACKENDS if (r := others[f"{name} as a graph"] or others[name]) and r.of_copy]
    return [
        row.title,
        row.phase,
        *(markdown.duration(_seconds(r)) for r in others.values()),
        markdown.number(fastest.vs_reference),
        markdown.number(fastest.vs_compile),
        markdown.number(max(shares, default=None)),
        " → ".join(map(markdown.number, peaks)) or markdown.NOT_MEASURED,
        row.goals or markdown.NOT_MEASURED,
    ]


def _seconds(row: GpuRow | None) -> float | None:
    return None if row is None or row.median_us is None else 1e-6 * row.median_us


def _measured_table(measurements: Sequence[Measurement]) -> Iterator[str]:
    """A table of what decides on an operator's backend and on the route of each pass of a modulated layer."""
    if not measurements:
        yield "\nWhat the library chooses by: not measured."
        return
    yield (
        "\nWhat the library chooses by. Backends: forward and backward, called eagerly in a row, by the host's clock. "
        "Routes of modulated layers that don't resample: as CUDA graphs.\n"
    )
    yield from markdown.table(_MEASURED_HEADER, "l" * len(_MEASURED_HEADER), [_measured_cells(m) for m in measurements])


def _measured_cells(measurement: Measurement) -> list[str]:
    problem, microseconds = measurement.problem, measurement.microseconds
    times = ", ".join(f"{name} {markdown.duration(1e-6 * us)}" for name, us in microseconds.items())
    fastest = min(microseconds, key=microseconds.__getitem__)
    size = "x".join(map(str, problem.size))
    return [problem.op, problem.direction, problem.dtype, problem.layout, size, times, fastest]
