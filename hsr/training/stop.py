# SPDX-License-Identifier: Apache-2.0
"""The orderly end of a run that is told to stop: by Ctrl-C, a scheduler's SIGTERM, or a closed terminal's SIGHUP."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

# `timeout` and schedulers signal a process more than once; what comes so soon after the first is the same request.
SECONDS_OF_ONE_REQUEST = 1.0


class StopRequest:
    """Turns the first SIGINT, SIGTERM or SIGHUP into a flag; a second Ctrl-C, a while later, interrupts at once.

    Within `interruptible` the first one interrupts at once. A SIGHUP that was ignored before (under nohup) stays so.
    Signals can only be handled by the main thread; in any other one this does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._at = 0.0
        self._interruptible = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """For work of which nothing is lost: a request, also one that came before, raises KeyboardInterrupt in it."""
        self._interruptible = True
        try:
            if self.requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._interruptible = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.requested and number == signal.SIGINT
        late = time.monotonic() - self._at >= SECONDS_OF_ONE_REQUEST
        if not self.requested:
            self.requested, self._at = True, time.monotonic()
        if self._interruptible or (again and late):
            raise KeyboardInterrupt
