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

from ..memory import ROOT
from . import cache, device, tables
from .items import KERNELS, SHARES, STAGES, Task
from .journal import BEGAN, NAME, Journal
from .worker import LOST

_END_SECONDS = 5.0  # kept for the last tables
_MACHINE_SECONDS = 90.0
_POLL_SECONDS = 0.1
_TABLES_SECONDS = 3.0  # between two writings of the tables


class NotRun(Exception):
    """Nothing could be run; the message is a sentence."""


@dataclass(frozen=True)
class Process:
    """A worker and what it says on its error stream."""

    popen: subprocess.Popen[bytes]
    errors: IO[str]

    def last_words(self) -> str:
        """The last line that it said."""
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def report(
    out: Path, stages: Sequence[str], only: str, *, tiny: bool, seconds: float, again: bool, say: Callable[[str], None]
) -> None:
    """Does what the folder doesn't have yet of the stages, in their order, and writes the tables as it goes.

    Args:
        out: Folder for the journal and all tables.
        only: Of the cases, those whose name contains this.
        tiny: Sizes that show only that everything runs.
        seconds: Until everything is over, whatever remains to be done.
        again: Do again what the folder has of these stages and cases.

    Raises:
        NotRun: There is no device, or the folder can't be written to.
    """
    ends = time.monotonic() + seconds - _END_SECONDS
    tiny = tiny or device.rehearsing()
    machine = _machine(min(_MACHINE_SECONDS, ends - time.monotonic())) | {"sizes": "tiny" if tiny else "full"}
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / NAME).touch()
    except OSError as error:
        raise NotRun(f"--out must be a folder that can be written to, got {out} ({error.strerror})") from error
    say(", ".join(f"{name} {value}" for name, value in machine.items()))
    journal = Journal(out / NAME)
    journal.name(machine)
    if again:
        journal.forget(list(stages), only)
    task = Task(out.absolute(), only, tiny)
    todo = list(stages)
    if _needs_kernels(stages):
        todo.insert(0, KERNELS)
        journal.forget([KERNELS], "")  # what an earlier call compiled isn't here
    journal.refresh()
    for i, stage in enumerate(todo):
        left, share = ends - time.monotonic(), SHARES[stage] / sum(SHARES[later] for later in todo[i:])
        began = time.monotonic()
        how = _run(stage, task, journal, began + max(left, 0) * share, say)
        say(f"{stage}: {tables.progress(journal, stage)}{how and ', '}{how}, in {time.monotonic() - began:.0f} s")
    say(f"written to {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def _needs_kernels(stages: Sequence[str]) -> bool:
    """Whether kernels are to be compiled first: not for tests, of which each asks for its own."""
    if device.rehearsing() or set(stages) <= {"tests"}:
        return False
    import triton

    return not cache.is_complete(Path(triton.knobs.cache.dir))


def _machine(seconds: float) -> dict[str, str]:
    """What a process of its own says of the device; this one must not touch it."""
    command = [sys.executable, "-m", "benchmarks.gpu.device"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        raise NotRun(f"the device didn't answer within {seconds:.0f} s") from None
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise NotRun(f"the device can't be asked what it is: {said}") from None
    if not found:
        raise NotRun(device.MISSING)
    return found


def _run(stage: str, task: Task, journal: Journal, ends: float, say: Callable[[str], None]) -> str:
    """Runs workers until a stage is over or its time is; returns what ended it before its end."""
    while True:
        before = _ended(journal, stage)
        if time.monotonic() >= ends:
            return "out of time"
        with _worker(stage, task) as process:
            status = _watch(process, stage, task, journal, ends, say)
            words = process.last_words()
        journal.refresh()
        tables.write(task.folder, journal)
        if status == 0:
            return ""
        if status is None:
            return "out of time"
        for item in _unfinished(journal, stage):
            if status != LOST:
                journal.fail(stage, item, f"its process ended {_described(status)}: {words}")
        journal.refresh()
        if _ended(journal, stage) == before:
            return f"its process ended {_described(status)} before anything was done: {words}"


def _ended(journal: Journal, stage: str) -> int:
    return sum(entry.state != BEGAN for entry in journal.of(stage).values())


def _unfinished(journal: Journal, stage: str) -> list[str]:
    """What a worker began and didn't end; what has no limit is noted by others, for itself."""
    return [name for name, entry in journal.of(stage).items() if entry.state == BEGAN and entry.limit is not None]


def _described(status: int) -> str:
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"


def _command(stage: str, task: Task) -> list[str]:
    size = "tiny" if task.tiny else "full"
    return [sys.executable, "-m", "benchmarks.gpu.worker", stage, str(task.folder), task.only, size]


@contextmanager
def _worker(stage: str, task: Task) -> Iterator[Process]:
    """A worker with a session of its own, so that it ends with all that it has started."""
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        command = _command(stage, task)
        popen = subprocess.Popen(command, cwd=ROOT, stdout=errors, stderr=errors, start_new_session=True)
        try:
            yield Process(popen, errors)
        finally:
            _kill(popen)


def _kill(popen: subprocess.Popen[bytes]) -> None:
    """Ends a process and what it has started; what is left of the latter after its own end too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):  # what a driver keeps from ending isn't waited for
        popen.wait(_END_SECONDS / 2)


def _watch(
    process: Process, stage: str, task: Task, journal: Journal, ends: float, say: Callable[[str], None]
) -> int | None:
    """Waits for a worker; returns its exit status, LOST where an item took too long, None where the time is over."""
    began: dict[str, float] = {}
    written = time.monotonic()
    while (status := process.popen.poll()) is None:
        now = time.monotonic()
        if now >= ends:
            _kill(process.popen)
            return None
        if journal.refresh() and now - written > _TABLES_SECONDS:
            tables.write(task.folder, journal)
            written = now
        for item in _unfinished(journal, stage):
            limit = journal.entries[stage, item].limit
            if limit is not None and now - began.setdefault(item, now) > limit:
                _kill(process.popen)
                journal.fail(stage, item, f"stopped after {limit:g} s")
                say(f"{stage}, {item}: stopped after {limit:g} s")
                return LOST
        time.sleep(_POLL_SECONDS)
    return status


def known_stages(text: str) -> list[str]:
    """The distinct stages in a comma-separated list.

    Raises:
        NotRun: One isn't a stage; the message says which there are.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if not set(names) <= set(STAGES):
        raise NotRun(f"--stages must be a comma-separated list out of {', '.join(STAGES)}, got {text!r}")
    return names
