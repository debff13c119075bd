# SPDX-License-Identifier: Apache-2.0
"""What this machine can't be faster than, measured beside what is timed: a figure beyond it is an error of measuring.

Bytes are moved at best as fast as a copy of as many bytes, or a sum over as many, whichever is faster: both work on
memory that is there already, and on as much of it, so they are served by the same caches as the case is. Products are
computed at best a tenth faster than a large square matrix product, which doesn't quite reach the processor's peak. Of
all rounds the fastest counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..costs import Cost
from ..variants import COPY, Stage

SUM, PRODUCT = "sum", "product"
PROBES = (COPY, SUM, PRODUCT)
PRODUCT_SIDE, TINY_PRODUCT_SIDE = 1536, 128
# Of the processor's peak over the rate of that product.
MAX_PRODUCT_GAIN = 1.1


@dataclass(frozen=True)
class Limits:
    """The fastest rates of all rounds; None where there is nothing to do at that rate."""

    bytes_per_second: float | None
    flops_per_second: float | None

    def floor(self, cost: Cost) -> float:
        """The least seconds that a pass can take."""
        seconds = [
            work / rate
            for work, rate in ((cost.min_bytes, self.bytes_per_second), (cost.flops, self.flops_per_second))
            if rate is not None
        ]
        return max(seconds, default=0.0)


def probes(cost: Cost, product_side: int = PRODUCT_SIDE) -> dict[str, Stage]:
    """Returns what is timed to learn the limits, by name."""
    found: dict[str, Stage] = {}
    # float32 in both halves of a buffer.
    elements = cost.min_bytes // 8
    if elements:
        buffer = torch.zeros(2 * elements)
        source, target = buffer[:elements], buffer[elements:]
        found[COPY] = lambda: lambda: target.copy_(source)
        found[SUM] = lambda: buffer.sum
    if cost.flops:
        a, b = torch.randn(2, product_side, product_side).unbind()
        product = torch.empty(product_side, product_side)
        found[PRODUCT] = lambda: lambda: torch.mm(a, b, out=product)
    return found


def limits(cost: Cost, seconds: Mapping[str, Sequence[float]], product_side: int = PRODUCT_SIDE) -> Limits:
    """Returns the limits from the times of the probes."""
    moving = [min(seconds[name]) for name in (COPY, SUM) if name in seconds]
    bandwidth = cost.min_bytes / min(moving) if moving else None
    flops = MAX_PRODUCT_GAIN * 2.0 * product_side**3 / min(seconds[PRODUCT]) if PRODUCT in seconds else None
    return Limits(bandwidth, flops)
