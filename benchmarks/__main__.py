# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks`: `run` measures on the CPU, `gpu-report` on a GPU; `report` prints a measurement as Markdown.

`roofline` says what a chip could reach, without measuring anything; `overhead` measures what the host does for a call
on a GPU, with or without one. `gpu-cache` and `gpu-unpack` carry compiled kernels to a GPU. The commands for a GPU need
nothing but PyTorch, Triton, NumPy and pytest.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


def main(arguments: list[str] | None = None) -> None:
    """Runs a command; ends with exit code 2 and one sentence where it can't."""
    given = vars(_parser().parse_args(arguments))
    given.pop("run")(**given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[..., None], about: str) -> Callable[..., Any]:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(run=run)
        return added.add_argument

    add = command("run", _command("run"), "Time the operators and a training step against plain PyTorch on the CPU.")
    add("--device", choices=("cpu",), default="cpu", help="whose backend to measure")
    add("--case", default="", help="only the cases whose name contains this")
    add("--repeats", type=int, default=30, help="most rounds per case and pass; long cases take at least 5")
    add("--quick", action="store_true", help="tiny sizes and 3 rounds: the figures mean nothing")
    add("--no-compile", action="store_true", help="leave out torch.compile, which takes a minute or so per case")
    add("--out", type=Path, help="folder for <device>.csv and <device>.md")

    add = command("report", _command("report"), "Print the Markdown table of a measurement.")
    add("csv", type=Path, help="what `run --out` wrote")

    add = command("roofline", _command("roofline_table"), "Print what GPU cases move, and the floor on three chips.")
    add("--case", default="", help="only the cases whose name contains this")
    add("--operators", action="store_true", help="list all operators, not only those that move too much")
    add("--most", type=float, default=1.15, help="times its fewest bytes that a fused operator may move (%(default)s)")

    add = command("overhead", _command("overhead_table"), "Measure the host's time per call of the cuda backend.")
    add("--csv", type=Path, help="a file for the rows")

    add = command("gpu-report", _gpu_report, "Test and measure everything on this machine's GPU; see docs/gpu-run.md.")
    add("--out", type=Path, required=True, help="folder for all files; what stands there already isn't done again")
    add("--stages", default="tests,choices,cases,compile,profile", help="in this order (%(default)s)")
    add("--case", default="", help="only the cases whose name contains this")
    add("--minutes", type=float, default=9.5, help="when everything is over, whatever remains to be done (%(default)s)")
    add("--since", type=float, metavar="SECONDS", help="begin of the minutes: what `date +%%s` said (now)")
    add("--again", action="store_true", help="do again what the folder has of these stages and cases")
    add("--quick", action="store_true", help="tiny sizes: the figures mean nothing")

    add = command("gpu-cache", _gpu_cache, "Compile and pack the GPU's Triton kernels, without a GPU.")
    add("archive", type=Path, metavar="OUT.tar.xz")
    add("--arch", choices=ARCHITECTURES, default="sm_90", help="the GPU's architecture (%(default)s)")
    add("--no-tests", action="store_true", help="leave out what only tests launch, which is most")
    add("--processes", type=int, help="compilers at a time (one per core)")

    add = command("gpu-unpack", _gpu_unpack, "Unpack what gpu-cache packed; TRITON_CACHE_DIR is to name the folder.")
    add("archive", type=Path)
    add("folder", type=Path)
    return parser


def _command(name: str) -> Callable[..., None]:
    """A function of commands.py, which needs packages that a GPU machine may lack."""

    def run(**options: Any) -> None:
        from . import commands

        getattr(commands, name)(**options)

    return run


def _say(line: str) -> None:
    print(line, flush=True)


def _gpu_report(
    out: Path, stages: str, case: str, minutes: float, since: float | None, again: bool, quick: bool
) -> None:
    from .gpu import report
    from .gpu.cases import GPU_CASES

    # Ended from outside, it ends its workers: they have sessions of their own.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    if not any(case in one.name for one in GPU_CASES):
        _fail(f"no case is called {case!r}; there are {', '.join(one.name for one in GPU_CASES)}")
    if not 0 < minutes < float("inf"):
        _fail(f"--minutes must be above 0, got {minutes:g}")
    passed = 0.0 if since is None else time.time() - since
    if not 0 <= passed < 60 * minutes:
        _fail(f"--since must be less than --minutes ago, and {since:.0f} was {passed:.0f} seconds ago")
    try:
        todo = report.known_stages(stages)
        report.report(out, todo, case, tiny=quick, seconds=60 * minutes - passed, again=again, say=_say)
    except report.NotRun as error:
        _fail(str(error))


def _gpu_cache(archive: Path, arch: str, no_tests: bool, processes: int | None) -> None:
    from .gpu import cache

    if not archive.name.endswith(".tar.xz") or not archive.absolute().parent.is_dir():
        _fail(f"OUT must be a file in an existing folder whose name ends in .tar.xz, got {archive}")
    if processes is not None and processes < 1:
        _fail(f"--processes must be at least 1, got {processes}")
    faults = cache.make(archive, arch, processes or len(os.sched_getaffinity(0)), not no_tests, _say)
    for fault in faults:
        _say(fault)
    if faults:
        raise SystemExit(1)


def _gpu_unpack(archive: Path, folder: Path) -> None:
    from .gpu import cache, device

    try:
        kernels = cache.unpack(archive, folder, device.architecture())
    except (cache.UselessCache, OSError) as error:
        _fail(str(error))
    _say(f"{kernels} kernels; now: export TRITON_CACHE_DIR={folder.absolute()}")


def _fail(sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
