# SPDX-License-Identifier: Apache-2.0
"""Ends what takes too long."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class OutOfTime(BaseException):
    """Ends what runs too long; no Exception, so that nothing on its way takes it for a failure."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Ends its body by OutOfTime after so many seconds, whatever it does in Python then.

    Raises:
        OutOfTime: The time is over.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    if seconds <= 0:
        raise OutOfTime
    handler = signal.signal(signal.SIGALRM, stop)
    before = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
        signal.signal(signal.SIGALRM, handler)
