# SPDX-License-Identifier: Apache-2.0
"""The commands for curves and for comparisons with another commit."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

import hsr_kernels

from ..case import Case
from ..messages import fail
from . import against, plots, report, scaling
from .cases import CASES
from .measure import Options
from .report import CpuRow
from .worker import MEASURE, Worker

QUICK_ROUNDS = 3
console = Console(width=150)


def scale(
    case: str, over: str, repeats: int = 10, quick: bool = False, no_compile: bool = False, out: Path = Path("results")
) -> None:
    """Measures a case at several sizes or numbers of threads, fits an exponent, and draws the curves.

    Args:
        case: Its name.
        over: One of `scaling.AXES`.
        repeats: Maximum of rounds per point and pass.
        quick: Tiny sizes and 3 rounds: the figures mean nothing.
        no_compile: Leave out torch.compile.
        out: Folder for scale_<case>_<over>.csv, .md, .png and .svg.
    """
    plots.check()
    found = next((one for one in CASES if one.name == case), None)
    if found is None:
        fail(f"no case is called {case!r}; there are {', '.join(one.name for one in CASES)}")
    if missing := hsr_kernels.backends(device="cpu")["cpu"]:
        fail(f"there is nothing to measure: {missing}")
    points = scaling.points(found, over, tiny=quick)
    if len(points) < 2:
        fail(
            f"{case} has no curve over {over}: it has {len(points) or 'no'} size{'' if len(points) == 1 else 's'} there"
        )
    options = Options("cpu", QUICK_ROUNDS if quick else repeats, quick, not no_compile)
    measured, failures = _measured(points, over, options)
    curves = scaling.curves(measured)
    if not curves:
        fail(f"no figure: {failures[0]}")
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"scale_{case}_{over}"
    title = found.title + (" (tiny)" if quick else "")
    rows = [row for x in sorted(measured) for row in measured[x]]
    pictures = plots.draw(title, over, curves, path)
    report.write_csv(path.with_suffix(".csv"), rows)
    path.with_suffix(".md").write_text(scaling.text(title, over, curves, report.setting(rows), pictures[0].name))
    console.print("\n".join(scaling.table(curves, over)), highlight=False, soft_wrap=True)
    console.print(f"written: {path}.csv, .md, {', '.join(f'.{one}' for one in plots.FORMATS)}", soft_wrap=True)
    _conclude(failures)


def _measured(
    points: Sequence[scaling.Point], over: str, options: Options
) -> tuple[dict[int, list[CpuRow]], list[str]]:
    """Measures every point in a process of its own; returns the rows by position, and what has no figure and why."""
    measured: dict[int, list[CpuRow]] = {}
    failures: list[str] = []
    for point in points:
        try:
            with console.status(f"{point.case.name}, {over} {point.x}"), Worker() as worker:
                size = {"size": _plain(point.case, tiny=False), "tiny_size": _plain(point.case, tiny=True)}
                answer = worker.ask(MEASURE, case=point.case.name, threads=point.threads, **size, **asdict(options))
        except RuntimeError as error:
            failures.append(f"{over} {point.x}: {error}")
            continue
        measured[point.x] = [CpuRow(**row) for row in answer]
        failures += [f"{over} {point.x}, {r.phase}, {r.variant}: {r.note}" for r in measured[point.x] if r.is_invalid]
    return measured, failures


def _plain(case: Case, *, tiny: bool) -> dict[str, object]:
    """A case's size, without what can't be sent to another process, which a scaled size leaves as it is."""
    size = case.tiny_size if tiny else case.size
    return {key: value for key, value in size.items() if isinstance(value, int | float | str | tuple | list)}


def compare(gitref: str, cases: Sequence[Case], rounds: int, tiny: bool, out: Path | None) -> None:
    """Times this checkout and another commit in turns, in a process each.

    Args:
        gitref: The commit.
        cases: What is timed.
        rounds: Maximum per case and pass.
        tiny: Whether sizes are tiny.
        out: Folder for against.md.
    """
    try:
        with console.status(f"checking out and building {gitref}"):
            other = against.Checkout(gitref)
    except RuntimeError as error:
        fail(str(error))
    comparisons: list[against.Comparison] = []
    failures: list[str] = []
    with other, Worker() as now, Worker([str(other.packages)]) as before:
        other.check(before)
        for case in cases:
            try:
                with console.status(case.title):
                    comparisons += against.compare(case, now, before, rounds, tiny=tiny)
            except RuntimeError as error:
                failures.append(f"{case.name}: {error}")
    text = against.text(comparisons, other, tiny=tiny)
    console.print(text, highlight=False, soft_wrap=True, markup=False)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "against.md").write_text(text + "\n")
        console.print(f"written: {out / 'against.md'}", soft_wrap=True)
    _conclude(failures)


def _conclude(failures: Sequence[str]) -> None:
    for sentence in failures:
        console.print(f"no figure: {sentence}", highlight=False, markup=False, style="red")
    if failures:
        raise SystemExit(1)
