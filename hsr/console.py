# SPDX-License-Identifier: Apache-2.0
"""Where commands write to, and how they show that long work goes on."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Work that is done sooner shows nothing.
SECONDS_OF_SILENCE = 1.0
# Without a terminal, a line says so often how far the work is.
SECONDS_PER_LINE = 10.0

_Item = TypeVar("_Item")


class SteadyOutput:
    """A text stream that outlives its reader: once a terminal or pipe is gone, what is written is dropped.

    A training run whose terminal was closed is to save its state, not to fail at its next line.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes `text`, or drops it where nobody reads any more."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            # Names of files may hold bytes or letters that the terminal's encoding doesn't have.
            encoding = getattr(self._stream, "encoding", None) or "ascii"
            return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError):
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Flushes, if there is still a reader."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        """Points the descriptor elsewhere, as the interpreter flushes the stream once more when it ends."""
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        except (OSError, ValueError):
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_console() -> Console:
    """The console that commands print to: standard output, as it's written: paths may look like markup."""
    # Python has none where it was closed before it started.
    stream = open(os.devnull, "w") if sys.stdout is None else sys.stdout  # noqa: SIM115
    return Console(file=SteadyOutput(stream), soft_wrap=True, highlight=False, markup=False)  # type: ignore[arg-type]


def tracked(items: Iterable[_Item], title: str, total: int, console: Console | None = None) -> Iterator[_Item]:
    """Passes `items` on, showing how many of `total` are done where that takes longer than a second.

    On a terminal a bar is drawn; elsewhere a line is printed every ten seconds.

    Args:
        items: What is worked on, one after another.
        title: What is done, such as "Reading images".
        total: Number of items.
        console: Where to show it; None: standard output.
    """
    console = console or make_console()
    start = time.monotonic()
    said = start
    bar: Progress | None = None
    try:
        for done, item in enumerate(items):
            now = time.monotonic()
            if bar is not None:
                bar.update(bar.task_ids[0], completed=done)
            elif console.is_terminal and now - start >= SECONDS_OF_SILENCE:
                bar = _bar(console)
                bar.add_task(title, total=total, completed=done)
                bar.start()
            elif not console.is_terminal and now - said >= SECONDS_PER_LINE:
                said = now
                console.print(f"{title}: {done} of {total}")
            yield item
    finally:
        if bar is not None:
            bar.stop()


def _bar(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True)
