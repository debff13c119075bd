# SPDX-License-Identifier: Apache-2.0
"""What of a large table of tests `pytest` runs by default; `pytest -m full` runs all of it.

Every test of a table runs the same code on other operands, and a fault seldom shows in one combination alone. So the
default is a sample in which the axes go round: each case is there in every dtype, in float32 in every order, else in
one order of derivative, each in one layout; the next cases of the operator have the other combinations.
tests/mutants.py tries whether the sample finds small faults.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch

FULL = pytest.mark.full
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def sampled_entries(
    case_number: int,
    dtype: torch.dtype,
    layouts: Sequence[str],
    orders: Sequence[int],
    is_interpreted: bool = False,
) -> set[tuple[str, int]]:
    """The (layout, order) of one case and dtype that run by default.

    In float32 that is every order, each in one layout; in the other dtypes one order of derivative in one layout. The
    interpreter takes seconds for what takes others milliseconds: there two of three cases have one dtype of 16 bits,
    and every other one has order 0 on its own, which is half of order 1.
    """
    turn = case_number + _DTYPES.index(dtype)
    if is_interpreted and dtype not in (torch.float32, (torch.float32, torch.float16, torch.bfloat16)[case_number % 3]):
        return set()
    if is_interpreted and case_number % 2:
        orders = [order for order in orders if order > 0]
    if dtype != torch.float32:
        derivatives = [order for order in orders if order > 0]
        orders = [derivatives[turn % len(derivatives)]]
    return {(layouts[(turn // 2 + order) % len(layouts)], order) for order in orders}


@dataclass
class Selection:
    """What tests this process runs; tests/conftest.py fills it in before it imports any test.

    Attributes:
        kind: The mark of the tests, "interpret" or "emulate", or empty for all others.
        has_gpu: Whether there is a GPU, or a GPU's tests are to be collected without one.
        runs_everything: Whether FULL tests run, too. On a GPU they always do.
    """

    kind: str = ""
    has_gpu: bool = False
    runs_everything: bool = False

    def leaves_out(self, marks: set[str]) -> bool:
        """Whether tests with these marks don't run, whatever other marks they have."""
        if "gpu" in marks:
            return not self.has_gpu or self.kind != ""
        return ("full" in marks and not self.runs_everything) or bool({"interpret", "emulate"} & (marks - {self.kind}))

    def runs(self, marks: set[str]) -> bool:
        """Whether a test with these marks, and no others, runs."""
        return not self.leaves_out(marks) and (self.kind == "" or self.kind in marks)


SELECTION = Selection()


def kept(parameters: Iterable[Any]) -> list[Any]:
    """Returns the parameters of a test without those that don't run in this process.

    Those aren't even collected, which would take every process seconds. Where none is left, the first one is, which
    tests/conftest.py leaves out: pytest reports tests without any parameters as skipped.
    """

    def marks(one: Any) -> set[str]:
        return {mark.name for mark in getattr(one, "marks", ())}

    every = list(parameters)
    return [one for one in every if not SELECTION.leaves_out(marks(one))] or every[:1]


def every_other(*axes: Iterable[Any]) -> list[Any]:
    """The combinations of several axes as parameters of a test; every other one, as on a chessboard, by default.

    An element of an axis is a value or what `pytest.param` returns, with marks, an id and perhaps several values.
    """
    listed = [[_parameters(value) for value in axis] for axis in axes]
    combinations = []
    for places in product(*(range(len(axis)) for axis in listed)):
        chosen = [axis[place] for axis, place in zip(listed, places, strict=True)]
        values = [value for parameters in chosen for value in parameters.values]
        marks = [mark for parameters in chosen for mark in parameters.marks]
        marks += [FULL] if sum(places) % 2 else []
        combinations.append(pytest.param(*values, marks=marks, id="-".join(parameters.id for parameters in chosen)))
    return kept(combinations)


def _parameters(value: Any) -> Any:
    one = value if isinstance(value, type(pytest.param())) else pytest.param(value)
    name = one.id or "-".join(str(part).removeprefix("torch.") for part in one.values)
    return pytest.param(*one.values, marks=one.marks, id=name)
