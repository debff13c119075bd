# SPDX-License-Identifier: Apache-2.0
"""What a stage consists of: items, one after another, each with a time limit of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Item:
    """A piece of a stage, done in a process that others of the stage may share.

    Attributes:
        name: Unique within the stage.
        max_seconds: Its time limit; then its process is ended, and the next item has another.
        run: Returns what is noted of it, as JSON can hold it.
        labels: What it is, for tables.
    """

    name: str
    max_seconds: float
    run: Callable[[], Mapping[str, Any]]
    labels: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What a stage is to do.

    Attributes:
        folder: Where files are written.
        case_filter: Of the cases, those whose name contains this.
        tiny: Whether sizes are tiny, to show only that everything runs.
    """

    folder: Path
    case_filter: str
    tiny: bool
