# SPDX-License-Identifier: Apache-2.0
"""Argument checks shared by the public functions: every message names the argument, what it was, what was expected."""

from collections.abc import Sequence
from typing import TypeVar

import torch

_Maybe = TypeVar("_Maybe", torch.Tensor, torch.Tensor | None)

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def tensor(name: str, value: object, ndim: int | None = None) -> torch.Tensor:
    """Returns `value` if it is a floating-point tensor (of `ndim` dimensions); raises otherwise."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32, float16, bfloat16 or float64, got {value.dtype}")
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, got shape {list(value.shape)}")
    return value


def shape(name: str, value: torch.Tensor, expected: Sequence[int]) -> None:
    """Raises unless `value` has the `expected` shape."""
    if tuple(value.shape) != tuple(expected):
        raise ValueError(f"{name} must have shape {list(expected)}, got {list(value.shape)}")


def same_device(reference_name: str, reference: torch.Tensor, **others: torch.Tensor | None) -> None:
    """Raises unless all tensors are on the device of `reference`."""
    for name, other in others.items():
        if other is not None and other.device != reference.device:
            raise ValueError(
                f"{name} must be on the device of {reference_name} ({reference.device}), got {other.device}"
            )


def pair(name: str, value: int | Sequence[int], minimum: int = 1) -> tuple[int, int]:
    """Expands an int or (x, y) to (x, y)."""
    values = (value, value) if isinstance(value, int) else tuple(value)
    if len(values) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise ValueError(f"{name} must be an int or a pair (x, y) of ints, got {value!r}")
    if min(values) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return values[0], values[1]


def padding4(name: str, value: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Expands an int, (x, y) or (x0, x1, y0, y1) to (x0, x1, y0, y1)."""
    values = (value,) * 4 if isinstance(value, int) else tuple(value)
    if len(values) == 2:
        values = (values[0], values[0], values[1], values[1])
    if len(values) != 4 or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise ValueError(f"{name} must be an int, (x, y) or (x0, x1, y0, y1), got {value!r}")
    return values


def autocast(value: _Maybe) -> _Maybe:
    """Casts a tensor to the autocast dtype where autocast is on for its device; a no-op otherwise, and for None.

    The cast stands in the public functions, before the custom autograd Functions, so that what they save has
    the dtype that they compute in.
    """
    if value is None or not torch.is_autocast_enabled(value.device.type):
        return value
    if value.dtype not in FLOATS or value.dtype == torch.float64:
        return value
    return value.to(torch.get_autocast_dtype(value.device.type))
