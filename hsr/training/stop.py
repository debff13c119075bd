# SPDX-License-Identifier: Apache-2.0
"""Requests to stop a run: Ctrl-C, a scheduler's SIGTERM, or a closed terminal's SIGHUP."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

# `timeout` and schedulers signal a process more than once: signals closer together than this are one request.
MIN_SECONDS_BETWEEN_REQUESTS = 1.0


class StopRequest:
    """Turns the first SIGINT, SIGTERM or SIGHUP into a flag; a second Ctrl-C, a while later, interrupts at once.

    Within `interruptible` the first one interrupts at once, unless other processes wait for this one. A SIGHUP that was
    ignored before (by nohup) stays ignored. Signals can only be handled by the main thread; in any other thread this
    does nothing.

    Args:
        is_alone: No other process waits for this one.
    """

    def __init__(self, is_alone: bool = True) -> None:
        self.requested = False
        self._is_alone = is_alone
        self._request_time = 0.0
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
        """Interrupts its body by KeyboardInterrupt on any request, also an earlier one: for work that may be lost."""
        self._interruptible = self._is_alone
        try:
            if self.requested and self._is_alone:
                raise KeyboardInterrupt
            yield
        finally:
            self._interruptible = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_second_ctrl_c = self.requested and number == signal.SIGINT
        is_new_request = time.monotonic() - self._request_time >= MIN_SECONDS_BETWEEN_REQUESTS
        if not self.requested:
            self.requested, self._request_time = True, time.monotonic()
        if self._interruptible or (is_second_ctrl_c and is_new_request):
            raise KeyboardInterrupt
