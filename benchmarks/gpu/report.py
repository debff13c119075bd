# SPDX-License-Identifier: Apache-2.0
"""Runs stages in processes of their own, ends what takes too long, and keeps the tables up to date.

This process itself never touches the device, so nothing that happens to one of the others costs more than an item.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .. import device
from ..messages import last_line
from ..setting import ROOT
from . import cache, files
from .items import Task
from .journal import BEGAN, NAME, Journal
from .stages import ALL_STAGES, KERNELS, STAGES
from .worker import LOST

NO_DEVICE = "gpu-report needs a CUDA device, and PyTorch sees none; `roofline` works without one"
# Kept for writing the files at the end.
_RESERVED_SECONDS = 5.0
_MAX_MACHINE_SECONDS = 90.0
_POLL_SECONDS = 0.1
# Between two writings of the files.
_FILES_SECONDS = 3.0


class NotRun(Exception):
    """Nothing could be run; the message is a sentence."""


@dataclass(frozen=True)
class Process:
    """A worker and its output."""

    popen: subprocess.Popen[bytes]
    output: IO[str]

    def last_line(self) -> str:
        """The last line that it printed."""
        self.output.seek(0)
        return last_line(self.output.read())


def report(
    out: Path,
    stages: Sequence[str],
    case_filter: str,
    *,
    tiny: bool,
    seconds: float,
    again: bool,
    say: Callable[[str], None],
) -> None:
    """Does what the folder doesn't have yet of the stages, in their order, and writes the files as it goes.

    Args:
        out: Folder for the journal and all files.
        stages: Their names.
        case_filter: Of the cases, those whose name contains this.
        tiny: Whether sizes are tiny, to show only that everything runs.
        seconds: The time limit, whatever remains to be done.
        again: Whether to do again what the folder has of these stages and cases.
        say: Prints a line.

    Raises:
        NotRun: There is no device, or the folder can't be written to.
    """
    end = time.monotonic() + seconds - _RESERVED_SECONDS
    tiny = tiny or device.rehearsing()
    machine = _machine(min(_MAX_MACHINE_SECONDS, end - time.monotonic())) | {"sizes": "tiny" if tiny else "full"}
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / NAME).touch()
    except OSError as error:
        raise NotRun(f"--out must be a folder that can be written to, got {out} ({error.strerror})") from error
    say(", ".join(f"{name} {value}" for name, value in machine.items()))
    journal = Journal(out / NAME)
    journal.name(machine)
    if again:
        journal.forget(list(stages), case_filter)
    task = Task(out.absolute(), case_filter, tiny)
    names = list(stages)
    if _needs_kernels(stages):
        names.insert(0, KERNELS)
        # What an earlier call compiled isn't in the cache any more.
        journal.forget([KERNELS], "")
    journal.refresh()
    for i, stage in enumerate(names):
        start = time.monotonic()
        share = ALL_STAGES[stage].weight / sum(ALL_STAGES[name].weight for name in names[i:])
        cut = _run(stage, task, journal, start + max(end - start, 0) * share, say)
        say(f"{stage}: {files.progress(journal, stage)}{cut and ', '}{cut}, in {time.monotonic() - start:.0f} s")
    say(f"written to {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def _needs_kernels(stages: Sequence[str]) -> bool:
    """Whether kernels have to be compiled first: not for tests, each of which compiles its own."""
    if device.rehearsing() or set(stages) <= {"tests"}:
        return False
    import triton

    return not cache.is_complete(Path(triton.knobs.cache.dir))


def _machine(seconds: float) -> dict[str, str]:
    """Returns `device.machine` from a process of its own; this one must not touch the device."""
    command = [sys.executable, "-m", "benchmarks.device"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        raise NotRun(f"the device didn't answer within {seconds:.0f} s") from None
    try:
        found = json.loads(last_line(done.stdout))
    except ValueError:
        raise NotRun(f"the device can't be asked what it is: {last_line(done.stderr)}") from None
    if not found:
        raise NotRun(NO_DEVICE)
    return found


def _run(stage: str, task: Task, journal: Journal, end: float, say: Callable[[str], None]) -> str:
    """Runs workers until a stage is finished or its time is over; returns the reason why it was cut off, or ""."""
    while True:
        before = _ended(journal, stage)
        if time.monotonic() >= end:
            return "out of time"
        with _worker(stage, task) as process:
            status = _watch(process, stage, task, journal, end, say)
            line = process.last_line()
        journal.refresh()
        files.write(task.folder, journal)
        if status == 0:
            return ""
        if status is None:
            return "out of time"
        for item in _unfinished(journal, stage):
            if status != LOST:
                journal.fail(stage, item, f"its process ended {_described(status)}: {line}")
        journal.refresh()
        if _ended(journal, stage) == before:
            return f"its process ended {_described(status)} before anything was done: {line}"


def _ended(journal: Journal, stage: str) -> int:
    return sum(entry.state != BEGAN for entry in journal.of(stage).values())


def _unfinished(journal: Journal, stage: str) -> list[str]:
    """Returns the items that a worker began and didn't end; those without a limit are noted by other processes."""
    return [name for name, entry in journal.of(stage).items() if entry.state == BEGAN and entry.max_seconds is not None]


def _described(status: int) -> str:
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"


def _command(stage: str, task: Task) -> list[str]:
    size = "tiny" if task.tiny else "full"
    return [sys.executable, "-m", "benchmarks.gpu.worker", stage, str(task.folder), task.case_filter, size]


@contextmanager
def _worker(stage: str, task: Task) -> Iterator[Process]:
    """Starts a worker with a session of its own, so that it ends with all that it has started."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        command = _command(stage, task)
        popen = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
        try:
            yield Process(popen, output)
        finally:
            _kill(popen)


def _kill(popen: subprocess.Popen[bytes]) -> None:
    """Ends a process and what it has started, also where the process itself has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)
    # A process that a driver keeps from ending isn't waited for.
    with contextlib.suppress(subprocess.TimeoutExpired):
        popen.wait(_RESERVED_SECONDS / 2)


def _watch(
    process: Process, stage: str, task: Task, journal: Journal, end: float, say: Callable[[str], None]
) -> int | None:
    """Waits for a worker; returns its exit status, LOST where an item took too long, None where the time is over."""
    starts: dict[str, float] = {}
    written = time.monotonic()
    while (status := process.popen.poll()) is None:
        now = time.monotonic()
        if now >= end:
            _kill(process.popen)
            return None
        if journal.refresh() and now - written > _FILES_SECONDS:
            files.write(task.folder, journal)
            written = now
        for item in _unfinished(journal, stage):
            limit = journal.entries[stage, item].max_seconds
            if limit is not None and now - starts.setdefault(item, now) > limit:
                _kill(process.popen)
                journal.fail(stage, item, f"stopped after {limit:g} s")
                say(f"{stage}, {item}: stopped after {limit:g} s")
                return LOST
        time.sleep(_POLL_SECONDS)
    return status


def parse_stages(text: str) -> list[str]:
    """Returns the distinct stages in a comma-separated list.

    Raises:
        NotRun: One isn't a stage; the message says which there are.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if not set(names) <= set(STAGES):
        raise NotRun(f"--stages must be a comma-separated list out of {', '.join(STAGES)}, got {text!r}")
    return names
