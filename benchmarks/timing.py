# SPDX-License-Identifier: Apache-2.0
"""Statistics of times, and the host's time per call."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Time(NamedTuple):
    """Median, 20th and 80th percentile of a sample, in the sample's unit."""

    median: float
    p20: float
    p80: float


def percentiles(samples: Sequence[float]) -> Time:
    """Percentiles of a non-empty sample, linearly interpolated."""
    return Time(*(float(value) for value in np.percentile(samples, [50, 20, 80])))


def seconds_per_call(run: Callable[[], object], calls: int, settle: Callable[[], object], *, waits: bool) -> float:
    """Times a number of calls in a row.

    Args:
        run: What to call.
        calls: How many times.
        settle: Waits for all work that calls have started; runs before the first call and after the last.
        waits: Whether the time includes that of waiting for the work, or of issuing it alone.
    """
    settle()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    issued = time.perf_counter()
    settle()
    return ((time.perf_counter() if waits else issued) - start) / calls
