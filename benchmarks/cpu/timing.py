# SPDX-License-Identifier: Apache-2.0
"""Paired timing: the variants take turns in one process, so that what slows the machine slows them all."""

import gc
import time
from collections.abc import Mapping, Sequence

import numpy as np

from ..variants import Stage

MIN_ROUNDS = 5


def speedup(baseline: Sequence[float], samples: Sequence[float]) -> float:
    """Median over the rounds of baseline / sample: how many times faster than the baseline."""
    return float(np.median(np.divide(baseline, samples)))


def interleave(variants: Mapping[str, Stage], max_rounds: int, seconds: float) -> dict[str, list[float]]:
    """Times every variant once per round, in turns.

    Calls are staged and results dropped outside the timed span, before the next variant runs: each call allocates its
    own.

    Args:
        variants: Name -> what stages the call to time; warmed up by the caller.
        max_rounds: The number of rounds where the time allows it.
        seconds: No round begins after this time, except for the first MIN_ROUNDS.

    Returns:
        Name -> seconds per round; entry i of every list comes from round i.
    """
    names = list(variants)
    times: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    start = time.perf_counter()
    for i in range(max_rounds):
        if i >= MIN_ROUNDS and time.perf_counter() - start > seconds:
            break
        # Every variant starts a round as often as the others: none always inherits the same cache.
        first = i % len(names)
        for name in names[first:] + names[:first]:
            run = variants[name]()
            before = time.perf_counter()
            result = run()
            times[name].append(time.perf_counter() - before)
            del run, result
    return times
