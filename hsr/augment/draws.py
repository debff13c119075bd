# SPDX-License-Identifier: Apache-2.0
"""Random parameters of a batch, or those at a percentile."""

import math
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from .strengths import number


def checked_percentile(percentile: Any) -> float | None:
    """Returns a percentile as a float, or None for None.

    Raises:
        TypeError: It is no number.
        ValueError: It doesn't lie between 0 and 1.
    """
    if percentile is None:
        return None
    if isinstance(percentile, bool):
        raise TypeError(f"percentile must be a number between 0 and 1, or None, got {percentile!r}")
    q = number("percentile", percentile)
    if not 0 < q < 1:
        raise ValueError(f"percentile must lie between 0 and 1, got {percentile!r}")
    return q


class Draws:
    """One parameter for each image of a batch, [N] float64, as a few numbers cost nothing in full precision.

    They come from PyTorch's default generator of the device. With a percentile q nothing is random: every gate is open,
    and every image gets the same value, that at q of the range that is drawn from.

    Args:
        n: Images in the batch.
        p: Probability of a transform whose multiplier is 1, a scalar.
        percentile: q, or None for random numbers.
    """

    def __init__(self, n: int, p: Tensor, percentile: float | None) -> None:
        self._n = n
        self._options: dict[str, Any] = {"dtype": torch.float64, "device": p.device}
        self._p = p.detach().double()
        self._percentile = percentile

    def constant(self, value: float) -> Tensor:
        """Returns one value for all images."""
        return torch.full([self._n], value, **self._options)

    def fraction(self) -> Tensor:
        """Returns uniform numbers from 0 to 1."""
        if self._percentile is None:
            return torch.rand([self._n], **self._options)
        return self.constant(self._percentile)

    def deviation(self) -> Tensor:
        """Returns uniform numbers from -1 to 1."""
        return 2 * self.fraction() - 1

    def integer(self, count: int) -> Tensor:
        """Returns uniform whole numbers from 0 to `count` - 1."""
        if self._percentile is None:
            return torch.randint(count, [self._n], **self._options)
        return self.constant(math.floor(count * self._percentile))

    def normal(self) -> Tensor:
        """Returns normal numbers; at a percentile, erfinv(2q - 1), which is the normal quantile over sqrt(2)."""
        if self._percentile is None:
            return torch.randn([self._n], **self._options)
        return self.constant(NormalDist(sigma=math.sqrt(0.5)).inv_cdf(self._percentile))

    def half_normal(self) -> Tensor:
        """Returns absolute values of normal numbers; at a percentile, erfinv(q)."""
        if self._percentile is None:
            return self.normal().abs()
        return self.constant(NormalDist(sigma=math.sqrt(0.5)).inv_cdf((1 + self._percentile) / 2))

    def probability(self, multiplier: float) -> Tensor:
        """Returns the probability of a transform, a scalar from 0 to 1."""
        return (multiplier * self._p).clamp(0, 1)

    def gate(self, probability: Tensor) -> Tensor:
        """Returns for which images a transform happens, [N] bool: at a percentile for all."""
        if self._percentile is None:
            return torch.rand([self._n], **self._options) < probability
        return torch.ones([self._n], dtype=torch.bool, device=self._options["device"])

    def gated(self, multiplier: float, value: Tensor, neutral: float) -> Tensor:
        """Returns a transform's parameter, which is neutral for the images to which it doesn't happen."""
        return torch.where(self.gate(self.probability(multiplier)), value, neutral)

    @property
    def are_random(self) -> bool:
        """Whether the numbers are random, and not those at a percentile."""
        return self._percentile is None
