# SPDX-License-Identifier: Apache-2.0
"""Values with the uncertainty that comes from the sample they were measured on.

Source: percentile intervals, Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from torch import Tensor

from ..console import track

# The interval leaves this share of the resamples out at either end.
TAIL = 0.025


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval from `low` to `high`.

    The interval covers the choice of latent codes alone, and not that two trainings differ.
    """

    value: float
    low: float
    high: float


def bootstrap(
    values: Tensor,
    statistic: Callable[[np.ndarray, np.ndarray], float],
    resamples: int,
    seed: int,
    console: Console | None = None,
) -> Estimate:
    """Returns a statistic of the values [N] with the percentile interval of its bootstrap, in float64.

    A resample is told by how often it has each value: the values are sorted once for all of them.

    Args:
        values: [N], N >= 2, of any floating dtype.
        statistic: Its arguments are the sorted values [N] and their counts [N]; it returns their statistic.
        resamples: Number of resamples.
        seed: Seed of the resamples.
        console: Where to show the progress; None: standard output.

    Raises:
        ValueError: There are too few values or resamples, or a value is not finite.
    """
    ordered = np.sort(values.detach().double().cpu().numpy())
    if ordered.ndim != 1 or len(ordered) < 2 or not np.isfinite(ordered).all():
        raise ValueError(f"values must be [N], N >= 2, and finite, got shape {tuple(values.shape)}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    rng = np.random.default_rng(seed)
    size = len(ordered)
    rounds = track(range(resamples), "Resampling for the interval", resamples, console)
    resampled = [statistic(ordered, np.bincount(rng.integers(0, size, size), minlength=size)) for _ in rounds]
    low, high = np.quantile(resampled, [TAIL, 1 - TAIL])
    return Estimate(statistic(ordered, np.ones(size, dtype=np.int64)), float(low), float(high))


def counted_mean(values: np.ndarray, counts: np.ndarray) -> float:
    """Returns the mean of values [N] that occur `counts` [N] times."""
    return float(values @ counts / counts.sum())
