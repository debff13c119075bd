# SPDX-License-Identifier: Apache-2.0
"""The report's files, derived from the journal: gpu.csv, gpu.md and measured.csv."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hsr_kernels._dispatch import measured

from . import choosing, testing
from .journal import DONE, FAILED, Entry, Journal
from .results import collect
from .table import csv_text, rows, text

CSV, MARKDOWN, MEASURED = "gpu.csv", "gpu.md", "measured.csv"


def progress(journal: Journal, stage: str) -> str:
    """How far a stage is, in a few words."""
    entries = journal.of(stage)
    if stage == testing.STAGE:
        return testing.summary(journal)
    counts = {state: sum(entry.state == state for entry in entries.values()) for state in (DONE, FAILED)}
    return f"{counts[DONE]} items done" + (f", {counts[FAILED]} failed" if counts[FAILED] else "")


def write(folder: Path, journal: Journal) -> None:
    """Writes the files that there is anything to write to; each one is replaced in one go."""
    measurements, unmeasured = choosing.measurements(journal.of("choices"))
    if measurements:
        with _replacing(folder / MEASURED) as path:
            measured.write(path, measurements)
    entries = journal.of("cases") | {f"compile: {name}": entry for name, entry in journal.of("compile").items()}
    results, large_copy = collect(entries, judged=journal.machine.get("sizes") == "full")
    lines = [row for result in results for row in rows(result, large_copy)]
    for stage in ("kernels", "profile"):
        unmeasured += [f"{name}: {entry.reason}" for name, entry in _failed(journal, stage)]
    unmeasured += [str(fault) for entry in journal.of("kernels").values() for fault in entry.data.get("faults", ())]
    report = text(lines, journal.machine, testing.summary(journal), large_copy, measurements, unmeasured)
    for name, content in ((CSV, csv_text(lines, journal.machine)), (MARKDOWN, report + "\n")):
        with _replacing(folder / name) as path:
            path.write_text(content)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to, whose file then takes another's place."""
    part = path.with_name(path.name + ".part")
    yield part
    os.replace(part, path)


def _failed(journal: Journal, stage: str) -> list[tuple[str, Entry]]:
    return [(name, entry) for name, entry in journal.of(stage).items() if entry.state == FAILED]
