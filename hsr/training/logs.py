# SPDX-License-Identifier: Apache-2.0
"""Scalars on disk: a JSONL log and TensorBoard events."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Averages:
    """Means of named scalars between two ticks, kept on their device so that a step never waits for them."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, stats: dict[str, Tensor]) -> None:
        """Adds one value of each name."""
        for name, value in stats.items():
            total, count = self._sums.get(name, (torch.zeros_like(value), 0))
            self._sums[name] = (total + value, count + 1)

    def means(self) -> dict[str, float]:
        """Returns the means since the last `clear`."""
        return {name: (total / count).item() for name, (total, count) in self._sums.items()}

    def clear(self) -> None:
        """Starts anew."""
        self._sums.clear()


class RunLog:
    """`log.jsonl` and TensorBoard events in a run folder."""

    def __init__(self, folder: Path):
        # The import takes a second, which other commands need not spend.
        from torch.utils.tensorboard import SummaryWriter

        self._file = (folder / "log.jsonl").open("a", buffering=1)
        self._board = SummaryWriter(str(folder))

    def event(self, kind: str, images_seen: int, values: dict[str, Any]) -> None:
        """Appends a line to the log; its numbers become TensorBoard scalars over the images seen."""
        record = {"event": kind, "kimg": images_seen / 1000, "time": round(time.time(), 3)} | values
        self._file.write(json.dumps(record) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(name, value, global_step=images_seen)
        self._board.flush()

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._board.close()
