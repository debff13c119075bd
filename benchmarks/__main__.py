# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks run` measures on the CPU, `gpu-report` on a GPU; `report` prints a measurement as Markdown.

`roofline` says what a chip could reach, without measuring anything.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import hsr_kernels

from . import gpu, roofline
from .cases import CASES, GPU_CASES
from .report import HEADER, Row, markdown, read_csv, setting, table, write_csv
from .run import Options, measure, use_all_cores

console = Console(width=None if sys.stdout.isatty() else 120)


def run(
    device: Literal["cpu"] = "cpu",
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


def report(csv: Annotated[Path, tyro.conf.Positional]) -> None:
    """Prints the Markdown table of a measurement.

    Args:
        csv: What `run --out` wrote.
    """
    try:
        print(markdown(read_csv(csv)))
    except (OSError, ValueError) as error:
        _fail(str(error))


def roofline_table(case: str = "", operators: bool = False) -> None:
    """Prints the fewest bytes and operations of each GPU case, what our operators move, and the floor on three chips.

    Nothing is measured: bytes are added up over operators that run on tensors without data, floors come from data
    sheets (memory bandwidth; dense tensor-core rates, plain float32 for float32).

    Args:
        case: Only the cases whose name contains this.
        operators: List the operators that the moved bytes are made of, too.
    """
    chosen = [c for c in GPU_CASES if case in c.name]
    if not chosen:
        _fail(f"no case is called {case!r}; there are {', '.join(c.name for c in GPU_CASES)}")
    missing = hsr_kernels.backends()["cpu"]
    if missing:
        _fail(f"the operators are traced with the cpu backend: {missing}")
    view = Table(*roofline.HEADER, box=SIMPLE)
    parts = Table("case", "pass", "operator", "calls", "MB", box=SIMPLE)
    for current in chosen:
        for work in roofline.estimate(current):
            view.add_row(*roofline.line(work))
            for name, (calls, moved) in sorted(work.operators.items(), key=lambda item: -item[1][1]):
                parts.add_row(current.name, work.phase, name, str(calls), f"{moved / 1e6:.1f}")
    console.print(view)
    console.print(
        "fewest: inputs and parameters read once, results written once. moved: by our operators and PyTorch's between "
        "them. Floors are data-sheet times of the fewest bytes or the operations, whichever take longer.",
        highlight=False,
    )
    if operators:
        console.print(parts)


def gpu_report(out: Path, case: str = "", quick: bool = False, minutes: float = 9.0) -> None:
    """Tests and measures everything on this machine's GPU and writes one CSV and one Markdown table.

    Runs `pytest -m gpu`, then times every case with a cold L2 cache, called eagerly and as a CUDA graph, beside the
    reference, torch.compile of it, the bare convolution and a device copy.

    Args:
        out: Folder for gpu.csv, gpu.md and tests.log.
        case: Only the cases whose name contains this.
        quick: Tiny sizes, no tests: to see that everything runs; the figures mean nothing.
        minutes: What isn't done by then is reported as not measured.
    """
    try:
        gpu.report(out, case, quick=quick, minutes=minutes, say=lambda line: console.print(line, highlight=False))
    except gpu.NoGpu as error:
        _fail(str(error))


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


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"run": run, "report": report, "roofline": roofline_table, "gpu-report": gpu_report},
        prog="python -m benchmarks",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
