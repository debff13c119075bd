# SPDX-License-Identifier: Apache-2.0
"""Paired comparisons over seeds: differences with their intervals, and the number of seeds that a difference takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
POWER = 0.8
# What the claim says of path lengths: they shrink by 16.19%.
CLAIMED_RATIO = 1 - 0.1619
MAX_SEEDS = 10_000


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, with its 95% interval by Student's t; NaN where there are too few pairs."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def is_significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Returns the mean of values less baseline, pair by pair."""
    differences = np.subtract(values, baseline)
    n = len(differences)
    mean = float(differences.mean()) if n else math.nan
    if n < 2:
        return Difference(mean, math.nan, math.nan, n)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * differences.std(ddof=1) / math.sqrt(n))
    return Difference(mean, mean - half, mean + half, n)


def paired_change(values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Returns the relative change of positive values, pair by pair, as the geometric mean of ratios less one.

    The interval is that of the mean of logarithms, which treats a half and a double alike.
    """
    found = paired_difference(np.log(values).tolist(), np.log(baseline).tolist())
    return Difference(math.expm1(found.mean), math.expm1(found.low), math.expm1(found.high), found.pairs)


def paired_spread(values: Sequence[float], baseline: Sequence[float]) -> float:
    """Returns the standard deviation over pairs of the logarithm of their ratio."""
    return float(np.std(np.log(values) - np.log(baseline), ddof=1)) if len(values) > 1 else math.nan


def power(seeds: int, spread: float, effect: float) -> float:
    """Returns the probability that a two-sided paired t-test at 5% sees a mean difference.

    Args:
        seeds: Number of pairs, at least 2.
        spread: Standard deviation of the differences.
        effect: Their mean.
    """
    critical = stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1)
    shift = abs(effect) / spread * math.sqrt(seeds)
    return float(stats.nct.sf(critical, seeds - 1, shift) + stats.nct.cdf(-critical, seeds - 1, shift))


def seeds_needed(spread: float, ratio: float = CLAIMED_RATIO) -> int:
    """Returns the smallest number of pairs that shows a ratio with 80% power, given the spread of its logarithm."""
    effect = math.log(ratio)
    enough = (seeds for seeds in range(2, MAX_SEEDS) if spread == 0 or power(seeds, spread, effect) >= POWER)
    return next(enough, MAX_SEEDS)
