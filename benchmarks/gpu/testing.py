# SPDX-License-Identifier: Apache-2.0
"""The GPU's tests in groups, the most telling first, each in processes of its own.

tests/conftest.py notes each test in the journal as it ends, so that a group that was stopped goes on where it was, also
after a process crashed, and that the last group is what no other had.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..memory import ROOT
from . import device
from .items import Item, Task
from .journal import BEGAN, FAILED, NAME, Journal

STAGE = "tests"
# What tests/conftest.py reads: the journal, how much of it tells what was tested before, and a file for failures.
JOURNAL, JOURNAL_BYTES, FAILURES = "HSR_JOURNAL", "HSR_JOURNAL_BYTES", "HSR_FAILURES"
EVERY_TEST = ("tests/ops", "--ignore=tests/ops/test_aot.py")  # that one is of compiling, and needs more packages
LOG, FAILED_TESTS = "tests.log", "failures.txt"
MAX_PROCESSES = 14
_TAIL_LINES = 60  # of what pytest prints
_OVER = (0, 1, 5)  # pytest ran to its end: passed, failed, nothing to run
_SANITIZER_SECONDS = 60.0
_SANITIZED = (
    "bias_act-lrelu-clamped", "upsample2d-skip-to-rgb", "downsample2d-blur-and-halve", "filter2d-blur",
    "upfirdn2d-up-3-down-2", "conv2d_resample-down-2", "modulated_conv2d-styled-cuda", "modulated_conv2d-styled-up",
    "modulated_conv2d-styled-down", "modulated_conv2d-to-rgb-cuda",
)  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Tests that are run together.

    Attributes:
        select: What pytest is given beside `-m gpu`.
        alone: Whether one process does.
        prefix: A program that runs pytest, with its options.
    """

    name: str
    select: Sequence[str]
    seconds: float = float("inf")
    alone: bool = False
    prefix: Sequence[str] = ()


def groups() -> Iterator[Group]:
    """The most telling first: what needs no compiling, and what one failure of which says most."""
    yield Group("every operator on both backends", ("tests/ops/test_gpu.py", "-k", "agrees"), 90.0, alone=True)
    yield Group("what only a GPU can show", ("tests/ops/test_gpu.py",))
    yield Group("cuda kernels", (*EVERY_TEST, "-k", "cuda-cuda"))
    program = shutil.which("compute-sanitizer")
    for tool in ("memcheck", "racecheck") if program and not device.rehearsing() else ():
        cases = " or ".join(_SANITIZED)
        select = ("tests/ops/test_parity.py", "-k", f"channels_last-float16-1 and cuda-cuda and ({cases})")
        prefix = (str(program), "--tool", tool, "--error-exitcode", "86")
        yield Group(f"cuda kernels under {tool}", select, _SANITIZER_SECONDS, True, prefix)
    yield Group("triton kernels in float32", (*EVERY_TEST, "-k", "triton-cuda and float32"))
    yield Group("triton kernels in 16 bits", (*EVERY_TEST, "-k", "triton-cuda"))
    yield Group("the rest", EVERY_TEST)


def items(task: Task) -> Iterator[Item]:
    """An item per group."""
    for group in groups():
        yield Item(group.name, group.seconds, partial(run, group, task), {"group": group.name})


def run(group: Group, task: Task) -> Mapping[str, Any]:
    """Runs a group until each of its tests has ended, in another process where one has crashed.

    Raises:
        RuntimeError: pytest couldn't run; its output stands in the log.
    """
    journal = Journal(task.folder / NAME)
    journal.refresh()
    before = _tested(journal)
    while True:
        status, lines = _pytest(group, task, journal)
        journal.refresh()
        crashed = _note_crash(journal, task, status) if not group.prefix else 0
        after = _tested(journal)
        if status in _OVER or after <= before:
            break
        before = after
    _log(task, group, lines)
    summary = lines[-1].strip("= ") if lines else "no output"
    if group.prefix and status not in _OVER:
        told = [line.strip("= ") for line in lines if line.startswith("=========") and "SUMMARY" in line]
        raise RuntimeError(f"{'; '.join(told) or summary} (exit status {status})")
    if status not in _OVER and not crashed:
        raise RuntimeError(f"pytest ended with status {status}: {summary}")
    return {"summary": summary}


def _pytest(group: Group, task: Task, journal: Journal) -> tuple[int, list[str]]:
    """Runs pytest once; returns its exit status and the end of what it printed."""
    command = [*group.prefix, sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    command += group.select
    processes = min(MAX_PROCESSES, len(os.sched_getaffinity(0)))
    if not group.alone and processes > 1 and importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(processes), "--max-worker-restart", "1000"]
    environment = os.environ | {FAILURES: str(task.folder / FAILED_TESTS)}
    if group.prefix:  # tests again what was tested without it
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    else:
        environment |= {JOURNAL: str(journal.path), JOURNAL_BYTES: str(journal.path.stat().st_size)}
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        output.seek(0)
        return done.returncode, output.read().rstrip().splitlines()[-_TAIL_LINES:]


def _note_crash(journal: Journal, task: Task, status: int) -> int:
    """Notes tests that began and didn't end as failed; returns how many."""
    cut = [name for name, entry in journal.of(STAGE).items() if entry.state == BEGAN and "::" in name]
    for name in cut:
        journal.fail(STAGE, name, f"its process ended with status {status}")
        with (task.folder / FAILED_TESTS).open("a") as file:
            file.write(f"{name} [crash]\nits process ended with status {status}\n\n")
    journal.refresh()
    return len(cut)


def _tested(journal: Journal) -> int:
    """How many tests have ended."""
    return sum(entry.state != BEGAN for name, entry in journal.of(STAGE).items() if "::" in name)


def _log(task: Task, group: Group, lines: Sequence[str]) -> None:
    with (task.folder / LOG).open("a") as file:
        file.write("\n".join([f"##### {group.name}", *lines, "", ""]))


def summary(journal: Journal) -> str:
    """How many tests did what, and what of the groups isn't over."""
    entries = journal.of(STAGE)
    tests = [entry for name, entry in entries.items() if "::" in name]
    counts = {
        "passed": sum(entry.data.get("outcome") == "passed" for entry in tests),
        "failed": sum(entry.state == FAILED for entry in tests),
        "skipped": sum(entry.data.get("outcome") == "skipped" for entry in tests),
    }
    told = [f"{count} {word}" for word, count in counts.items() if count] or ["none has run"]
    for name, entry in entries.items():
        if "::" not in name and entry.state != "done":
            told.append(f"{name}: {entry.reason or 'not over'}")
    return ", ".join(told)
