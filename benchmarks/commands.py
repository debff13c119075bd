# SPDX-License-Identifier: Apache-2.0
"""The commands that measure on the CPU or count, and show what they found as tables; the GPU's are in gpu/."""

import importlib.util
import os
import sys
from pathlib import Path

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import hsr_kernels

from . import overhead, roofline
from .cases import CASES
from .gpu.cases import GPU_CASES
from .report import HEADER, Row, markdown, read_csv, setting, table, write_csv
from .run import Options, chip, commit, measure, use_all_cores

console = Console(width=None if sys.stdout.isatty() else 150)


def run(
    device: str = "cpu",
    case: str = "",
    repeats: int = 30,
    quick: bool = False,
    no_compile: bool = False,
    out: Path | None = None,
) -> None:
    """Times the operators and a training step against plain PyTorch, in float32, on all cores.

    Args:
        device: Whose backend to measure.
        case: Only the cases whose name contains this.
        repeats: Most rounds per case and pass; long cases take fewer, but at least 5.
        quick: Tiny sizes and 3 rounds, to see that everything runs; the figures mean nothing.
        no_compile: Leave out torch.compile, which takes a minute or so per case to compile.
        out: Folder for <device>.csv and <device>.md.
    """
    chosen = [c for c in CASES if case in c.name]
    if not chosen:
        _fail(f"no case is called {case!r}; there are {', '.join(c.name for c in CASES)}")
    if repeats < 1:
        _fail(f"--repeats must be at least 1, got {repeats}")
    missing = hsr_kernels.backends(device=device)[device]
    if missing:
        _fail(f"there is nothing to measure: {missing}")
    use_all_cores()
    _warn_if_busy()
    options = Options(device, 3 if quick else repeats, quick, not no_compile)
    rows: list[Row] = []
    for current in chosen:
        with console.status(current.title):
            rows += measure(current, options)
        _show([row for row in rows if row.case == current.name])
    console.print(setting(rows), highlight=False)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_csv(out / f"{device}.csv", rows)
        (out / f"{device}.md").write_text(markdown(rows) + "\n")
        console.print(f"written: {out / device}.csv and .md")


def report(csv: Path) -> None:
    """Prints the Markdown table of a measurement.

    Args:
        csv: What `run --out` wrote.
    """
    try:
        print(markdown(read_csv(csv)))
    except (OSError, ValueError) as error:
        _fail(str(error))


def roofline_table(case: str = "", operators: bool = False, most: float = roofline.MOST) -> None:
    """Prints the fewest bytes and operations of each GPU case, what our operators move, and the floor on three chips.

    Nothing is measured: the Triton implementations run on tensors without data, and what their launches and PyTorch's
    own operators take and return is added up. Floors come from data sheets (memory bandwidth; dense tensor-core rates,
    plain float32 for float32). Exits with 1 where one of our fused operators moves more than `most` times its fewest
    bytes.

    Args:
        case: Only the cases whose name contains this.
        operators: List all operators that the moved bytes are made of, not only those that move too much.
        most: How many times the fewest bytes a fused operator may move; inf: any.
    """
    chosen = [c for c in GPU_CASES if case in c.name]
    if not chosen:
        _fail(f"no case is called {case!r}; there are {', '.join(c.name for c in GPU_CASES)}")
    if importlib.util.find_spec("triton") is None:
        _fail("the Triton implementations are traced, and Triton isn't installed")
    view, parts = Table(*roofline.HEADER, box=SIMPLE), Table(*roofline.OPERATORS, box=SIMPLE)
    faults = 0
    for current in chosen:
        for work in (work for route in current.routes for work in roofline.estimate(current, route)):
            view.add_row(*roofline.line(work))
            wasteful = work.wasteful(most)
            faults += len(wasteful)
            for line in roofline.operator_lines(work, most, None if operators else set(wasteful)):
                parts.add_row(*line)
    console.print(view)
    console.print(
        "fewest: inputs and parameters read once, results written once. moved: by our operators and PyTorch's between "
        "them. Floors are data-sheet times of the fewest bytes or the operations, whichever take longer.",
        highlight=False,
    )
    if parts.row_count:
        console.print(parts)
    said = f"operators of ours, counted per case and pass, move more than {most:g} times their fewest bytes"
    console.print(f"{faults or 'no'} {said}", highlight=False)
    if faults:
        raise SystemExit(1)


def overhead_table(csv: Path | None = None) -> None:
    """Measures the host's time per eager call of small tensors on the cuda backend, forward and without gradients.

    Without a device launches are counted and not run (this builds the tests' emulated extension), so the driver's share
    of a launch isn't in it; with one it is. PyTorch's operations compute on the device, and without one on the CPU.

    Args:
        csv: A file for the rows.
    """
    from tests.emulator.build import build

    _warn_if_busy()
    try:
        rows = overhead.in_process("cpu", build("_cuda_emulated"))
        missing = hsr_kernels.backends()["cuda"] if torch.cuda.is_available() else "PyTorch sees no CUDA device"
        rows += overhead.in_process("cuda", None) if not missing else []
    except RuntimeError as error:
        _fail(str(error))
    view = Table(*overhead.HEADER, box=SIMPLE)
    for row in rows:
        view.add_row(*overhead.line(row))
    console.print(view)
    setting = {"processor": chip(), "cores": str(len(os.sched_getaffinity(0)))}
    setting |= {"torch": torch.__version__, "commit": commit()}
    about = ", ".join(f"{name} {value}" for name, value in setting.items())
    console.print(f"{about}; load {rows[0].load:.1f}. Median and fewest of batches of calls in turns.", highlight=False)
    console.print(f"On a device: {'not measured: ' + missing if missing else 'launched for real'}.", highlight=False)
    if csv is not None:
        overhead.write_csv(csv, rows, setting)
        console.print(f"written: {csv}")


def _show(rows: list[Row]) -> None:
    lines, notes = table(rows)
    view = Table(*HEADER[1:], title=rows[0].title, title_justify="left", box=SIMPLE)
    for line in lines:
        view.add_row(*(cell.replace("**", "").replace("; ", "\n") for cell in line[1:]))
    console.print(view)
    for note in notes:
        console.print(note, highlight=False, markup=False)


def _warn_if_busy() -> None:
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > 0.5 * cores:
        console.print(f"[yellow]The machine is busy (load {load:.1f} on {cores} cores): expect noise.[/yellow]")


def _fail(sentence: str) -> None:
    print(sentence, file=sys.stderr)
    raise SystemExit(2)
