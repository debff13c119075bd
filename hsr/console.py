# SPDX-License-Identifier: Apache-2.0
"""The console that commands print to, and the progress of long work."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .job import process_index

# Shorter work shows no progress.
SECONDS_BEFORE_PROGRESS = 1.0
# Seconds from one line of progress to the next where the output is no terminal.
SECONDS_PER_LINE = 10.0

_Item = TypeVar("_Item")


def command_line(*words: object) -> str:
    """Returns the command `hsr WORD ...` as a shell takes it, whatever characters its paths and names have."""
    return shlex.join(["hsr", *map(str, words)])


class SteadyOutput:
    """A text stream that outlives its reader: once the terminal or pipe is gone, text is dropped.

    A training run whose terminal was closed must save its state instead of failing at its next line.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes `text`, or drops it if nobody reads any more."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            # File names may hold bytes or letters that the terminal's encoding lacks.
            encoding = getattr(self._stream, "encoding", None) or "ascii"
            return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError):
            self._discard()
            return len(text)

    def flush(self) -> None:
        """Flushes, if there is still a reader."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._discard()

    def _discard(self) -> None:
        """Redirects the stream to nowhere, as the interpreter flushes it once more when it ends."""
        try:
            null_device = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null_device, self._stream.fileno())
            os.close(null_device)
        except (OSError, ValueError):
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_console() -> Console:
    """Returns the console that commands print to: standard output, without markup, which paths may look like.

    Of several processes that train together the first one prints.
    """
    # Standard output is None if it was closed before Python started.
    is_silent = sys.stdout is None or process_index() != 0
    stream = open(os.devnull, "w") if is_silent else sys.stdout  # noqa: SIM115
    return Console(file=SteadyOutput(stream), soft_wrap=True, highlight=False, markup=False)  # type: ignore[arg-type]


def track(
    items: Iterable[_Item],
    title: str,
    total: int,
    console: Console | None = None,
    note: Callable[[], str] | None = None,
) -> Iterator[_Item]:
    """Yields `items`, and shows how many of `total` are done if that takes longer than a second.

    A terminal shows a bar, other outputs a line every ten seconds.

    Args:
        items: The units of work.
        title: The work, such as "Reading images".
        total: Number of items.
        console: Where to show the progress; None: standard output.
        note: Returns what is shown beside the title, such as how good the result is by now.
    """
    console = console or make_console()

    def heading() -> str:
        return title if note is None else f"{title}, {note()}"

    start = time.monotonic()
    line_time = start
    bar: Progress | None = None
    try:
        for completed, item in enumerate(items):
            now = time.monotonic()
            if bar is not None:
                bar.update(bar.task_ids[0], completed=completed, description=heading())
            elif console.is_terminal and now - start >= SECONDS_BEFORE_PROGRESS:
                bar = _bar(console)
                bar.add_task(heading(), total=total, completed=completed)
                bar.start()
            elif not console.is_terminal and now - line_time >= SECONDS_PER_LINE:
                line_time = now
                console.print(f"{heading()}: {completed} of {total}")
            yield item
    finally:
        if bar is not None:
            bar.stop()


def _bar(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True)
