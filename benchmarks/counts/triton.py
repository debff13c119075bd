# SPDX-License-Identifier: Apache-2.0
"""Counts what a pass of a GPU case launches and moves, on tensors without data."""

from collections.abc import Iterator

from .. import roofline
from ..case import Case
from ..gpu.cases import GPU_CASES
from ..workloads import BOTH
from .recorded import Counts

BACKEND = "triton"


def counts(cases: tuple[Case, ...] = GPU_CASES) -> Iterator[Counts]:
    """Yields the counts of each pass of each case on each of its routes; training has none."""
    for case in cases:
        for route in case.routes if BOTH in case.targets else ():
            for work in roofline.estimate(case, route):
                traffic = work.operators.values()
                launches, operations = sum(t.launches for t in traffic), sum(t.operations for t in traffic)
                yield Counts(BACKEND, work.name, work.phase, None, launches, operations, work.moved_bytes, None)
