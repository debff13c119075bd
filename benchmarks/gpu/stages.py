# SPDX-License-Identifier: Apache-2.0
"""The stages of a report, and the items of each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import choosing, kernels, measuring, profiling, testing
from .items import Item, Task


@dataclass(frozen=True)
class Stage:
    """A part of the report.

    Attributes:
        items: Yields its items, the most important first.
        weight: Its share of the time that is left, in proportion to the weights of the stages after it.
    """

    items: Callable[[Task], Iterator[Item]]
    weight: float


# Comes before the others where kernels haven't been compiled yet.
KERNELS = "kernels"
STAGES = {
    "tests": Stage(testing.items, 4.0),
    "choices": Stage(choosing.items, 2.0),
    "cases": Stage(measuring.items, 6.0),
    "compile": Stage(measuring.compiled_items, 2.0),
    "profile": Stage(profiling.items, 3.0),
}
ALL_STAGES = {KERNELS: Stage(kernels.items, 3.0)} | STAGES
