# SPDX-License-Identifier: Apache-2.0
"""What stages consist of: items, one after another, each with a time of its own."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STAGES = ("tests", "choices", "cases", "compile", "profile")
KERNELS = "kernels"  # comes before the others where kernels haven't been compiled yet
# How much of the time that is left a stage may take, in proportion to it and the stages after it.
SHARES = {KERNELS: 3.0, "tests": 4.0, "choices": 2.0, "cases": 6.0, "compile": 2.0, "profile": 3.0}


@dataclass(frozen=True)
class Item:
    """A piece of a stage, done in a process that others of the stage may share.

    Attributes:
        name: Unique within the stage.
        seconds: What it may take; then its process is ended, and the next item has another.
        run: Returns what is noted of it, as JSON can hold it.
        about: What it is, for tables.
    """

    name: str
    seconds: float
    run: Callable[[], Mapping[str, Any]]
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What a stage is to do.

    Attributes:
        folder: Where files are written.
        only: Of the cases, those whose name contains this.
        tiny: Whether sizes are those that show only that everything runs.
    """

    folder: Path
    only: str
    tiny: bool


def items(stage: str, task: Task) -> Iterator[Item]:
    """The items of a stage, the most important first."""
    from . import choosing, kernels, measuring, profiling, testing  # only now: the report's own process needs none

    sources: dict[str, Callable[[Task], Iterator[Item]]] = {
        KERNELS: kernels.items,
        "tests": testing.items,
        "choices": choosing.items,
        "cases": measuring.items,
        "compile": measuring.compiled_items,
        "profile": profiling.items,
    }
    return sources[stage](task)
