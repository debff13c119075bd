# SPDX-License-Identifier: Apache-2.0
"""The training loop: steps, ticks, checkpoints, and the orderly end on a stop request."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import UserError
from .adaptation import HighProbabilityWarning
from .checkpoint import CheckpointFolder
from .evaluation import METRICS, Evaluator
from .grids import SampleGrid
from .logs import Averages, RunLog
from .profiling import StepProfiler
from .progress import ProgressDisplay
from .stop import StopRequest
from .stream import BatchStream
from .trainer import Trainer


class TrainingLoop:
    """Trains until the end of the schedule or a stop request.

    Of several processes that train together the main one writes: checkpoints, pictures and the log.

    Args:
        trainer: Networks and optimizers.
        stream: Batches of real images, at the trainer's position.
        grid: Grid of samples.
        evaluator: Metrics, or None for none.
        folder: Run folder.
        log: Log of scalars, in the main process.
        state: JSON values to store with every checkpoint.
        console: Where to show progress.
        profiler: Profiler of the steps, or None.
    """

    def __init__(
        self,
        trainer: Trainer,
        stream: BatchStream,
        grid: SampleGrid,
        evaluator: Evaluator | None,
        folder: Path,
        log: RunLog | None,
        state: dict[str, Any],
        console: Console,
        profiler: StepProfiler | None = None,
    ):
        self.trainer, self.stream, self.grid, self.evaluator = trainer, stream, grid, evaluator
        self.folder, self.log, self.state, self.console = folder, log, state, console
        self.profiler = profiler
        if profiler is not None:
            trainer.timer = profiler.phase
        if trainer.ranks.is_main:
            self.checkpoints = CheckpointFolder(folder)
        self.averages = Averages()
        self.high_p = HighProbabilityWarning(trainer.config, state)
        # Images seen at the last checkpoint of this loop; None before the first.
        self._saved_images_seen: int | None = None

    def run(self, stop: StopRequest) -> bool:
        """Trains, and returns whether the schedule was completed."""
        trainer, config = self.trainer, self.trainer.config
        total, tick = round(config.kimg * 1000), round(config.tick_kimg * 1000)
        if trainer.images_seen >= total:
            return True
        display = ProgressDisplay(self.console, trainer.images_seen, total)
        with display:
            while trainer.images_seen < total and not trainer.ranks.any_stops(stop.requested):
                ticks_before = trainer.images_seen // tick
                with trainer.timer("data"):
                    batch = next(self.stream)
                self.averages.add(trainer.step(*batch))
                if self.profiler is not None:
                    self.profiler.step()
                ticks = trainer.images_seen // tick
                if ticks > ticks_before or trainer.images_seen >= total:
                    self._tick(display)
                # The end is measured by the summary, when it is saved.
                if ticks > ticks_before and trainer.images_seen < total:
                    is_better = _is_due(ticks, config.metric_ticks) and self._measure_on_the_way(stop)
                    if is_better or _is_due(ticks, config.checkpoint_ticks):
                        self.save()
                elif display.is_due():
                    display.update(trainer.images_seen, self.averages.means())
            if not self.is_saved():
                self._require_convergence()
                self.save()
        return trainer.images_seen >= total

    def is_saved(self) -> bool:
        """Returns whether the last checkpoint is of this moment."""
        return self._saved_images_seen == self.trainer.images_seen

    def is_best(self) -> bool:
        """Returns whether the generator of this moment is the best one that was measured."""
        return self.state.get("best", {}).get("images_seen") == self.trainer.images_seen

    def save(self) -> None:
        """Writes a checkpoint."""
        trainer = self.trainer
        if trainer.adaptation is not None:
            trainer.adaptation.pool(trainer.ranks.is_main)
        if trainer.ranks.is_main:
            self.checkpoints.save(trainer, self.state, trainer.config.checkpoints_kept, self.is_best())
        self._saved_images_seen = self.trainer.images_seen

    def measure(self, kind: str, metrics: Sequence[str]) -> dict[str, float]:
        """Measures the averaged generator, and logs the values as an event of this kind.

        The state remembers the best value of the first of the configuration's metrics.
        """
        evaluator, images_seen = self.evaluator, self.trainer.images_seen
        values = {} if evaluator is None else evaluator.measure(metrics, self.trainer.G_ema)
        self._event(kind, values)
        names = self.trainer.config.metric_names()
        if evaluator is not None and names:
            title = evaluator.title(names[0])
            best = self.state.get("best", {})
            is_comparable = best.get("metric") == title
            if not is_comparable or METRICS[names[0]].is_better(values[title], best["value"]):
                self.state["best"] = {"metric": title, "value": values[title], "images_seen": images_seen}
        return values

    def _measure_on_the_way(self, stop: StopRequest) -> bool:
        """Measures the generator in the midst of training, and returns whether it is the best so far."""
        names = self.trainer.config.metric_names()
        if self.evaluator is None or not names:
            return False
        try:
            with stop.interruptible():
                values = self.measure("metrics", names)
        except KeyboardInterrupt:
            # The request ends the run after this step, and the step is saved.
            return False
        words = ", ".join(f"{name.removeprefix('Metrics/')}: {value:.4g}" for name, value in values.items())
        self.console.print(f"  {words}")
        return self.is_best()

    def samples_path(self) -> Path:
        """Returns the path of the sample grid of this moment."""
        return self.folder / "samples" / f"{self.trainer.images_seen / 1000:010.3f}.png"

    def save_samples(self) -> None:
        """Writes the sample grid of this moment."""
        if self.trainer.ranks.is_main:
            path = self.samples_path()
            path.parent.mkdir(exist_ok=True)
            self.grid.save_samples(self.trainer.G_ema, path)

    def _event(self, kind: str, values: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.event(kind, self.trainer.images_seen, values)

    def _tick(self, display: ProgressDisplay) -> None:
        self._require_convergence()
        trainer, means, not_finite = self.trainer, self.averages.means(), self.averages.not_finite()
        self.averages.clear()
        if trainer.pipe is not None:
            means["Augment/p"] = trainer.pipe.p.item()
        self.save_samples()
        display.tick(trainer.images_seen, means, not_finite)
        values = means | {f"Not finite/{name}": count for name, count in not_finite.items()}
        values |= {f"Skipped updates/{name}": int(count) for name, count in trainer.skipped_updates.items()}
        if trainer.adaptation is not None:
            values["Augment/not_finite_logits"] = int(trainer.adaptation.not_finite)
            if sentence := self.high_p.sentence(means["Augment/p"], trainer.images_seen):
                self.console.print(sentence)
        values["Speed/images_per_second"] = display.images_per_second(trainer.images_seen)
        self._event("tick", values)

    def _require_convergence(self) -> None:
        """Raises `UserError` if statistics or gradients are persistently infinite or NaN, before weights are saved."""
        diverged = self.averages.diverged()
        diverged += [f"gradients of {phase}" for phase in self.trainer.stalled_phases()]
        if diverged:
            raise UserError(
                f"Training diverged ({', '.join(diverged)} persistently not finite at "
                f"{self.trainer.images_seen / 1000:g} kimg); a larger --gamma may help, and the last checkpoint in the "
                "run folder is from before."
            )


def _is_due(ticks: int, interval: int) -> bool:
    """Returns whether something is due that happens every `interval` ticks (0: never)."""
    return interval > 0 and ticks % interval == 0
