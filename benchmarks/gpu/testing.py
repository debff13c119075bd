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

from .. import device
from ..messages import NO_MESSAGE
from ..setting import ROOT, cores
from .items import Item, Task
from .journal import BEGAN, DONE, FAILED, NAME, Journal

STAGE = "tests"
# Variables that tests/conftest.py reads: the journal, its bytes before these tests began, and a file for failures.
JOURNAL, JOURNAL_BYTES, FAILURES = "HSR_JOURNAL", "HSR_JOURNAL_BYTES", "HSR_FAILURES"
# Without those of compiling, which need more packages.
EVERY_TEST = ("tests/ops", "--ignore=tests/ops/test_aot.py")
LOG, FAILED_TESTS = "tests.log", "failures.txt"
MAX_PROCESSES = 14
# Of what pytest prints, from its end.
MAX_LOG_LINES = 60
# pytest's exit statuses at its end: passed, failed, nothing to run.
_ENDED = (0, 1, 5)
FIRST_GROUP_SECONDS, SANITIZER_SECONDS = 90.0, 60.0
_SANITIZED = (
    "bias_act-lrelu-clamped", "upsample2d-skip-to-rgb", "downsample2d-blur-and-halve", "filter2d-blur",
    "upfirdn2d-up-3-down-2", "conv2d_resample-down-2", "modulated_conv2d-styled-cuda", "modulated_conv2d-styled-up",
    "modulated_conv2d-styled-down", "modulated_conv2d-to-rgb-cuda",
)  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Tests that are run together.

    Attributes:
        name: Of the item.
        arguments: pytest's arguments beside `-m gpu`.
        max_seconds: The time limit.
        single_process: Whether one process runs them, where others have a process per core.
        prefix: A program that runs pytest, with its options.
    """

    name: str
    arguments: Sequence[str]
    max_seconds: float = float("inf")
    single_process: bool = False
    prefix: Sequence[str] = ()


def groups() -> Iterator[Group]:
    """Yields the most telling first: tests that need no compiling, and those whose failures say most."""
    agreement = ("tests/ops/test_gpu.py", "-k", "agrees")
    yield Group("every operator on both backends", agreement, FIRST_GROUP_SECONDS, single_process=True)
    yield Group("what only a GPU can show", ("tests/ops/test_gpu.py",))
    yield Group("cuda kernels", (*EVERY_TEST, "-k", "cuda-cuda"))
    program = shutil.which("compute-sanitizer")
    for tool in ("memcheck", "racecheck") if program and not device.rehearsing() else ():
        cases = " or ".join(_SANITIZED)
        arguments = ("tests/ops/test_parity.py", "-k", f"channels_last-float16-1 and cuda-cuda and ({cases})")
        prefix = (str(program), "--tool", tool, "--error-exitcode", "86")
        yield Group(f"cuda kernels under {tool}", arguments, SANITIZER_SECONDS, True, prefix)
    yield Group("triton kernels in float32", (*EVERY_TEST, "-k", "triton-cuda and float32"))
    yield Group("triton kernels in 16 bits", (*EVERY_TEST, "-k", "triton-cuda"))
    yield Group("the rest", EVERY_TEST)


def items(task: Task) -> Iterator[Item]:
    """Yields an item per group."""
    for group in groups():
        yield Item(group.name, group.max_seconds, partial(run, group, task), {"group": group.name})


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
        if status in _ENDED or after <= before:
            break
        before = after
    _log(task, group, lines)
    summary = lines[-1].strip("= ") if lines else NO_MESSAGE
    if group.prefix and status not in _ENDED:
        errors = [line.strip("= ") for line in lines if line.startswith("=========") and "SUMMARY" in line]
        raise RuntimeError(f"{'; '.join(errors) or summary} (exit status {status})")
    if status not in _ENDED and not crashed:
        raise RuntimeError(f"pytest ended with status {status}: {summary}")
    return {"summary": summary}


def _pytest(group: Group, task: Task, journal: Journal) -> tuple[int, list[str]]:
    """Runs pytest once; returns its exit status and the end of what it printed."""
    command = [*group.prefix, sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    command += group.arguments
    processes = min(MAX_PROCESSES, cores())
    if not group.single_process and processes > 1 and importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(processes), "--max-worker-restart", "1000"]
    environment = os.environ | {FAILURES: str(task.folder / FAILED_TESTS)}
    # What was tested without the program is tested again with it.
    if group.prefix:
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    else:
        environment |= {JOURNAL: str(journal.path), JOURNAL_BYTES: str(journal.path.stat().st_size)}
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        output.seek(0)
        return done.returncode, output.read().rstrip().splitlines()[-MAX_LOG_LINES:]


def _note_crash(journal: Journal, task: Task, status: int) -> int:
    """Notes tests that began and didn't end as failed; returns how many."""
    crashed = [name for name, entry in journal.of(STAGE).items() if entry.state == BEGAN and "::" in name]
    for name in crashed:
        journal.fail(STAGE, name, f"its process ended with status {status}")
        with (task.folder / FAILED_TESTS).open("a") as file:
            file.write(f"{name} [crash]\nits process ended with status {status}\n\n")
    journal.refresh()
    return len(crashed)


def _tested(journal: Journal) -> int:
    """The number of tests that have ended."""
    return sum(entry.state != BEGAN for name, entry in journal.of(STAGE).items() if "::" in name)


def _log(task: Task, group: Group, lines: Sequence[str]) -> None:
    with (task.folder / LOG).open("a") as file:
        file.write("\n".join([f"##### {group.name}", *lines, "", ""]))


def summary(journal: Journal) -> str:
    """How many tests passed, failed and were skipped, and which groups haven't ended."""
    entries = journal.of(STAGE)
    tests = [entry for name, entry in entries.items() if "::" in name]
    counts = {
        "passed": sum(entry.data.get("outcome") == "passed" for entry in tests),
        "failed": sum(entry.state == FAILED for entry in tests),
        "skipped": sum(entry.data.get("outcome") == "skipped" for entry in tests),
    }
    parts = [f"{count} {word}" for word, count in counts.items() if count] or ["none has run"]
    for name, entry in entries.items():
        if "::" not in name and entry.state != DONE:
            parts.append(f"{name}: {entry.reason or 'not finished'}")
    return ", ".join(parts)
