# SPDX-License-Identifier: Apache-2.0
"""The training loop: steps, ticks, checkpoints, and the orderly end on Ctrl-C."""

import math
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console

from ..errors import UserError
from .checkpoint import CheckpointFolder
from .grids import SampleGrid
from .logs import Averages, RunLog
from .progress import ProgressDisplay
from .stream import BatchStream
from .trainer import Trainer


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a flag; the second one interrupts at once.

    Signals can only be handled by the main thread; in any other one this does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class TrainingLoop:
    """Trains to the end of the schedule, or to a stop request.

    Args:
        trainer: Networks and optimizers.
        stream: Batches of real images, at the trainer's position.
        grid: Sample grids.
        folder: Run folder.
        log: Scalars.
        state: JSON values to store with every checkpoint.
        console: Where to show progress.
    """

    def __init__(
        self,
        trainer: Trainer,
        stream: BatchStream,
        grid: SampleGrid,
        folder: Path,
        log: RunLog,
        state: dict[str, Any],
        console: Console,
    ):
        self.trainer, self.stream, self.grid, self.folder = trainer, stream, grid, folder
        self.log, self.state, self.console = log, state, console
        self.checkpoints = CheckpointFolder(folder)
        self.averages = Averages()

    def run(self) -> bool:
        """Trains; returns whether the schedule was completed."""
        trainer, config = self.trainer, self.trainer.config
        total, tick = round(config.kimg * 1000), round(config.tick_kimg * 1000)
        if trainer.images_seen >= total:
            return True
        saved = -1
        display = ProgressDisplay(self.console, trainer.images_seen, total)
        with StopRequest() as stop, display:
            while trainer.images_seen < total and not stop.requested:
                ticks_before = trainer.images_seen // tick
                self.averages.add(trainer.step(*next(self.stream)))
                ticks = trainer.images_seen // tick
                if ticks > ticks_before or trainer.images_seen >= total:
                    self._tick(display)
                    if ticks > ticks_before and ticks % config.checkpoint_ticks == 0:
                        self.save()
                        saved = trainer.images_seen
                elif display.due():
                    display.update(trainer.images_seen, self.averages.means())
            if saved != trainer.images_seen:
                self._finite_means()
                self.save()
        return trainer.images_seen >= total

    def save(self) -> Path:
        """Writes a checkpoint."""
        return self.checkpoints.save(self.trainer, self.state, self.trainer.config.checkpoints_kept)

    def samples_path(self) -> Path:
        """Returns where the sample grid of this moment is."""
        return self.folder / "samples" / f"{self.trainer.images_seen / 1000:010.3f}.png"

    def save_samples(self) -> None:
        """Writes the sample grid of this moment."""
        path = self.samples_path()
        path.parent.mkdir(exist_ok=True)
        self.grid.save_samples(self.trainer.G_ema, path)

    def _tick(self, display: ProgressDisplay) -> None:
        means = self._finite_means()
        self.averages.clear()
        self.save_samples()
        display.tick(self.trainer.images_seen, means)
        rate = display.images_per_second(self.trainer.images_seen)
        self.log.event("tick", self.trainer.images_seen, means | {"Speed/images_per_second": rate})

    def _finite_means(self) -> dict[str, float]:
        """The means since the last tick, which no checkpoint outlives if they aren't finite."""
        means = self.averages.means()
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if broken:
            raise UserError(
                f"Training diverged ({', '.join(broken)} not finite at {self.trainer.images_seen / 1000:g} "
                "kimg); a larger --gamma may help, and the last checkpoint in the run folder is from before."
            )
        return means
