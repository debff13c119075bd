# SPDX-License-Identifier: Apache-2.0
"""What of a large table of tests `pytest` runs by default; `pytest -m full` runs all of it.

Every test of a table runs the same code on other operands, and a fault seldom shows in one combination alone. So the
default is a sample in which the axes go round: each case is there in every dtype, in float32 in every order, else in
one order of derivative, each in one layout; the next cases of the operator have the other combinations.
tests/mutants.py tries whether the sample finds small faults.
"""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import pytest
import torch

FULL = pytest.mark.full
# tests/conftest.py sets it where all is asked for, before it imports any test.
runs_everything = False
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def sampled_entries(
    case_number: int, dtype: torch.dtype, layouts: Sequence[str], orders: Sequence[int]
) -> set[tuple[str, int]]:
    """The (layout, order) of one case and dtype that run by default.

    In float32 that is every order, each in one layout; in the other dtypes one order of derivative in one layout.
    """
    turn = case_number + _DTYPES.index(dtype)
    if dtype != torch.float32:
        derivatives = [order for order in orders if order > 0]
        orders = [derivatives[turn % len(derivatives)]]
    return {(layouts[(turn // 2 + order) % len(layouts)], order) for order in orders}


def kept(parameters: Iterable[Any]) -> list[Any]:
    """Returns those parameters of a test that run: on a GPU all, elsewhere those without FULL unless all is asked for.

    The others aren't even collected, which would take every process seconds.
    """

    def runs(marks: set[str]) -> bool:
        return runs_everything or "full" not in marks or "gpu" in marks

    return [one for one in parameters if runs({mark.name for mark in one.marks})]


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
