# SPDX-License-Identifier: Apache-2.0
"""The measurements as CSV, and the CSV as a table."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

HEADER = (
    "case",
    "pass",
    "time, ms",
    "x reference",
    "must reach",
    "x compile",
    "saved, MB",
    "peak, MB",
)
NONE = "—"


@dataclass(frozen=True)
class Row:
    """One variant in one phase of one case; factors above 1 mean faster, None means not measured.

    Attributes:
        variant: "reference", "compile" (torch.compile of the reference) or a backend's name.
        median_ms, p20_ms, p80_ms: Milliseconds.
        rounds: How often it was timed.
        vs_reference, vs_compile: Median over the rounds of the other's time divided by this one's.
        saved_bytes: What autograd keeps for backward.
        peak_bytes: Peak of resident memory above the inputs.
        target_reference, target_compile, target_peak: What the variant must reach.
        note: Why there is no time.
    """

    case: str
    title: str
    phase: str
    variant: str
    median_ms: float | None
    p20_ms: float | None
    p80_ms: float | None
    rounds: int
    vs_reference: float | None
    vs_compile: float | None
    saved_bytes: int | None
    peak_bytes: int | None
    target_reference: float | None
    target_compile: float | None
    target_peak: float | None
    note: str
    chip: str
    cores: int
    torch: str
    commit: str


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Writes one line per row under a line of names."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_csv(path: Path) -> list[Row]:
    """Reads what `write_csv` wrote.

    Raises:
        ValueError: The file has other columns.
    """
    whole = {"rounds", "cores", "saved_bytes", "peak_bytes"}
    text = {"case", "title", "phase", "variant", "note", "chip", "torch", "commit"}

    def parse(name: str, value: str) -> str | int | float | None:
        if name in text:
            return value
        if value == "":
            return None
        return int(value) if name in whole else float(value)

    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        names = [field.name for field in fields(Row)]
        if reader.fieldnames is None or list(reader.fieldnames) != names:
            raise ValueError(f"{path} must have the columns {', '.join(names)}, got {reader.fieldnames}")
        return [Row(**{name: parse(name, line[name]) for name in names}) for line in reader]  # type: ignore[arg-type]


def _figure(value: float | None, unit: str = "") -> str:
    return NONE if value is None else f"{value:.3g}{unit}" if value < 1000 else f"{value:.0f}{unit}"


def _change(reference: float | None, ours: float | None, unit: float = 1.0) -> str:
    if reference is None or ours is None:
        return NONE
    return f"{_figure(reference / unit)} → {_figure(ours / unit)}"


def _verdicts(reference: Row, ours: Row) -> str:
    """What was demanded, and whether it was reached."""
    smaller = ours.peak_bytes / reference.peak_bytes if ours.peak_bytes and reference.peak_bytes else None
    demands = (
        (ours.target_reference, ours.vs_reference, "x"),
        (ours.target_compile, ours.vs_compile, "x compile"),
        (ours.target_peak, smaller, " of peak"),
    )
    verdicts = []
    for target, got, unit in demands:
        if target is None:
            continue
        if got is None:
            verdict = "not measured"
        else:
            reached = got <= target if unit == " of peak" else got >= target
            verdict = "reached" if reached else "**not reached**"
        verdicts.append(f"{target:.2g}{unit}: {verdict}")
    return "; ".join(verdicts) or NONE


def table(rows: Sequence[Row]) -> tuple[list[list[str]], list[str]]:
    """The cells under HEADER, and the notes that belong below the table."""
    lines, notes = [], []
    for ours in rows:
        if ours.variant in ("reference", "compile"):
            continue
        same = [row for row in rows if (row.case, row.phase) == (ours.case, ours.phase)]
        reference = next(row for row in same if row.variant == "reference")
        compiled = next((row for row in same if row.variant == "compile"), None)
        lines.append(
            [
                ours.title,
                ours.phase,
                _change(reference.median_ms, ours.median_ms),
                _figure(ours.vs_reference, "x"),
                _verdicts(reference, ours),
                _figure(ours.vs_compile, "x"),
                _change(reference.saved_bytes, ours.saved_bytes, 1e6),
                _change(reference.peak_bytes, ours.peak_bytes, 1e6),
            ]
        )
        if compiled is not None and compiled.note:
            notes.append(f"No torch.compile of {ours.title}, {ours.phase}: {compiled.note}.")
    return lines, notes


def setting(rows: Sequence[Row]) -> str:
    """What was measured where, and what the columns mean."""
    row = rows[0]
    return (
        f"{row.chip}, {row.cores} cores, float32, torch {row.torch}, commit {row.commit}; "
        "medians of runs taken in turns. Arrows: reference → ours. x compile: against torch.compile of the "
        "reference. saved: kept by autograd for backward, parameters apart (of a training step: in G main). "
        "peak: growth of resident memory in forward+backward, gradients included."
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table, what it was measured on, and the notes, in Markdown."""
    lines, notes = table(rows)
    cells = [list(HEADER), ["---"] * 2 + ["---:"] * 2 + ["---"] + ["---:"] * 3, *lines]
    return "\n".join(
        ["| " + " | ".join(line) + " |" for line in cells] + ["", setting(rows)] + [f"\n{note}" for note in notes]
    )
