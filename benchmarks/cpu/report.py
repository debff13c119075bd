# SPDX-License-Identifier: Apache-2.0
"""The measurements as CSV, and the CSV as a table."""

import csv
import operator
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from .. import markdown
from ..variants import BFLOAT16, COMPILE, PEER, REFERENCE

HEADER = (
    "case",
    "pass",
    "time, ms",
    "x reference",
    "must reach",
    "x compile",
    "x peer",
    "saved, MB",
    "peak, MB",
    "min, MB",
    "GFLOP",
    "of roofline",
)
# How notes begin that are faults.
WRONG, IMPOSSIBLE = "wrong: ", "an error of measuring: "
_ALIGNMENT = "llrrlrrrrrrr"


@dataclass(frozen=True)
class CpuRow:
    """One variant in one phase of one case; factors above 1 mean faster, None means not measured.

    Attributes:
        variant: "reference", "compile" (torch.compile of the reference), "peer", a backend's name, or "bfloat16": the
            same backend with images in bfloat16.
        median_ms, p20_ms, p80_ms: Milliseconds.
        rounds: How often it was timed.
        vs_reference, vs_compile, vs_peer, vs_baseline, vs_float32: Median over the rounds of the other's time over this
            one's; the baseline is the case without the part whose cost it measures, and float32 the backend's own time
            beside that of bfloat16.
        saved_bytes: What autograd keeps for backward.
        peak_bytes: Peak of resident memory above what was there before the pass.
        min_bytes, flops: The fewest bytes that the pass moves, and the fewest multiplications and additions.
        floor_ms: What the pass can't be faster than on this machine, by either.
        target_reference, target_compile, target_peak, target_baseline, target_float32: What the variant must reach.
        note: Why there is no time: for want of parity, or because the machine can't be so fast, among others.
        peer: The family and the folder of somebody's own copy of the operators, where one was measured.
        chip, cores, torch, commit: The processor's name, the cores used, PyTorch's version, and the checkout's commit.
    """

    case: str
    title: str
    suite: str
    phase: str
    variant: str
    median_ms: float | None
    p20_ms: float | None
    p80_ms: float | None
    rounds: int
    vs_reference: float | None
    vs_compile: float | None
    vs_peer: float | None
    vs_baseline: float | None
    vs_float32: float | None
    saved_bytes: int | None
    peak_bytes: int | None
    min_bytes: int | None
    flops: float | None
    floor_ms: float | None
    target_reference: float | None
    target_compile: float | None
    target_peak: float | None
    target_baseline: float | None
    target_float32: float | None
    note: str
    peer: str
    chip: str
    cores: int
    torch: str
    commit: str

    @property
    def is_invalid(self) -> bool:
        """Whether the variant is wrong, or its time can't be true; a peer may be as wrong as it likes."""
        return self.variant != PEER and self.note.startswith((WRONG, IMPOSSIBLE))


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
    integers = {"rounds", "cores", "saved_bytes", "peak_bytes", "min_bytes"}
    texts = {"case", "title", "suite", "phase", "variant", "note", "peer", "chip", "torch", "commit"}

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


def _share(floor: float | None, median: float | None) -> str:
    return f"{100 * floor / median:.0f}%" if floor is not None and median else markdown.NOT_MEASURED


def _verdicts(reference: CpuRow, measured: CpuRow) -> str:
    """What was demanded, and whether it was reached."""
    peak = measured.peak_bytes / reference.peak_bytes if measured.peak_bytes and reference.peak_bytes else None
    demands = (
        ("{:.2g}x", measured.target_reference, measured.vs_reference, operator.ge),
        ("{:.2g}x compile", measured.target_compile, measured.vs_compile, operator.ge),
        ("{:.2g} of peak", measured.target_peak, peak, operator.le),
        ("{:g}x the baseline's time", measured.target_baseline, _baseline_multiple(measured), operator.le),
        ("{:.2g}x float32", measured.target_float32, measured.vs_float32, operator.ge),
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
        if measured.variant in (REFERENCE, COMPILE, PEER):
            continue
        others = {row.variant: row for row in rows if (row.case, row.phase) == (measured.case, measured.phase)}
        # Nothing is timed beside what is wrong.
        reference, compiled = others.get(REFERENCE, measured), others.get(COMPILE)
        lines.append(
            [
                measured.title,
                measured.phase,
                measured.note or _change(reference.median_ms, measured.median_ms),
                markdown.number(measured.vs_reference, "x"),
                _verdicts(reference, measured),
                markdown.number(measured.vs_compile, "x"),
                markdown.number(measured.vs_peer, "x"),
                _change(reference.saved_bytes, measured.saved_bytes, 1e6),
                _change(reference.peak_bytes, measured.peak_bytes, 1e6),
                markdown.number(None if measured.min_bytes is None else measured.min_bytes / 1e6),
                markdown.number(None if measured.flops is None else measured.flops / 1e9),
                _share(measured.floor_ms, measured.median_ms),
            ]
        )
        multiple = _baseline_multiple(measured)
        if multiple is not None:
            notes.append(f"Of {measured.title}, {measured.phase}: {multiple:.3g}x the baseline's time.")
        if measured.vs_float32 is not None:
            notes.append(f"{measured.title}, {measured.phase}: {measured.vs_float32:.3g}x our own float32.")
        if compiled is not None and compiled.note and measured.variant != BFLOAT16:
            notes.append(f"No torch.compile of {measured.title}, {measured.phase}: {compiled.note}.")
        if PEER in others and others[PEER].note and measured.variant != BFLOAT16:
            notes.append(f"The peer's {measured.title}, {measured.phase}: {others[PEER].note}.")
    return lines, notes


def setting(rows: Sequence[CpuRow]) -> str:
    """What was measured where, and what the columns mean."""
    row = rows[0]
    peer = f" Peer: {row.peer}, whose operators on the CPU are its own plain PyTorch." if row.peer else ""
    return (
        f"{row.chip}, {row.cores} cores, float32 where a row doesn't say bfloat16, torch {row.torch}, commit "
        f"{row.commit}; medians of runs taken in turns. A pass is without the passes before it: backward, second "
        "order. Arrows: reference → ours. x compile: against torch.compile of the reference. saved: kept by autograd "
        "for backward, parameters apart (of a training step: in G main). peak: growth of resident memory during the "
        "pass, results included. min: the fewest bytes, every tensor moved once. GFLOP: the fewest multiplications and "
        "additions, in convolutions, FIRs and matrix products. of roofline: the least time for these (at the rate of a "
        "copy of as many bytes, in whichever cache they fit, or of a large matrix product or convolution, timed in the "
        "same rounds) as a share of the time." + peer
    )


def text(rows: Sequence[CpuRow]) -> str:
    """The table, what it was measured on, and the notes, in Markdown."""
    lines, notes = cells(rows)
    return "\n".join([*markdown.table(HEADER, _ALIGNMENT, lines), "", setting(rows), *(f"\n{note}" for note in notes)])
