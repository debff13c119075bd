# SPDX-License-Identifier: Apache-2.0
"""The training loop: steps, ticks, checkpoints, and the orderly end when told to stop."""

from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import UserError
from .checkpoint import CheckpointFolder
from .grids import SampleGrid
from .logs import Averages, RunLog
from .progress import ProgressDisplay
from .stop import StopRequest
from .stream import BatchStream
from .trainer import Trainer


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
        # The moment of the last checkpoint that was written here, in images seen; None before there is one.
        self._saved: int | None = None

    def run(self, stop: StopRequest) -> bool:
        """Trains; returns whether the schedule was completed."""
        trainer, config = self.trainer, self.trainer.config
        total, tick = round(config.kimg * 1000), round(config.tick_kimg * 1000)
        if trainer.images_seen >= total:
            return True
        display = ProgressDisplay(self.console, trainer.images_seen, total)
        with display:
            while trainer.images_seen < total and not stop.requested:
                ticks_before = trainer.images_seen // tick
                self.averages.add(trainer.step(*next(self.stream)))
                ticks = trainer.images_seen // tick
                if ticks > ticks_before or trainer.images_seen >= total:
                    self._tick(display)
                    if ticks > ticks_before and config.checkpoint_ticks and ticks % config.checkpoint_ticks == 0:
                        self.save()
                elif display.due():
                    display.update(trainer.images_seen, self.averages.means())
            if not self.is_saved():
                self._require_convergence()
                self.save()
        return trainer.images_seen >= total

    def is_saved(self) -> bool:
        """Whether the last checkpoint is of this moment."""
        return self._saved == self.trainer.images_seen

    def save(self) -> None:
        """Writes a checkpoint."""
        self.checkpoints.save(self.trainer, self.state, self.trainer.config.checkpoints_kept)
        self._saved = self.trainer.images_seen

    def samples_path(self) -> Path:
        """Returns where the sample grid of this moment is."""
        return self.folder / "samples" / f"{self.trainer.images_seen / 1000:010.3f}.png"

    def save_samples(self) -> None:
        """Writes the sample grid of this moment."""
        path = self.samples_path()
        path.parent.mkdir(exist_ok=True)
        self.grid.save_samples(self.trainer.G_ema, path)

    def _tick(self, display: ProgressDisplay) -> None:
        self._require_convergence()
        trainer, means, broken = self.trainer, self.averages.means(), self.averages.not_finite()
        self.averages.clear()
        self.save_samples()
        display.tick(trainer.images_seen, means, broken)
        values = means | {f"Not finite/{name}": count for name, count in broken.items()}
        values |= {f"Skipped updates/{name}": int(count) for name, count in trainer.skipped_updates.items()}
        values["Speed/images_per_second"] = display.images_per_second(trainer.images_seen)
        self.log.event("tick", trainer.images_seen, values)

    def _require_convergence(self) -> None:
        """Raises `UserError` where a statistic persistently isn't finite, before anything of that is saved."""
        broken = self.averages.diverged()
        if broken:
            raise UserError(
                f"Training diverged ({', '.join(broken)} persistently not finite at "
                f"{self.trainer.images_seen / 1000:g} kimg); a larger --gamma may help, and the last checkpoint in the "
                "run folder is from before."
            )
