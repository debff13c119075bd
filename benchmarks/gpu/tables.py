# SPDX-License-Identifier: Apache-2.0
"""The report's files, derived from the journal: gpu.csv, gpu.md, routes.csv and measured.csv."""

import os
from collections.abc import Mapping
from pathlib import Path

from hsr_kernels import _measured
from hsr_kernels.modulated_conv2d import routes

from ..workloads import SCHEDULE
from . import choosing, testing
from .cases import GPU_CASES
from .device import Time
from .journal import BEGAN, DONE, FAILED, Entry, Journal
from .measuring import LARGE_COPY
from .table import COPY, OUT_OF_TIME, Choices, Measured, csv_text, markdown, rows
from .worker import ROUTES_FILE

CSV, MARKDOWN, MEASURED_FILE = "gpu.csv", "gpu.md", "measured.csv"


def progress(journal: Journal, stage: str) -> str:
    """How far a stage is, in a few words."""
    entries = journal.of(stage)
    if stage == testing.STAGE:
        return testing.summary(journal)
    counts = {state: sum(entry.state == state for entry in entries.values()) for state in (DONE, FAILED)}
    return f"{counts[DONE]} items done" + (f", {counts[FAILED]} failed" if counts[FAILED] else "")


def write(folder: Path, journal: Journal) -> None:
    """Writes what there is anything to write of; each file is replaced in one go."""
    ways, sides, notes = choosing.found(journal.of("choices"))
    if ways:
        with _replacing(folder / ROUTES_FILE) as path:
            routes.write(path, ways)
    if sides:
        with _replacing(folder / MEASURED_FILE) as path:
            _measured.write(path, sides)
    entries = journal.of("cases") | {f"compile: {name}": entry for name, entry in journal.of("compile").items()}
    measured, large_copy = collected(entries, judged=journal.machine.get("sizes") == "full")
    lines = [row for one in measured for row in rows(one, large_copy)]
    notes += [f"{name}: {entry.reason}" for stage in ("kernels", "profile") for name, entry in _failed(journal, stage)]
    notes += [str(fault) for entry in journal.of("kernels").values() for fault in entry.data.get("faults", ())]
    text = markdown(lines, journal.machine, testing.summary(journal), large_copy, Choices(ways, sides, notes))
    for name, content in ((CSV, csv_text(lines, journal.machine)), (MARKDOWN, text + "\n")):
        with _replacing(folder / name) as path:
            path.write_text(content)


class _replacing:
    """Gives a path to write to, whose file takes another's place once it is whole."""

    def __init__(self, path: Path) -> None:
        self.path, self.part = path, path.with_name(path.name + ".part")

    def __enter__(self) -> Path:
        return self.part

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            os.replace(self.part, self.path)


def _failed(journal: Journal, stage: str) -> list[tuple[str, Entry]]:
    return [(name, entry) for name, entry in journal.of(stage).items() if entry.state == FAILED]


def collected(entries: Mapping[str, Entry], *, judged: bool) -> tuple[list[Measured], float | None]:
    """The cases of which anything was begun with all their passes, and the rate of a large copy in bytes per second.

    Args:
        judged: Whether sizes are those that goals are meant for.
    """
    cases = {case.name: case for case in GPU_CASES}
    found: dict[str, dict[str, Measured]] = {}
    for entry in entries.values():
        if "case" in entry.about:
            case = cases[entry.about["case"]]
            passes = found.setdefault(case.name, {phase: Measured(case, phase, judged) for phase in case.targets})
            _take(passes[entry.about["phase"]], entry)
    for name, passes in found.items():
        if SCHEDULE in passes:
            _schedule(cases[name].per_1000, passes)
    copy = entries.get(LARGE_COPY)
    rate = copy.data["fewest"] / copy.data["median"] if copy is not None and copy.state == DONE else None
    return [one for name in cases if name in found for one in found[name].values()], rate


def _take(one: Measured, entry: Entry) -> None:
    variant, key = entry.about["variant"], (entry.about["variant"], entry.about["mode"])
    if entry.state == DONE:
        one.times[key] = Time(*(entry.data[name] for name in Time._fields))
    note = OUT_OF_TIME if entry.state == BEGAN else entry.reason or entry.data.get("note", "")
    if note:
        one.notes[key] = note
    if variant == COPY and entry.state == DONE:
        one.fewest = entry.data["fewest"]
    elif "peak" in entry.data:
        one.peaks[variant] = entry.data["peak"]


def _schedule(per_1000: Mapping[str, float], passes: Mapping[str, Measured]) -> None:
    """The time for 1000 images, from those of the steps that it consists of."""
    for name in dict.fromkeys(name for one in passes.values() for name, _ in one.times):
        its = {phase: passes[phase].times.get((name, "eager")) for phase in per_1000}
        if all(its.values()):
            sums = [sum(n * getattr(its[phase], of) for phase, n in per_1000.items()) for of in Time._fields]
            passes[SCHEDULE].times[name, "eager"] = Time(*sums)
