# SPDX-License-Identifier: Apache-2.0
"""Where the time of a training step goes: a trace for Chrome's viewer, and tables of phases and operators."""

import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile, record_function

from ..config import Config
from ..files import replacing

TRACE_FILE = "profile.json.gz"
TABLES_FILE = "profile.txt"
# Intervals of lazy regularization that have no small common multiple would make a trace of gigabytes.
MAX_PROFILED_STEPS = 64
MAX_OPERATORS = 20
TABLE_COLUMNS = 100
# The name in the tables for what no phase accounts for.
OTHER = "other"

# A moment on the host's clock, in seconds, or in a GPU's stream.
Moment = float | torch.cuda.Event


def profiled_steps(config: Config) -> int:
    """Returns the number of steps after which the phases of training repeat, as far as that can be profiled."""
    intervals = [interval for interval in (config.path_length_interval, config.r1_interval) if interval > 0]
    return min(math.lcm(*intervals), MAX_PROFILED_STEPS)


@dataclass
class _PhaseTime:
    calls: int = 0
    seconds: float = 0.0


class _Clock:
    """Measures spans of time: on a GPU those of its stream, without waiting for it, and on a CPU those of the host."""

    def __init__(self, device: torch.device):
        self._device = device

    def now(self) -> Moment:
        """Returns this moment."""
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self, start: Moment, end: Moment) -> float:
        """Returns the time between two moments, which the GPU has reached."""
        if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
            return start.elapsed_time(end) / 1000
        assert isinstance(start, float) and isinstance(end, float)
        return end - start


class StepProfiler:
    """Profiles as many steps of training as repeat, after as many that warm up, while training goes on.

    Its results are RUN/profile.json.gz and RUN/profile.txt, and the tables on the console.

    Args:
        config: Settings, whose intervals say how many steps that takes.
        folder: Run folder.
        device: Device that training runs on.
        console: Where to print the tables.
    """

    def __init__(self, config: Config, folder: Path, device: torch.device, console: Console):
        self._folder, self._device, self._console = folder, device, console
        self._num_steps = profiled_steps(config)
        self._clock = _Clock(device)
        # Name, start and end of each phase.
        self._spans: list[tuple[str, Moment, Moment]] = []
        self._steps_seen = 0
        self._start: Moment = 0.0
        self._profile: profile | None = None
        self._is_done = False

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measures its body as part of the phase `name`, and marks it in the trace."""
        if self._profile is None:
            yield
            return
        with record_function(name):
            start = self._clock.now()
            yield
            self._spans.append((name, start, self._clock.now()))

    def step(self) -> None:
        """Takes note that a step has ended; the last one that is profiled writes the results."""
        self._steps_seen += 1
        if self._steps_seen == self._num_steps:
            self._begin()
        elif self._steps_seen == 2 * self._num_steps:
            self._end()

    def close(self) -> None:
        """Ends the profile; training that was too short for one gets none, which the console says."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
        if not self._is_done:
            self._console.print(
                f"There is no profile, as that takes {2 * self._num_steps} steps, and training ended after "
                f"{self._steps_seen}."
            )

    def _begin(self) -> None:
        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=activities)
        self._profile.start()
        self._start = self._clock.now()

    def _end(self) -> None:
        assert self._profile is not None
        end = self._clock.now()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        finished, self._profile = self._profile, None
        finished.stop()
        self._is_done = True
        tables = [self._phase_table(self._clock.seconds(self._start, end)), self._operator_table(finished)]
        self._write_trace(finished)
        with replacing(self._folder / TABLES_FILE) as part, part.open("w") as file:
            _print_tables(Console(file=file, width=TABLE_COLUMNS), tables)
        _print_tables(self._console, tables)
        self._console.print(f"Profile of {self._num_steps} steps: {self._folder / TABLES_FILE} and {TRACE_FILE} there")

    def _write_trace(self, finished: profile) -> None:
        # PyTorch compresses the trace if its name ends in .gz, which the name of an unfinished file doesn't.
        with tempfile.TemporaryDirectory() as folder, replacing(self._folder / TRACE_FILE) as part:
            trace = Path(folder) / TRACE_FILE
            finished.export_chrome_trace(str(trace))
            shutil.copyfile(trace, part)

    def _phase_table(self, total_seconds: float) -> Table:
        phases: dict[str, _PhaseTime] = {}
        for name, start, end in self._spans:
            phase = phases.setdefault(name, _PhaseTime())
            phase.calls += 1
            phase.seconds += self._clock.seconds(start, end)
        measured = sum(phase.seconds for phase in phases.values())
        phases[OTHER] = _PhaseTime(self._num_steps, max(0.0, total_seconds - measured))
        place = "the GPU's stream" if self._device.type == "cuda" else "the CPU"
        table = _table(f"Phases of {self._num_steps} steps, by time on {place} while profiled", "Phase")
        for name, phase in phases.items():
            self._add_row(table, name, phase.calls, phase.seconds, total_seconds)
        self._add_row(table, "step", self._num_steps, total_seconds, total_seconds)
        return table

    def _operator_table(self, finished: profile) -> Table:
        processor, attribute = "CPU", "self_cpu_time_total"
        if self._device.type == "cuda":
            processor, attribute = "GPU", "self_device_time_total"
        phases = {name for name, _, _ in self._spans}
        events = [event for event in finished.key_averages() if event.key not in phases]
        # The profiler counts microseconds.
        times = [(getattr(event, attribute) / 1e6, event.key, event.count) for event in events]
        total_seconds = sum(seconds for seconds, _, _ in times)
        table = _table(f"Operators by their own time on the {processor}", "Operator")
        for seconds, name, calls in sorted(times, reverse=True)[:MAX_OPERATORS]:
            self._add_row(table, name, calls, seconds, total_seconds)
        return table

    def _add_row(self, table: Table, name: str, calls: int, seconds: float, total_seconds: float) -> None:
        share = seconds / total_seconds if total_seconds else 0.0
        times = (1e3 * seconds / max(calls, 1), 1e3 * seconds / self._num_steps)
        table.add_row(name, str(calls), *(f"{value:.3f}" for value in times), f"{share:.1%}")


def _table(title: str, first_column: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first_column, overflow="fold")
    for column in ("calls", "ms per call", "ms per step", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _print_tables(console: Console, tables: list[Table]) -> None:
    for table in tables:
        console.print(table)
        console.print()
