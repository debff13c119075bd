# SPDX-License-Identifier: Apache-2.0
"""What this machine can't be faster than, measured beside what is timed: a figure beyond it is an error of measuring.

Bytes are moved at best as fast as a copy of as many bytes, or a sum over as many, whichever is faster: both work on
memory that is there already, and on as much of it, so they are served by the same caches as the case is. Products are
computed at best a tenth faster than a large square matrix product or a 3x3 convolution, whichever is faster, as neither
library quite reaches the processor's peak, and on some processors one stays well below it. Of all rounds the fastest
counts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from ..costs import Cost
from ..variants import COPY, Stage

SUM, PRODUCT, CONVOLUTION = "sum", "product", "convolution"
# What a processor may multiply at another rate, and how the probes for it are called.
DTYPES = {torch.float32: "", torch.bfloat16: " in bfloat16"}
PROBES = (COPY, SUM, *(name + suffix for suffix in DTYPES.values() for name in (PRODUCT, CONVOLUTION)))
PRODUCT_SIDE, TINY_PRODUCT_SIDE = 1536, 128
# Channels of the convolution, and images and their side such that it multiplies about as often as the product.
_CHANNELS, _IMAGES, _IMAGE_SIDE = 128, 6, 64
# Of the processor's peak over the faster one's rate.
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


def probes(
    cost: Cost, product_side: int = PRODUCT_SIDE, dtypes: Iterable[torch.dtype] = (torch.float32,)
) -> dict[str, Stage]:
    """Returns what is timed to learn the limits, by name.

    Args:
        cost: What is timed beside them needs.
        product_side: Of the matrices.
        dtypes: Those of DTYPES that are multiplied.
    """
    found: dict[str, Stage] = {}
    # float32 in both halves of a buffer.
    elements = cost.min_bytes // 8
    if elements:
        buffer = torch.zeros(2 * elements)
        source, target = buffer[:elements], buffer[elements:]
        found[COPY] = lambda: lambda: target.copy_(source)
        found[SUM] = lambda: buffer.sum
    for dtype in dtypes if cost.flops else ():
        a, b = torch.randn(2, product_side, product_side).to(dtype).unbind()
        product = partial(torch.mm, a, b, out=torch.empty_like(a))
        images = torch.randn(*_image_shape(product_side)).to(dtype)
        convolution = partial(F.conv2d, images, torch.randn(_CHANNELS, _CHANNELS, 3, 3).to(dtype), padding=1)
        found[PRODUCT + DTYPES[dtype]] = partial(_itself, product)
        found[CONVOLUTION + DTYPES[dtype]] = partial(_itself, convolution)
    return found


def _itself(call: Callable[[], Any]) -> Callable[[], Any]:
    """The stage of a call that needs nothing before it."""
    return call


def _image_shape(product_side: int) -> tuple[int, int, int, int]:
    side = _IMAGE_SIDE * product_side // PRODUCT_SIDE
    return _IMAGES, _CHANNELS, side, side


def limits(
    cost: Cost,
    seconds: Mapping[str, Sequence[float]],
    product_side: int = PRODUCT_SIDE,
    dtype: torch.dtype = torch.float32,
) -> Limits:
    """Returns the limits for products of `dtype` from the times of the probes, which `probes` made of the arguments."""
    moving = [min(seconds[name]) for name in (COPY, SUM) if name in seconds]
    bandwidth = cost.min_bytes / min(moving) if moving else None
    images, channels, height, width = _image_shape(product_side)
    multiplied = {
        PRODUCT + DTYPES[dtype]: 2.0 * product_side**3,
        CONVOLUTION + DTYPES[dtype]: 2.0 * images * height * width * channels**2 * 9,
    }
    rates = [flops / min(seconds[name]) for name, flops in multiplied.items() if name in seconds]
    return Limits(bandwidth, MAX_PRODUCT_GAIN * max(rates) if rates else None)
