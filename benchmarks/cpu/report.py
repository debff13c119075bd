# SPDX-License-Identifier: Apache-2.0
"""The measurements as CSV, and the CSV as a table."""

import csv
import operator
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from .. import markdown
from ..variants import COMPILE, REFERENCE

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
_ALIGNMENT = "llrrlrrr"


@dataclass(frozen=True)
class CpuRow:
    """One variant in one phase of one case; factors above 1 mean faster, None means not measured.

    Attributes:
        variant: "reference", "compile" (torch.compile of the reference) or a backend's name.
        median_ms, p20_ms, p80_ms: Milliseconds.
        rounds: How often it was timed.
        vs_reference, vs_compile, vs_baseline: Median over the rounds of the other's time divided by this one's; the
            baseline is the case without the part whose cost it measures.
        saved_bytes: What autograd keeps for backward.
        peak_bytes: Peak of resident memory above the inputs.
        target_reference, target_compile, target_peak, target_baseline: What the variant must reach.
        note: Why there is no time.
        chip, cores, torch, commit: The processor's name, the cores used, PyTorch's version, and the checkout's commit.
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
    vs_baseline: float | None
    saved_bytes: int | None
    peak_bytes: int | None
    target_reference: float | None
    target_compile: float | None
    target_peak: float | None
    target_baseline: float | None
    note: str
    chip: str
    cores: int
    torch: str
    commit: str


def write_csv(path: Path, rows: Iterable[CpuRow]) -> None:
    """Writes one line per row under a line of names."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(CpuRow)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_csv(path: Path) -> list[CpuRow]:
    """Reads what `write_csv` wrote.

    Raises:
        ValueError: The file has other columns.
    """
    integers = {"rounds", "cores", "saved_bytes", "peak_bytes"}
    texts = {"case", "title", "phase", "variant", "note", "chip", "torch", "commit"}

    def parse(name: str, value: str) -> str | int | float | None:
        if name in texts:
            return value
        if value == "":
            return None
        return int(value) if name in integers else float(value)

    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        names = [field.name for field in fields(CpuRow)]
        if reader.fieldnames is None or list(reader.fieldnames) != names:
            raise ValueError(f"{path} must have the columns {', '.join(names)}, got {reader.fieldnames}")
        return [CpuRow(**{name: parse(name, line[name]) for name in names}) for line in reader]  # type: ignore[arg-type]


def _change(reference: float | None, measured: float | None, unit: float = 1.0) -> str:
    if reference is None or measured is None:
        return markdown.NOT_MEASURED
    return f"{markdown.number(reference / unit)} → {markdown.number(measured / unit)}"


def _verdicts(reference: CpuRow, measured: CpuRow) -> str:
    """What was demanded, and whether it was reached."""
    peak = measured.peak_bytes / reference.peak_bytes if measured.peak_bytes and reference.peak_bytes else None
    demands = (
        ("{:.2g}x", measured.target_reference, measured.vs_reference, operator.ge),
        ("{:.2g}x compile", measured.target_compile, measured.vs_compile, operator.ge),
        ("{:.2g} of peak", measured.target_peak, peak, operator.le),
        ("{:g}x the baseline's time", measured.target_baseline, _baseline_multiple(measured), operator.le),
    )
    verdicts = []
    for demand, target, value, is_reached in demands:
        if target is None:
            continue
        verdict = "not measured" if value is None else "reached" if is_reached(value, target) else "**not reached**"
        verdicts.append(f"{demand.format(target)}: {verdict}")
    return "; ".join(verdicts) or markdown.NOT_MEASURED


def _baseline_multiple(measured: CpuRow) -> float | None:
    """Returns the time as a multiple of the baseline's, or None where there is no baseline."""
    return None if measured.vs_baseline is None else 1 / measured.vs_baseline


def cells(rows: Sequence[CpuRow]) -> tuple[list[list[str]], list[str]]:
    """Returns the cells under HEADER, and the notes that belong below the table."""
    lines, notes = [], []
    for measured in rows:
        if measured.variant in (REFERENCE, COMPILE):
            continue
        others = {row.variant: row for row in rows if (row.case, row.phase) == (measured.case, measured.phase)}
        reference, compiled = others[REFERENCE], others.get(COMPILE)
        lines.append(
            [
                measured.title,
                measured.phase,
                _change(reference.median_ms, measured.median_ms),
                markdown.number(measured.vs_reference, "x"),
                _verdicts(reference, measured),
                markdown.number(measured.vs_compile, "x"),
                _change(reference.saved_bytes, measured.saved_bytes, 1e6),
                _change(reference.peak_bytes, measured.peak_bytes, 1e6),
            ]
        )
        multiple = _baseline_multiple(measured)
        if multiple is not None:
            notes.append(f"Of {measured.title}, {measured.phase}: {multiple:.3g}x the baseline's time.")
        if compiled is not None and compiled.note:
            notes.append(f"No torch.compile of {measured.title}, {measured.phase}: {compiled.note}.")
    return lines, notes


def setting(rows: Sequence[CpuRow]) -> str:
    """What was measured where, and what the columns mean."""
    row = rows[0]
    return (
        f"{row.chip}, {row.cores} cores, float32, torch {row.torch}, commit {row.commit}; "
        "medians of runs taken in turns. Arrows: reference → ours. x compile: against torch.compile of the "
        "reference. saved: kept by autograd for backward, parameters apart (of a training step: in G main). "
        "peak: growth of resident memory in forward+backward, gradients included."
    )


def text(rows: Sequence[CpuRow]) -> str:
    """The table, what it was measured on, and the notes, in Markdown."""
    lines, notes = cells(rows)
    return "\n".join([*markdown.table(HEADER, _ALIGNMENT, lines), "", setting(rows), *(f"\n{note}" for note in notes)])
