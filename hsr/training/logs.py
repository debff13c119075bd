# SPDX-License-Identifier: Apache-2.0
"""Scalars on disk: a JSONL log and TensorBoard events."""

import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, reading, reason, writing
from ..files import replacing

# A statistic that is infinite or NaN this many times in a row counts as diverged.
MAX_NOT_FINITE_STREAK = 32


@dataclass
class _Series:
    """The sum and counts of one statistic, as scalars on its device."""

    # Sum and number of the finite values since the last tick.
    total: Tensor
    finite_count: Tensor
    # Number of values since the last tick that were infinite or NaN.
    not_finite_count: Tensor
    # Number of such values in a row, up to the latest value.
    not_finite_streak: Tensor
    # Number of all values since the session began.
    value_count: int = 0


class Averages:
    """Means of named scalars between two ticks, kept on their device so that a step never waits for them.

    Values that aren't finite, such as an overflow of float16, are counted instead of averaged.
    """

    def __init__(self) -> None:
        self._series: dict[str, _Series] = {}

    def add(self, stats: dict[str, Tensor]) -> None:
        """Adds one value of each name."""
        for name, value in stats.items():
            series = self._series.get(name)
            if series is None:
                count = torch.zeros([], dtype=torch.int64, device=value.device)
                zero = torch.zeros_like(value)
                series = self._series[name] = _Series(zero, count.clone(), count.clone(), count.clone())
            is_finite = value.isfinite()
            series.total += value.nan_to_num(0, 0, 0)
            series.finite_count += is_finite
            series.not_finite_count += ~is_finite
            series.not_finite_streak = torch.where(is_finite, 0, series.not_finite_streak + 1)
            series.value_count += 1

    def means(self) -> dict[str, float]:
        """Returns the means of the finite values since the last `clear`, of names that have any."""
        counts = {name: series.finite_count.item() for name, series in self._series.items()}
        return {name: (self._series[name].total / count).item() for name, count in counts.items() if count}

    def not_finite(self) -> dict[str, int]:
        """Returns how many values since the last `clear` were not finite, of names that have any."""
        counts = {name: int(series.not_finite_count.item()) for name, series in self._series.items()}
        return {name: count for name, count in counts.items() if count}

    def diverged(self) -> list[str]:
        """Returns the names whose values persistently aren't finite: never yet, or many times in a row."""
        streaks = {name: int(series.not_finite_streak.item()) for name, series in self._series.items()}
        return [
            name
            for name, streak in streaks.items()
            if streak >= MAX_NOT_FINITE_STREAK or (streak == self._series[name].value_count and streak > 1)
        ]

    def clear(self) -> None:
        """Starts new means; the count of values in a row goes on."""
        for series in self._series.values():
            for tensor in (series.total, series.finite_count, series.not_finite_count):
                tensor.zero_()


class RunLog:
    """`log.jsonl` and TensorBoard events in a run folder, and on request a run of Weights & Biases.

    Args:
        folder: Run folder.
        images_seen: Position of the run; the lines behind it are dropped, as those steps will be done again.
        wandb_project: Project of Weights & Biases, or None.

    Raises:
        UserError: A file can't be written, or Weights & Biases can't be used.
    """

    def __init__(self, folder: Path, images_seen: int = 0, wandb_project: str | None = None):
        # The import takes a second, which other commands should not spend.
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "log.jsonl"
        if path.exists():
            with reading(path, "a log"):
                lines = path.read_text().splitlines(keepends=True)
            valid_lines = [line for line in lines if line.endswith("\n") and _position(line) <= images_seen]
            if len(valid_lines) < len(lines):
                with replacing(path) as part:
                    part.write_text("".join(valid_lines))
        self._path = path
        with writing(path):
            self._file = path.open("a", buffering=1)
        self._board = SummaryWriter(str(folder), purge_step=images_seen + 1 if images_seen else None)
        self._wandb = None if wandb_project is None else _wandb_run(wandb_project, folder)

    def event(self, kind: str, images_seen: int, values: dict[str, Any]) -> None:
        """Appends a line to the log; its numbers become TensorBoard scalars over the images seen.

        Raises:
            UserError: The log can't be written.
        """
        record = {"event": kind, "kimg": images_seen / 1000, "time": round(time.time(), 3)} | values
        scalars = {name: value for name, value in values.items() if isinstance(value, int | float)}
        with writing(self._path):
            self._file.write(json.dumps(record) + "\n")
            for name, value in scalars.items():
                self._board.add_scalar(name, value, global_step=images_seen)
            self._board.flush()
        if self._wandb is not None and scalars:
            self._wandb.log(scalars, step=images_seen)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _wandb_run(project: str, folder: Path) -> Any:
    """Starts or continues the run of Weights & Biases that belongs to a run folder."""
    try:
        import wandb
    except ImportError as error:
        raise UserError(f"--wandb needs Weights & Biases ({reason(error)}): pip install wandb.") from error
    path = folder / "wandb-id"
    try:
        run_id = path.read_text().strip() if path.exists() else secrets.token_hex(4)
        config = json.loads((folder / "config.json").read_text())
        run = wandb.init(project=project, name=folder.name, id=run_id, resume="allow", dir=folder, config=config)
    except Exception as error:
        raise UserError(f"--wandb {project} cannot be used ({reason(error)}).") from error
    path.write_text(run_id)
    return run


def _position(line: str) -> int:
    """Returns the images seen at a line of the log; 0 for a line of another origin, which is kept."""
    try:
        return round(json.loads(line)["kimg"] * 1000)
    except (ValueError, TypeError, KeyError):
        return 0
