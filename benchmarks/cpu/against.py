# SPDX-License-Identifier: Apache-2.0
"""This checkout and another commit, timed in turns: each in a process of its own, with this checkout's benchmarks."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import markdown
from ..case import Case
from ..messages import last_line
from ..setting import ROOT, commit, cores, processor
from ..timing import Time, percentiles
from .timing import MIN_ROUNDS
from .worker import OPEN, ORIGIN, TIME, Worker

# What is measured of a commit; the benchmarks are this checkout's on both sides.
PACKAGES = ("hsr_kernels", "hsr")
# What the CPU extension is made of.
SOURCES = ("csrc/cpu", "csrc/include", "csrc/CMakeLists.txt", "csrc/exports.map", "setup.py")
SECONDS_PER_PHASE = 20.0
# Until the threads of the process that was asked before sleep.
PAUSE_SECONDS = 0.05
HEADER = ("case", "pass", "before, ms", "now, ms", "times faster", "20% to 80% of rounds", "rounds")


class Checkout:
    """Another commit in a git worktree, with its own extension; a context manager that removes it."""

    def __init__(self, gitref: str) -> None:
        """Checks it out and builds its extension, or copies this checkout's where its sources are the same.

        Raises:
            RuntimeError: There is no such commit, or its extension can't be built.
        """
        self.gitref = gitref
        self.commit = _git("rev-parse", "--short", "--verify", f"{gitref}^{{commit}}").strip()
        self._folder = Path(tempfile.mkdtemp())
        self._tree = self._folder / "tree"
        # A folder that holds nothing but the packages, so that the benchmarks aren't those of the other commit.
        self.packages = self._folder / "packages"
        try:
            _git("worktree", "add", "--detach", str(self._tree), self.commit)
            self.is_built = self._build()
            self.packages.mkdir()
            for name in PACKAGES:
                (self.packages / name).symlink_to(self._tree / name)
        except RuntimeError:
            self._remove()
            raise

    def check(self, worker: Worker) -> None:
        """Raises `RuntimeError` unless the library that a process measures is this commit's."""
        origin = Path(worker.ask(ORIGIN)).resolve()
        if not origin.is_relative_to(self._tree.resolve()):
            raise RuntimeError(f"the library of {self.gitref} isn't what would be measured, but {origin}")

    def __enter__(self) -> "Checkout":
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _remove(self) -> None:
        subprocess.run(["git", "worktree", "remove", "--force", str(self._tree)], cwd=ROOT, capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _build(self) -> bool:
        """Returns whether the extension had to be built."""
        changed = subprocess.run(["git", "diff", "--quiet", self.commit, "--", *SOURCES], cwd=ROOT).returncode
        built = list((ROOT / "hsr_kernels").glob("_cpu.*.so"))
        if not changed and built:
            for file in built:
                shutil.copy2(file, self._tree / "hsr_kernels")
            return False
        variables = ["HSR_BUILD_CPU=1", "HSR_BUILD_CUDA=0"]
        command = ["env", *variables, sys.executable, "setup.py", "build_ext", "--inplace"]
        done = subprocess.run(command, cwd=self._tree, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"the extension of {self.gitref} can't be built: {last_line(done.stderr, done.stdout)}")
        return True


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"git {arguments[0]} failed: {last_line(done.stderr)}")
    return done.stdout


@dataclass(frozen=True)
class Comparison:
    """One pass of a case on both sides.

    Attributes:
        title, phase: What was timed.
        before, now: Seconds per round; entry i of both lists comes from round i.
    """

    title: str
    phase: str
    before: list[float]
    now: list[float]

    @property
    def speedup(self) -> Time:
        """Times faster now, over the rounds."""
        return percentiles([before / now for before, now in zip(self.before, self.now, strict=True)])


def compare(
    case: Case, now: Worker, before: Worker, max_rounds: int, *, tiny: bool, seconds: float = SECONDS_PER_PHASE
) -> Iterator[Comparison]:
    """Yields each pass of a case, timed on both sides in turns.

    Raises:
        RuntimeError: One side is wrong, which isn't timed, or fails.
    """
    sides = {"now": now, "before": before}
    for name, worker in sides.items():
        if fault := worker.ask(OPEN, case=case.name, tiny=tiny):
            raise RuntimeError(f"{name}: {fault}")
    for phase in case.targets:
        times: dict[str, list[float]] = {name: [] for name in sides}
        start = time.monotonic()
        for i in range(max_rounds):
            if i >= MIN_ROUNDS and time.monotonic() - start > seconds:
                break
            # Each begins as often as the other.
            for name in list(sides) if i % 2 == 0 else list(reversed(sides)):
                time.sleep(PAUSE_SECONDS)
                times[name].append(sides[name].ask(TIME, phase=phase))
        yield Comparison(case.title, phase, times["before"], times["now"])


def text(comparisons: Sequence[Comparison], other: Checkout, *, tiny: bool) -> str:
    """The table in Markdown, and what was measured."""
    lines = []
    for one in comparisons:
        ratio = one.speedup
        medians = [markdown.number(1e3 * percentiles(side).median) for side in (one.before, one.now)]
        spread = f"{ratio.p20:.3g} to {ratio.p80:.3g}"
        title = one.title + (" (tiny)" if tiny else "")
        lines.append([title, one.phase, *medians, f"{ratio.median:.3g}x", spread, str(len(one.now))])
    extension = "built for it" if other.is_built else "this checkout's, whose sources are the same"
    about = (
        f"{processor()}, {cores()} cores, float32. before: {other.gitref} ({other.commit}), its extension {extension}; "
        f"now: {commit()}. A process each, in turns; times faster: the median over the rounds of before / now."
    )
    return "\n".join([*markdown.table(HEADER, "llrrrrr", lines), "", about])
