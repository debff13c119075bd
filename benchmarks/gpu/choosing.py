# SPDX-License-Identifier: Apache-2.0
"""The stage that fills the library's table of measurements."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from hsr_kernels._dispatch.measured import Measurement, Problem

from .. import device
from ..tune.trials import Trial, trials
from .items import Item, Task
from .journal import DONE, Entry

SECONDS_PER_ITEM = 20.0


def items(task: Task) -> Iterator[Item]:
    """Yields an item per line of the table, the most important first."""
    reason = device.why_no_cuda_backend()
    if reason:
        yield Item("cuda beside triton", SECONDS_PER_ITEM, partial(_refuse, reason))
    for trial in trials(tiny=task.tiny, cuda=not reason):
        yield Item(trial.name, SECONDS_PER_ITEM, partial(_measure, trial))


def _refuse(reason: str) -> Mapping[str, Any]:
    raise RuntimeError(reason)


def _measure(trial: Trial) -> Mapping[str, Any]:
    return asdict(trial.run())


def measurements(entries: Mapping[str, Entry]) -> tuple[list[Measurement], list[str]]:
    """Returns what was measured, and what wasn't and why, from the journal's entries of this stage."""
    lines, notes = [], []
    for name, entry in entries.items():
        if entry.reason:
            notes.append(f"{name}: {entry.reason}")
        elif entry.state == DONE:
            problem = entry.data["problem"]
            size = tuple(problem["size"])
            lines.append(Measurement(**{**entry.data, "problem": Problem(**{**problem, "size": size})}))
    return lines, notes
