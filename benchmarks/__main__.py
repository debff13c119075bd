# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks`: `run` measures on the CPU, `gpu-report` on a GPU; `report` prints a measurement as Markdown.

`counts` and `instructions` compare what code does with what it did. `roofline` says what a chip could reach, without
measuring anything; `overhead` measures what the host does for a call on a GPU, with or without one. `gpu-cache` and
`gpu-unpack` carry compiled kernels to a GPU. The commands for a GPU need nothing but PyTorch, Triton, NumPy and pytest.
"""

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import AXES, PEER_FAMILIES, SUITES

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


def main(arguments: list[str] | None = None) -> None:
    """Runs a command; ends with exit code 2 and one sentence where it can't."""
    options = vars(parser().parse_args(arguments))
    module, function = options.pop("command")
    # Not before it is asked for: each command needs packages that a machine for others may lack.
    getattr(importlib.import_module(f"benchmarks.{module}"), function)(**options)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, module: str, function: str, about: str) -> Callable[..., Any]:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(command=(module, function))
        return added.add_argument

    add = command("run", "commands", "run", "Time operators and networks against plain PyTorch on the CPU, if right.")
    add("--device", choices=("cpu",), default="cpu", help="the backend to measure")
    add("--suite", choices=SUITES, default="", help="only the cases of this suite")
    add("--case", default="", help="only the cases whose name contains this")
    add("--repeats", type=int, default=30, help="maximum of rounds per case and pass; long cases take at least 5")
    add("--quick", action="store_true", help="tiny sizes and 3 rounds: the figures mean nothing")
    add("--no-compile", action="store_true", help="leave out torch.compile, which takes a minute or so per case")
    add("--out", type=Path, help="folder for <device>.csv and <device>.md")
    add("--peer", type=Path, metavar="PATH", help="somebody's own checkout of these operators, to be timed beside ours")
    add("--family", choices=PEER_FAMILIES, default="", help="whose operators they are")
    add("--against", default="", metavar="GITREF", help="time another commit in place of plain PyTorch, in turns")

    about = "Measure a case at several sizes or numbers of threads; fit an exponent and draw the curves."
    add = command("scale", "cpu.commands", "scale", about)
    add("case", metavar="CASE", help="its name, as `run` has it")
    add("--over", choices=AXES, required=True, help="what changes")
    add("--repeats", type=int, default=10, help="maximum of rounds per point and pass (%(default)s)")
    add("--quick", action="store_true", help="tiny sizes and 3 rounds: the figures mean nothing")
    add("--no-compile", action="store_true", help="leave out torch.compile")
    add("--out", type=Path, default=Path("results"), help="folder for the table and the pictures (%(default)s)")

    add = command("report", "commands", "report", "Print the Markdown table of a measurement.")
    add("csv", type=Path, help="what `run --out` wrote")

    about = "Compare counts (calls, kernels, operations, bytes) with recorded ones; exits with 1 where one has grown."
    add = command("counts", "counts.commands", "counts", about)
    add("--write", action="store_true", help="record what is counted now")

    about = "Count the instructions of the native CPU kernels with valgrind, beside recorded ones."
    add = command("instructions", "counts.commands", "instructions", about)
    add("--write", action="store_true", help="record what is counted now")
    add("--against", default="", metavar="GITREF", help="compare with the kernels of another commit, built here")
    add("--kernel", default="", help="only the kernels whose name contains this")

    about = "Print what GPU cases move, and the floor on three chips; of training, what each phase launches."
    add = command("roofline", "commands", "roofline_table", about)
    add("--case", default="", help="only the cases whose name contains this")
    add("--operators", action="store_true", help="list all operators, not only those that move too much")
    add("--most", type=float, default=1.15, help="times its fewest bytes that a fused operator may move (%(default)s)")

    about = "Measure the host's time per call of the cuda backend."
    add = command("overhead", "commands", "overhead_table", about)
    add("--csv", type=Path, help="a file for the rows")

    about = "Draw what training runs logged."
    add = command("curves", "curves", "curves", about)
    add("runs", nargs="+", metavar="RUN", help="run folder, or NAME=FOLDER to name it in the legend")
    add("--out", type=Path, required=True, help="the picture, such as curves.png or curves.svg")
    add("--scalars", default="", help="beginnings of the names of scalars, with commas between (the metrics)")

    about = "Test and measure everything on this machine's GPU; see docs/gpu-run.md."
    add = command("gpu-report", "gpu.commands", "report", about)
    add("--out", type=Path, required=True, help="folder for all files; what it has already isn't done again")
    add("--stages", default="tests,choices,cases,compile,profile", help="in this order (%(default)s)")
    add("--case", default="", help="only the cases whose name contains this")
    add("--minutes", type=float, default=9.5, help="when to stop, whatever remains to be done (%(default)s)")
    add("--since", type=float, metavar="SECONDS", help="start of the minutes, as `date +%%s` prints it (now)")
    add("--again", action="store_true", help="do again what the folder has of these stages and cases")
    add("--quick", action="store_true", help="tiny sizes: the figures mean nothing")

    about = "Compile and pack the GPU's Triton kernels, without a GPU."
    add = command("gpu-cache", "gpu.commands", "make_cache", about)
    add("archive", type=Path, metavar="OUT.tar.xz")
    add("--arch", choices=ARCHITECTURES, default="sm_90", help="the GPU's architecture (%(default)s)")
    add("--no-tests", action="store_true", help="leave out what only tests launch, which is most")
    add("--processes", type=int, help="compilers at a time (one per core)")

    about = "Unpack what gpu-cache packed; TRITON_CACHE_DIR has to name the folder."
    add = command("gpu-unpack", "gpu.commands", "unpack_cache", about)
    add("archive", type=Path)
    add("folder", type=Path)
    return parser


if __name__ == "__main__":
    main()
