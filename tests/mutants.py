# SPDX-License-Identifier: Apache-2.0
"""Whether the tests find faults: applies those of mutants.toml one at a time, and runs the tests until one fails.

    python -m tests.mutants                      # all faults, two at a time, against what runs by default
    python -m tests.mutants --full               # survivors meet the full tables too
    python -m tests.mutants --only clamp --jobs 1

It works on copies of the tree, and the test that finds a fault must pass without it. A fault first meets the tests that
its entry names and then, if it survives these, whole suites. Results are kept in a CSV file, and a run that was cut off
goes on from there. As what runs by default is part of the full tables, whatever the first finds the second finds too.
"""

import argparse
import csv
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).parents[1]
MINUTES_PER_SUITE = 60
DEFAULT, EMULATE, INTERPRET = "", "emulate", "interpret"
SURVIVED = "survived"


@dataclass(frozen=True)
class Mutant:
    """One small fault.

    Attributes:
        name: What is wrong, in a few words.
        file: The file that it is in.
        before: Text that stands in the file once.
        after: What takes its place.
        tests: Of the tests, those that are most likely to find it: an expression for `pytest -k`.
    """

    name: str
    file: str
    before: str
    after: str
    tests: str

    @property
    def kind(self) -> str:
        """What kind of code the fault is in."""
        if self.file.startswith("csrc/"):
            return {"cpu": "C++", "cuda": "CUDA", "include": "headers"}[self.file.split("/")[1]]
        return "Triton" if Path(self.file).name.startswith("triton_") else "Python"

    @property
    def suites(self) -> tuple[str, ...]:
        """The suites that run this code, the likeliest first."""
        by_kind = {
            "C++": (DEFAULT,),
            "CUDA": (EMULATE,),
            "headers": (DEFAULT, EMULATE),
            "Triton": (INTERPRET, DEFAULT),
        }
        if Path(self.file).name == "cuda_impl.py":
            return EMULATE, DEFAULT
        return by_kind.get(self.kind, (DEFAULT, EMULATE, INTERPRET))

    def mutated(self, text: str) -> str:
        """The file's text with the fault in it.

        Raises:
            ValueError: The text to be replaced doesn't stand there exactly once.
        """
        if (count := text.count(self.before)) != 1:
            raise ValueError(f"{self.name}: {self.before!r} stands {count} times in {self.file}, not once")
        return text.replace(self.before, self.after)


def mutants() -> list[Mutant]:
    """The faults of mutants.toml."""
    table = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())
    return [Mutant(**entry) for entry in table["mutant"]]


class Copy:
    """A copy of the tree with its own extension, in which one fault at a time is tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, check=True, text=True,
        )  # fmt: skip
        # No test runs the CUDA extension without a GPU, so it needn't be built again with a fault in it.
        built = [str(path.relative_to(ROOT)) for path in (ROOT / "hsr_kernels").glob("_cuda*.so")]
        for name in filter(None, [*listed.stdout.split("\0"), *built]):
            if (ROOT / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self._build()

    def _build(self) -> None:
        environment = {**os.environ, "HSR_BUILD_CPU": "1", "HSR_BUILD_CUDA": "0"}
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the extension wasn't built:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")

    def verdict(self, mutant: Mutant, *, full: bool) -> str:
        """The test that finds a fault, or SURVIVED.

        Raises:
            ValueError, RuntimeError: The fault can't be applied or doesn't compile, or that test fails without it too.
        """
        path = self.folder / mutant.file
        original = path.read_text()
        is_native = mutant.kind in ("C++", "headers")
        path.write_text(mutant.mutated(original))
        try:
            if is_native:
                self._build()
            stages = [(suite, mutant.tests) for suite in mutant.suites] + [(suite, "") for suite in mutant.suites]
            stages += [(" and ".join(filter(None, (suite, "full"))), "") for suite in mutant.suites if full]
            marks, found = next(((s[0], test) for s in stages if (test := self._failure(*s))), ("", SURVIVED))
        finally:
            path.write_text(original)
            if is_native:
                self._build()
        if "::" in found and self._failure(marks, "", found):
            raise RuntimeError(f"{found} fails without the fault too")
        return found

    def _failure(self, marks: str, tests: str, test: str = "") -> str:
        """The first test that fails, empty where none does.

        Args:
            marks: Of the tests to run, for `pytest -m`.
            tests: For `pytest -k`.
            test: The one test to run; empty for all.
        """
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", marks, "-k", tests]
        command += filter(None, [test])
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, text=True,
                timeout=60 * MINUTES_PER_SUITE,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"no end after {MINUTES_PER_SUITE} minutes"
        # 5: no test was selected, which is no success for a test that is asked for by name.
        if done.returncode == 0 or (done.returncode == 5 and not test):
            return ""
        found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
        return found[1] if found else f"pytest ended with {done.returncode}: {done.stdout[-200:]}"


def verdicts(chosen: list[Mutant], jobs: int, full: bool) -> Iterator[tuple[Mutant, str]]:
    """(fault, verdict) in the order in which they are found, `jobs` at a time."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        copies: queue.Queue[Copy] = queue.Queue()
        for copy in pool.map(lambda i: Copy(Path(folder) / str(i)), range(jobs)):
            copies.put(copy)

        def tried(mutant: Mutant) -> tuple[Mutant, str]:
            copy = copies.get()
            try:
                return mutant, copy.verdict(mutant, full=full)
            finally:
                copies.put(copy)

        for future in as_completed([pool.submit(tried, mutant) for mutant in chosen]):
            yield future.result()


def known(path: Path) -> dict[str, str]:
    """{name: verdict} of an earlier run's file; empty where there is none."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["name"]: row["verdict"] for row in csv.DictReader(file)}


def table(found: dict[Mutant, str]) -> Table:
    """How many faults of each kind were caught."""
    every = Counter(mutant.kind for mutant in found)
    caught = Counter(mutant.kind for mutant, verdict in found.items() if verdict != SURVIVED)
    shown = Table("kind", "faults", "caught", title="Faults that the tests find")
    for kind, count in every.items():
        shown.add_row(kind, str(count), str(caught[kind]))
    shown.add_row("all", str(every.total()), f"{caught.total()} ({caught.total() / max(every.total(), 1):.1%})")
    return shown


def main() -> None:
    """Tries the faults that were asked for and prints which ones survive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="text in the names or files of the faults to try")
    parser.add_argument("--jobs", type=int, default=2, help="faults that are tried at a time")
    parser.add_argument("--full", action="store_true", help="run the full tables on what survives the default")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "mutants.csv", help="file of results")
    options = parser.parse_args()
    every = mutants()
    for mutant in every:
        mutant.mutated((ROOT / mutant.file).read_text())
    chosen = [mutant for mutant in every if options.only in mutant.name or options.only in mutant.file]
    verdict_of = known(options.out)
    if options.full:
        verdict_of = {name: verdict for name, verdict in verdict_of.items() if verdict != SURVIVED}
    missing = [mutant for mutant in chosen if mutant.name not in verdict_of]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    console = Console()
    with Progress(console=console) as progress:
        task = progress.add_task("faults", total=len(chosen), completed=len(chosen) - len(missing))
        for mutant, verdict in verdicts(missing, options.jobs, options.full):
            verdict_of[mutant.name] = verdict
            progress.advance(task)
            console.print(f"{mutant.kind:8} {mutant.name}: {verdict}", highlight=False, markup=False, soft_wrap=True)
            with options.out.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("name", "kind", "file", "verdict"))
                writer.writerows((m.name, m.kind, m.file, verdict_of[m.name]) for m in every if m.name in verdict_of)
    found = {mutant: verdict_of[mutant.name] for mutant in chosen}
    console.print(table(found))
    for mutant, verdict in found.items():
        if verdict == SURVIVED:
            console.print(f"survived: {mutant.name} ({mutant.file})", highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
