# SPDX-License-Identifier: Apache-2.0
"""What was measured on a GPU as CSV and as a table, with what must be reached and whether it was."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields

from hsr_kernels import _measured
from hsr_kernels.modulated_conv2d.routes import Measurement

from ..cases import Case
from .device import Time

NONE = "—"
OURS = ("triton", "cuda")  # the faster one is judged
OUT_OF_TIME = "not measured: out of time"
COPY = "copy"


@dataclass(frozen=True)
class Choices:
    """What was measured of what the library can choose between.

    Attributes:
        routes: Of modulated layers.
        backends: cuda beside triton.
        notes: What wasn't measured, and why.
    """

    routes: Sequence[Measurement] = ()
    backends: Sequence[_measured.Measurement] = ()
    notes: Sequence[str] = ()


@dataclass
class Measured:
    """What became of one pass of a case; keys are contenders and "eager" or "graph".

    Attributes:
        judged: Whether what must be reached is compared with what was measured.
        fewest: Bytes that can be moved at the fewest.
        times: Of contenders, and of COPY: a copy on the device that moves the fewest bytes.
        notes: Why there is no time, or how one was taken.
        peaks: Contender -> peak of allocated memory above what was there before, in bytes.
    """

    case: Case
    phase: str
    judged: bool = True
    fewest: int | None = None
    times: dict[tuple[str, str], Time] = field(default_factory=dict)
    notes: dict[tuple[str, str], str] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)

    def median(self, name: str, mode: str = "eager") -> float | None:
        """Seconds, None where there is no measurement."""
        time = self.times.get((name, mode))
        return time.median if time else None

    def on_device(self, name: str) -> float | None:
        """Seconds on the device alone, as far as that is known: as a CUDA graph, else called eagerly."""
        return self.median(name, "graph") or self.median(name)

    def fastest(self, seconds: Callable[[str], float | None]) -> str:
        """Which of ours takes the fewest seconds; triton where nothing was measured."""
        known = {name: its for name in OURS if (its := seconds(name))}
        return min(known, key=known.__getitem__, default="triton")

    def summary(self) -> str:
        """All medians in a line."""
        return ", ".join(f"{name} {mode} {_seconds(t.median)}" for (name, mode), t in self.times.items()) or OUT_OF_TIME

    def of_copy(self, name: str, mode: str) -> float | None:
        """The time of a copy of the same bytes, taken in the same way, as a share of a contender's."""
        return _ratio(self.median(COPY, mode), self.median(name, mode))

    def share(self, name: str) -> float | None:
        """`of_copy` as a CUDA graph where there is one, else of eager calls."""
        return self.of_copy(name, "graph") or self.of_copy(name, "eager")

    def verdicts(self) -> Iterator[str]:
        """What was demanded and whether the faster of ours reached it; speed-ups are of eager calls on both sides."""
        target = self.case.targets[self.phase]
        best, device = self.fastest(self.median), self.fastest(self.on_device)
        ours = self.median(best)
        peaks = {name: _ratio(self.peaks.get(best), peak) for name, peak in self.peaks.items()}
        demands = (
            ("{:g}x reference", target.reference, _ratio(self.median("reference"), ours), True, best),
            ("{:g}x compile", target.compiled, _ratio(self.median("compile"), ours), True, best),
            ("{:g}x released float32", target.released, _ratio(self.median("released"), ours), True, best),
            ("{:g} of the peak memory", target.peak, peaks.get("reference"), False, best),
            ("{:g} of released float32's peak", target.released_peak, peaks.get("released"), False, best),
            ("{:g} of copy", target.copy, self.share(device), True, device),
            ("{:g}x the time without", target.without, _ratio(ours, self.median("without")), False, best),
        )
        for text, least, got, more, by in demands:
            if least is None:
                continue
            if got is None or not self.judged:
                verdict = "not measured"
            else:
                verdict = "reached" if (got >= least if more else got <= least) else "**not reached**"
                verdict += f" ({got:.3g}{', by cuda' if by == 'cuda' else ''})"
            yield f"{text.format(least)}: {verdict}"


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above and below else None


@dataclass(frozen=True)
class Row:
    """One contender in one pass of one case; None means not measured, and `note` says why.

    Attributes:
        variant: "triton", "cuda", "reference", "compile" (torch.compile of the reference), "released" (the reference in
            float32), "convolution" (the bare one) or "without" (ours, without what the case measures the cost of).
        mode: "eager", or "graph" for the replay of a CUDA graph.
        median_us, p20_us, p80_us: Microseconds, the L2 cache cold.
        vs_reference, vs_compile, vs_released, vs_without: The other's median, called eagerly, over this one's.
        of_copy: The time of a copy that moves the fewest bytes, taken in the same way, over this one's.
        of_large_copy: Bandwidth over the fewest bytes that can be moved, as a fraction of that of a copy of gigabytes.
        peak_bytes: Peak of allocated memory above the inputs.
        goals: What the faster of ours must reach, and whether it did; in the row of triton called eagerly.
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
    vs_without: float | None
    of_copy: float | None
    of_large_copy: float | None
    peak_bytes: int | None
    goals: str
    note: str


def rows(one: Measured, large_copy: float | None) -> Iterator[Row]:
    """A row for each contender and mode; one for triton in any case.

    Args:
        large_copy: Bytes per second, read and written, of a copy of gigabytes.
    """
    keys = dict.fromkeys([("triton", "eager"), *one.times, *one.notes])
    for name, mode in keys:
        time, own = one.times.get((name, mode)), one.median(name, mode)

        def against(other: str, name: str = name, own: float | None = own) -> float | None:
            return _ratio(one.median(other), own) if other != name else None

        moves = name in (*OURS, "reference", "compile", COPY)
        yield Row(
            one.case.name,
            one.case.title,
            one.phase,
            name,
            mode,
            *([1e6 * t for t in time] if time else [None] * 3),  # type: ignore[arg-type]
            *(against(other) for other in ("reference", "compile", "released", "without")),  # type: ignore[arg-type]
            of_copy=one.of_copy(name, mode) if moves and name != COPY else None,
            of_large_copy=_ratio(_ratio(one.fewest, own), large_copy) if moves else None,
            peak_bytes=one.peaks.get(name) if mode == "eager" else None,
            goals="; ".join(one.verdicts()) if (name, mode) == ("triton", "eager") else "",
            note=one.notes.get((name, mode), "" if time else OUT_OF_TIME),
        )


def csv_text(lines: Sequence[Row], setting: dict[str, str]) -> str:
    """One line per row, with the setting in columns of its own."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*(field.name for field in fields(Row)), *setting], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) | setting for row in lines)
    return text.getvalue()


_COLUMNS = {
    "copy as a graph": (COPY, "graph"),
    "reference": ("reference", "eager"),
    "compile": ("compile", "eager"),
    "released": ("released", "eager"),
    "without": ("without", "eager"),
    "convolution": ("convolution", "eager"),
    "triton": ("triton", "eager"),
    "triton as a graph": ("triton", "graph"),
    "cuda": ("cuda", "eager"),
    "cuda as a graph": ("cuda", "graph"),
}


def markdown(
    lines: Sequence[Row], setting: dict[str, str], tests: str, large_copy: float | None, choices: Choices
) -> str:
    """Our times beside the others', what must be reached and whether it was, and what the library chooses between."""
    header = ["case", "pass", *_COLUMNS, "x reference", "x compile", "of copy", "peak, MB", "must reach"]
    cells = [header, ["---"] * 2 + ["---:"] * (len(header) - 3) + ["---"]]
    found = {(row.case, row.phase, row.variant, row.mode): row for row in lines}
    cells += [_cells(row, found) for row in lines if (row.variant, row.mode) == ("triton", "eager")]
    notes = [f"{r.title}, {r.phase}, {r.variant} {r.mode}: {r.note}." for r in lines if r.note]
    about = ", ".join(f"{name} {value}" for name, value in setting.items())
    goals = "; ".join(row.goals for row in lines)
    counts = ", ".join(f"{goals.count(f': {word}')} {word.strip('*')}" for word in
                       ("reached", "**not reached**", "not measured"))  # fmt: skip
    large = f"{large_copy / 1e12:.2f} TB/s" if large_copy else "not measured"
    legend = (
        f"{about}. Goals: {counts}. `pytest -m gpu`: {tests}. Medians, L2 cold. What stands to the right of the times "
        "is of the faster of triton and cuda. x reference and x compile: of eager calls on both sides; of copy: the "
        "time of a device copy that moves the fewest bytes over ours, both as CUDA graphs where there are any. A copy "
        f"of gigabytes, read and written: {large}. released: the reference in float32. without: ours without what the "
        "case measures the cost of. peak: reference → ours. 1000 images: steps as scheduled, R1 in every 16th and path "
        "length in every 4th."
    )
    table = ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join([*table, "", legend, *(f"\n{note}" for note in notes), *_routes(choices), *_backends(choices)])


def _cells(row: Row, found: dict[tuple[str, str, str, str], Row]) -> list[str]:
    """One pass of a case, given the row of triton called eagerly."""
    others = {name: found.get((row.case, row.phase, *key)) for name, key in _COLUMNS.items()}
    ours = [r for name in OURS if (r := others[name]) is not None and r.median_us is not None]
    best = min(ours, key=lambda r: r.median_us or 0.0, default=row)
    peaks = [r.peak_bytes / 1e6 for r in (others["reference"], best) if r is not None and r.peak_bytes is not None]
    shares = [r.of_copy for name in OURS if (r := others[f"{name} as a graph"] or others[name]) and r.of_copy]
    return [
        row.title, row.phase,
        *(NONE if r is None or r.median_us is None else _seconds(1e-6 * r.median_us) for r in others.values()),
        _figure(best.vs_reference), _figure(best.vs_compile), _figure(max(shares, default=None)),
        " → ".join(map(_figure, peaks)) or NONE, row.goals or NONE,
    ]  # fmt: skip


def _routes(choices: Choices) -> Iterator[str]:
    """A table of what decides on the route of each pass of a layer that doesn't resample."""
    if not choices.routes:
        yield "\nRoutes of modulated layers: not measured."
        return
    yield "\nRoutes of modulated layers that don't resample, as CUDA graphs:\n"
    yield "| layer | products | pass | fused | convolution | faster |"
    yield "| --- | --- | --- | ---: | ---: | --- |"
    for m in choices.routes:
        k = m.layer
        times = " | ".join(_seconds(1e-6 * us) for us in (m.fused, m.convolution))
        shape = f"{k.kernel}x{k.kernel}, {k.c} -> {k.o} channels, {k.pixels} pixels"
        yield f"| {shape} | {k.products} | {m.direction} | {times} | {m.faster} |"


def _backends(choices: Choices) -> Iterator[str]:
    """A table of what decides on the backend of an operator."""
    if choices.backends:
        yield "\nThe cuda backend beside triton, forward and backward called eagerly in a row, by the host's clock:\n"
        yield "| operator | dtype | layout | elements | cuda, µs | triton, µs | faster |"
        yield "| --- | --- | --- | ---: | ---: | ---: | --- |"
    else:
        yield "\nThe cuda backend beside triton: not measured."
    for m in choices.backends:
        faster = "cuda" if m.cuda <= m.triton else "triton"
        times = " | ".join(f"{us:.1f}" for us in (m.cuda, m.triton))
        yield f"| {m.op} | {m.dtype} | {m.layout} | {m.elements} | {times} | {faster} |"
    yield from (f"\nNot measured: {note}." for note in choices.notes)


def _figure(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _seconds(value: float) -> str:
    """A time with its unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 1000 * size else f"{value / size:.0f} {unit}"
    return f"{value / 1e-6:.3g} µs"
