# SPDX-License-Identifier: Apache-2.0
"""python -m hsr_kernels.compat: other people's StyleGAN scripts on this package's operators.

run     runs a script or a module, unmodified
check   reads a project without running it, and says what `run` does about it
"""

import argparse
import importlib.util
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from . import FAMILIES
from .check import Problem, Report, check
from .repairs import REPAIRS
from .run import MAX_ENTRIES, folders_of, settings_for, start

_PROGRAM = "python -m hsr_kernels.compat"
_CHECK_EPILOG = """exit codes:
  0  nothing was found
  1  `run` takes care of everything that was found
  2  something is left to change by hand, or PATH can't be read"""
MAX_SHOWN_CHARACTERS = 100
# A tree that is read in less time needs no counter.
MIN_SECONDS_OF_COUNTER = 2.0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Says in one sentence what is wrong."""
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> _Parser:
    parser = _Parser(_PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="run|check", parser_class=_Parser)
    runs = commands.add_parser(
        "run",
        help="run a script or a module, unmodified",
        description="Runs a script or a module, unmodified, on hsr_kernels' operators.",
        usage=f"{_PROGRAM} run [options] SCRIPT|-m MODULE [ARGUMENT ...]",
        epilog="What follows SCRIPT or MODULE is the script's. Exit code: the script's; 2 where there is none to run.",
        allow_abbrev=False,
    )
    runs.add_argument(
        "--family",
        action="append",
        choices=FAMILIES,
        help="whose operators to replace; may be repeated; by default those that the script's folder has a copy of",
    )
    runs.add_argument("--no-repairs", action="store_true", help="repair nothing that PyTorch, NumPy and others refuse")
    runs.add_argument(
        "--trust-pickles",
        action="store_true",
        help="have torch.load read any pickle, which can run any code: for files of a source that you trust",
    )
    runs.add_argument("--list-repairs", action="store_true", help="list the repairs, and run nothing")
    checks = commands.add_parser(
        "check",
        help="read a project without running it",
        description="Says whose operators a project has a copy of, which lines fail on what is installed, and what "
        "`run` does about each.",
        epilog=_CHECK_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    checks.add_argument(
        "path", type=Path, metavar="PATH", help="the project's folder, from which its imports are named"
    )
    return parser


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns what `run` is given for itself, and from the script or `-m` on what it runs."""
    count = 0
    while count < len(arguments) and arguments[count].startswith("-") and arguments[count] not in ("-m", "--"):
        count += 2 if arguments[count] == "--family" else 1
    return [*arguments[:count]], [*arguments[count + (arguments[count : count + 1] == ["--"]) :]]


def _run(parser: _Parser, arguments: Sequence[str]) -> None:
    run_arguments, script = _split(arguments)
    options = parser.parse_args(["run", *run_arguments])
    if options.list_repairs:
        width = max(len(repair.name) for repair in REPAIRS)
        print("\n".join(f"{repair.name:{width}}  {repair.what}" for repair in REPAIRS))
        return
    is_module = script[:1] == ["-m"]
    if is_module:
        script = script[1:]
    if not script:
        parser.error("run: give a script or -m and a module to run")
    target, rest = script[0], script[1:]
    if is_module and importlib.util.find_spec(target.partition(".")[0] or "?") is None:
        parser.error(f"run: there is no module {target}")
    if not is_module and not Path(target).exists():
        parser.error(f"run: there is no script {target}")
    if sys.flags.ignore_environment or sys.flags.no_site:
        parser.error("run: leave out Python's options -E, -I and -S, as scripts are prepared by what they switch off")
    folders = folders_of(target, rest, is_module=is_module)
    settings, unread = settings_for(
        folders, options.family or (), repair=not options.no_repairs, trust_pickles=options.trust_pickles
    )
    for folder in unread:
        _say(f"{folder} has more than {MAX_ENTRIES:,} files, of which the first ones were looked at")
    if settings.families:
        _say(f"{' and '.join(settings.families)}: hsr_kernels' operators stand for {', '.join(settings.packages)}")
    else:
        _say(f"no copy of the operators was found in {' or '.join(map(str, folders))}; --family says whose there is")
    start(target, rest, settings, is_module=is_module)


def _say(text: str) -> None:
    print(f"hsr_kernels.compat: {text}", file=sys.stderr, flush=True)


def _check(parser: _Parser, path: Path) -> int:
    if not path.exists():
        parser.error(f"check: there is no {path}")
    report = check(path, _counted)
    for copy in report.copies:
        place = _shown(copy.place, report)
        has = "imports" if copy.place.is_file() else "has a copy of"
        print(f"{place}: {has} the operators of {copy.family}; `run` replaces {copy.package or copy.place.name}")
    for problem in report.problems:
        print(f"{_shown(problem.file, report)}:{problem.line}: {_sentence(problem)}")
    print(_summary(report))
    return report.exit_code


def _shown(path: Path, report: Report) -> str:
    return str(path.relative_to(report.base))


def _sentence(problem: Problem) -> str:
    text = f"`{problem.text[:MAX_SHOWN_CHARACTERS]}`: " if problem.text else ""
    if problem.repair is None:
        return f"{text}{problem.what}; to be changed by hand"
    verb = "repairs it" if problem.repair.is_default else "repairs it if asked to"
    return f"{text}`run` {verb} ({problem.repair.name}: {problem.what})"


def _summary(report: Report) -> str:
    by_hand = sum(problem.repair is None for problem in report.problems)
    notebooks = f" ({_count(report.notebooks, 'notebook')} not)" if report.notebooks else ""
    return (
        f"{_count(report.files, 'Python file')} read{notebooks}: "
        f"{_count(len({copy.family for copy in report.copies}), 'family', 'families')} to replace, "
        f"{_count(len(report.problems) - by_hand, 'line')} that `run` repairs, "
        f"{_count(by_hand, 'line')} to change by hand"
    )


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _counted(files: Iterable[Path]) -> Iterator[Path]:
    """Shows on a terminal how many files have been read, where that takes long."""
    begin, is_shown = time.monotonic(), False
    for number, file in enumerate(files):
        if sys.stderr.isatty() and number % 50 == 0 and time.monotonic() - begin > MIN_SECONDS_OF_COUNTER:
            print(f"\r{number:,} files read", end="", file=sys.stderr, flush=True)
            is_shown = True
        yield file
    if is_shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Runs one of the commands; returns its exit code."""
    parser = _parser()
    # What belongs to a script must not be parsed.
    if arguments[:1] == ["run"] and arguments[1:2] not in (["-h"], ["--help"]):
        _run(parser, arguments[1:])
        return 0
    options = parser.parse_args(arguments)
    return _check(parser, options.path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
