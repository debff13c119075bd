# SPDX-License-Identifier: Apache-2.0
"""The live display of a run: position, speed, time left, and every loss term."""

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

REFRESH_SECONDS = 0.5
# Statistics that the panel shows, by row and label.
PANEL_TERMS = {
    "generator": {"GAN": "Loss/G/gan", "path length": "Loss/G/path_length", "its penalty": "Loss/G/pl"},
    "HSR": {"sum": "Loss/G/hsr"} | {f"{r}x{r}": f"Loss/G/hsr_{r}" for r in (8, 16, 32, 64)},
    "discriminator": {
        "GAN": "Loss/D/gan",
        "R1": "Loss/D/r1",
        "real logit": "Loss/scores/real",
        "fake logit": "Loss/scores/fake",
        "real sign": "Augment/sign_real",
    },
}
# Statistics that the line of a tick shows, by label.
TICK_TERMS = {
    "G": "Loss/G/gan",
    "HSR": "Loss/G/hsr",
    "D": "Loss/D/gan",
    "R1": "Loss/D/r1",
    "PL": "Loss/G/pl",
    "p": "Augment/p",
}


class Speed:
    """The speed since the start of the session, and the time that is left."""

    def __init__(self, images_seen: int, images_total: int):
        self._start_time = time.perf_counter()
        self._start_images = images_seen
        self._total = images_total

    def rate(self, images_seen: int) -> float:
        """Returns images per second."""
        return (images_seen - self._start_images) / max(time.perf_counter() - self._start_time, 1e-9)

    def time_left(self, images_seen: int) -> str:
        """Returns the time left as h:mm:ss."""
        rate = self.rate(images_seen)
        if rate == 0:
            return "?"
        return str(timedelta(seconds=round(max(0, self._total - images_seen) / rate)))


class ProgressDisplay:
    """A panel that redraws in place on a terminal, and one line per tick on any output.

    Args:
        console: Where to write.
        images_seen: Images already trained on.
        images_total: Images at which training ends.
    """

    def __init__(self, console: Console, images_seen: int, images_total: int):
        self._console = console
        self._total = images_total
        self._speed = Speed(images_seen, images_total)
        self._draw_time = 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "ProgressDisplay":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def images_per_second(self, images_seen: int) -> float:
        """Returns images per second since training was started or resumed."""
        return self._speed.rate(images_seen)

    def is_due(self) -> bool:
        """Returns whether the panel is shown and old enough to be drawn again."""
        return self._live.is_started and time.perf_counter() - self._draw_time >= REFRESH_SECONDS

    def update(self, images_seen: int, means: dict[str, float]) -> None:
        """Draws the panel."""
        self._draw_time = time.perf_counter()
        head = Table.grid(padding=(0, 2))
        head.add_row(
            ProgressBar(total=self._total, completed=images_seen, width=30),
            f"{images_seen / 1000:.1f} of {self._total / 1000:g} kimg",
            f"{self._speed.rate(images_seen):.1f} img/s",
            f"{self._speed.time_left(images_seen)} left",
        )
        losses = Table.grid(padding=(0, 2))
        for row, terms in PANEL_TERMS.items():
            values = [f"{label} {means[name]:.3f}" for label, name in terms.items() if name in means]
            if values:
                losses.add_row(Text(row, style="bold"), *values)
        self._live.update(Group(head, losses), refresh=True)

    def tick(self, images_seen: int, means: dict[str, float], not_finite: dict[str, int]) -> None:
        """Prints one line that stays, with the number of times that each statistic was not finite, if any was."""
        parts = [f"{images_seen / 1000:8.1f} kimg", f"{self._speed.rate(images_seen):6.1f} img/s"]
        parts += [f"{label} {means[name]:.3f}" for label, name in TICK_TERMS.items() if name in means]
        parts.append(f"{self._speed.time_left(images_seen)} left")
        if not_finite:
            counts = ", ".join(f"{name} {count} times" for name, count in not_finite.items())
            parts.append(f"not finite: {counts}")
        self._console.print("  ".join(parts), highlight=False)
