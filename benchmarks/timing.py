# SPDX-License-Identifier: Apache-2.0
"""Paired timing: the variants take turns in one process, so that what slows the machine slows them all."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Summary:
    """Median and 20th and 80th percentile of a sample."""

    median: float
    p20: float
    p80: float


def summarize(samples: Sequence[float]) -> Summary:
    """Percentiles of a non-empty sample, linearly interpolated."""
    p20, median, p80 = np.percentile(samples, [20, 50, 80])
    return Summary(float(median), float(p20), float(p80))


def speedup(baseline: Sequence[float], samples: Sequence[float]) -> float:
    """Median over the rounds of baseline / sample: how many times faster than the baseline."""
    return float(np.median(np.divide(baseline, samples)))


def interleave(variants: Mapping[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Times every variant once per round, in turns.

    Results are dropped outside the timed span, before the next variant runs: each call allocates its own.

    Args:
        variants: Name -> what to time; warmed up by the caller.
        rounds: At most so many rounds,
        seconds: or as many as fit in this time, but at least LEAST_ROUNDS (`rounds` if that is less).

    Returns:
        Name -> seconds per round; entry i of every list comes from round i.
    """
    names = list(variants)
    times: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    started = time.perf_counter()
    for done in range(rounds):
        if done >= LEAST_ROUNDS and time.perf_counter() - started > seconds:
            break
        # Every variant starts a round as often as the others: none always inherits the same cache.
        first = done % len(names)
        for name in names[first:] + names[:first]:
            before = time.perf_counter()
            result = variants[name]()
            times[name].append(time.perf_counter() - before)
            del result
    return times


def per_call(run: Callable[[], object], calls: int, settle: Callable[[], object], *, wait: bool) -> float:
    """Seconds per call of so many calls in a row.

    Args:
        settle: Waits for all that calls have set going; runs before the first one and after the last.
        wait: Whether the time includes waiting for what the calls have set going, or only that of making them.
    """
    settle()
    before = time.perf_counter()
    for _ in range(calls):
        run()
    issued = time.perf_counter()
    settle()
    return ((time.perf_counter() if wait else issued) - before) / calls
