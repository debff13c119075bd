# SPDX-License-Identifier: Apache-2.0
"""The commands that measure on the CPU or count, and show what they found as tables; the GPU's are in gpu/."""

import importlib.util
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import hsr_kernels

from . import overhead, roofline, steps
from .case import Case, select
from .cpu import report as cpu_report
from .cpu.cases import CASES
from .cpu.commands import QUICK_ROUNDS, compare
from .cpu.measure import Options
from .cpu.report import CpuRow
from .cpu.worker import MEASURE, PEER_PACKAGE, Worker
from .gpu.cases import GPU_CASES
from .messages import fail
from .peers.checkout import UselessPeer, package
from .setting import commit, cores, processor

# Of the machine's cores: with more processes than that, times are noise.
MAX_LOAD_SHARE = 0.5
console = Console(width=None if sys.stdout.isatty() else 150)


def run(
    device: str = "cpu",
    suite: str = "",
    case: str = "",
    repeats: int = 30,
    quick: bool = False,
    no_compile: bool = False,
    out: Path | None = None,
    peer: Path | None = None,
    family: str = "",
    against: str = "",
) -> None:
    """Times the operators and networks against plain PyTorch, in float32, on all cores, each case in its own process.

    Ends with exit code 1 where a variant is wrong, which isn't timed, or a time is beyond what the machine can do.

    Args:
        device: The backend to measure.
        suite: Only the cases of this suite.
        case: Only the cases whose name contains this.
        repeats: Maximum of rounds per case and pass; long cases take fewer, but at least 5.
        quick: Tiny sizes and 3 rounds, to see that everything runs; the figures mean nothing.
        no_compile: Leave out torch.compile, which takes a minute or so per case to compile.
        out: Folder for <device>.csv and <device>.md.
        peer: Somebody's own checkout of these operators, which are timed beside ours.
        family: Whose they are: nvlabs, rosinality or mmcv.
        against: A commit that is timed in place of plain PyTorch.
    """
    cases = select(case, CASES, suite)
    if repeats < 1:
        fail(f"--repeats must be at least 1, got {repeats}")
    if missing := hsr_kernels.backends(device=device)[device]:
        fail(f"there is nothing to measure: {missing}")
    if (peer is None) != (not family):
        fail("--peer PATH and --family go together")
    if peer is not None:
        _check_peer(peer, family)
    _warn_if_busy()
    if against:
        compare(against, cases, QUICK_ROUNDS if quick else repeats, quick, out)
        return
    options = Options(
        device,
        QUICK_ROUNDS if quick else repeats,
        quick,
        not no_compile,
        measures_peak=True,
        peer=str(peer.resolve()) if peer else "",
        family=family,
    )
    rows: list[CpuRow] = []
    failures: list[str] = []
    for current in cases:
        try:
            with console.status(current.title), Worker() as worker:
                found = [CpuRow(**row) for row in worker.ask(MEASURE, case=current.name, **asdict(options))]
        except RuntimeError as error:
            failures.append(f"{current.name}: {error}")
            continue
        _show(found)
        rows += found
        failures += [f"{row.case}, {row.phase}, {row.variant}: {row.note}" for row in found if row.is_invalid]
    if rows:
        console.print(cpu_report.setting(rows), highlight=False)
    if out is not None and rows:
        out.mkdir(parents=True, exist_ok=True)
        cpu_report.write_csv(out / f"{device}.csv", rows)
        (out / f"{device}.md").write_text(cpu_report.text(rows) + "\n")
        console.print(f"written: {out / device}.csv and .md")
    for sentence in failures:
        console.print(f"no figure: {sentence}", highlight=False, markup=False, style="red")
    if failures:
        raise SystemExit(1)


def _check_peer(path: Path, family: str) -> None:
    """Ends the program with a sentence where a checkout's operators can't be imported."""
    try:
        # What isn't there needs no process to be found out.
        package(path, family)
        with Worker() as worker:
            worker.ask(PEER_PACKAGE, path=str(path.resolve()), family=family)
    except (UselessPeer, RuntimeError) as error:
        fail(str(error))


def report(csv: Path) -> None:
    """Prints the Markdown table of a measurement.

    Args:
        csv: What `run --out` wrote.
    """
    try:
        print(cpu_report.text(cpu_report.read_csv(csv)))
    except (OSError, ValueError) as error:
        fail(str(error))


def roofline_table(case: str = "", operators: bool = False, most: float = roofline.MAX_MOVED_RATIO) -> None:
    """Prints the fewest bytes and operations of each GPU case, what operators move, and the floor on three chips.

    Of a training step it prints what each phase launches and calls.

    Nothing is measured: the Triton implementations run on tensors without data, and what their launches and PyTorch's
    own operators take and return is added up. Floors come from data sheets (memory bandwidth; dense tensor-core rates,
    plain float32 for float32). Exits with 1 where a fused operator moves more than `most` times its fewest bytes.

    Args:
        case: Only the cases whose name contains this.
        operators: List all operators that the moved bytes are made of, not only those that move too much.
        most: How many times the fewest bytes a fused operator may move; inf for no limit.
    """
    cases = select(case, GPU_CASES)
    if importlib.util.find_spec("triton") is None:
        fail("the Triton implementations are traced, and Triton isn't installed")
    for current in cases:
        # An encoder's features can't be compared without their values.
        if current.is_training and not current.size["encoder"]:
            _show_phases(current, operators)
    cases = [current for current in cases if not current.is_training]
    if not cases:
        return
    table, parts = Table(*roofline.HEADER, box=SIMPLE), Table(*roofline.OPERATORS_HEADER, box=SIMPLE)
    faults = 0
    for current in cases:
        for work in (work for route in current.routes for work in roofline.estimate(current, route)):
            table.add_row(*roofline.cells(work))
            faults += len(work.wasteful(most))
            for row in roofline.operator_cells(work, most, only_wasteful=not operators):
                parts.add_row(*row)
    console.print(table)
    console.print(
        "min: inputs and parameters read once, results written once. moved: by fused operators and PyTorch's "
        "between them. Floors are data-sheet times of these bytes or the operations, whichever take longer.",
        highlight=False,
    )
    if parts.row_count:
        console.print(parts)
    sentence = f"fused operators, counted per case and pass, move more than {most:g} times their fewest bytes"
    console.print(f"{faults or 'no'} {sentence}", highlight=False)
    if faults:
        raise SystemExit(1)


def _show_phases(case: Case, operators: bool) -> None:
    """Prints what the phases of a training step launch and call; with `operators` by kernel and operator too."""
    table, parts = Table(*steps.HEADER, box=SIMPLE), Table(*steps.PARTS_HEADER, box=SIMPLE)
    with console.status(case.title):
        counts = steps.count_step(**case.size)
    for count in counts:
        table.add_row(*count.cells())
        for row in count.part_cells():
            parts.add_row(*row)
    console.print(case.title, highlight=False)
    console.print(table)
    console.print(
        "launches: of Triton kernels. operations: PyTorch's own that touch data, within the library's operators or "
        "between them; their bytes leave out those of convolutions.",
        highlight=False,
    )
    if operators:
        console.print(parts)


def overhead_table(csv: Path | None = None) -> None:
    """Measures the host's time per eager call of small tensors on the cuda backend, without gradients and with them.

    Without a device launches are counted and not run (this builds the tests' emulated extension), so the driver's share
    of a launch isn't in it; with one it is. PyTorch's operations compute on the device, and without one on the CPU.

    Args:
        csv: A file for the rows.
    """
    _warn_if_busy()
    try:
        rows = overhead.measure_in_process("cpu", overhead.build_emulated())
        missing = hsr_kernels.backends()["cuda"] if torch.cuda.is_available() else "PyTorch sees no CUDA device"
        rows += overhead.measure_in_process("cuda", None) if not missing else []
    except RuntimeError as error:
        fail(str(error))
    table = Table(*overhead.HEADER, box=SIMPLE)
    for row in rows:
        table.add_row(*overhead.cells(row))
    console.print(table)
    setting = {"processor": processor(), "cores": str(cores()), "torch": torch.__version__, "commit": commit()}
    about = ", ".join(f"{name} {value}" for name, value in setting.items())
    console.print(f"{about}; load {rows[0].load:.1f}. Median and min of batches of calls in turns.", highlight=False)
    console.print(f"On a device: {'not measured: ' + missing if missing else 'launched for real'}.", highlight=False)
    if csv is not None:
        overhead.write_csv(csv, rows, setting)
        console.print(f"written: {csv}")


def _show(rows: list[CpuRow]) -> None:
    lines, notes = cpu_report.cells(rows)
    # A case in bfloat16 has a title of its own.
    for title in dict.fromkeys(line[0] for line in lines):
        table = Table(*cpu_report.HEADER[1:], title=title, title_justify="left", box=SIMPLE)
        for line in (line for line in lines if line[0] == title):
            table.add_row(*(cell.replace("**", "").replace("; ", "\n") for cell in line[1:]))
        console.print(table)
    for note in notes:
        console.print(note, highlight=False, markup=False)


def _warn_if_busy() -> None:
    load = os.getloadavg()[0]
    if load > MAX_LOAD_SHARE * cores():
        console.print(f"[yellow]The machine is busy (load {load:.1f} on {cores()} cores): expect noise.[/yellow]")
