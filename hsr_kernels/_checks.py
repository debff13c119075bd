# SPDX-License-Identifier: Apache-2.0
"""Argument checks shared by the public functions: every message names the argument, what it was, what was expected."""

import operator
from collections.abc import Sequence
from typing import TypeVar

import torch

_OptionalTensor = TypeVar("_OptionalTensor", torch.Tensor, torch.Tensor | None)

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# Pixels of padding at a side. No image is that large, and sizes stay far from the limits of the kernels' integers.
MAX_PADDING = 2**24


def tensor(name: str, value: object, ndim: int | None = None) -> torch.Tensor:
    """Returns `value` if it is a floating-point tensor (of `ndim` dimensions); raises otherwise."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got one of layout {value.layout}")
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
    for name, value in others.items():
        if value is not None and value.device != reference.device:
            raise ValueError(
                f"{name} must be on the device of {reference_name} ({reference.device}), got {value.device}"
            )


def pair(name: str, value: int | Sequence[int], minimum: int = 1, order: str = "(x, y)") -> tuple[int, int]:
    """Expands an int or a pair to a pair; error messages give its `order`."""
    values = _ints(value, 2)
    if len(values) != 2:
        raise ValueError(f"{name} must be an int or a pair {order} of ints, got {value!r}")
    if min(values) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return values[0], values[1]


def padding4(name: str, value: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Expands an int, (x, y) or (x0, x1, y0, y1) to (x0, x1, y0, y1)."""
    values = _ints(value, 4)
    if len(values) == 2:
        values = (values[0], values[0], values[1], values[1])
    if len(values) != 4:
        raise ValueError(f"{name} must be an int, (x, y) or (x0, x1, y0, y1), got {value!r}")
    if max(values) > MAX_PADDING or min(values) < -MAX_PADDING:
        raise ValueError(f"{name} must be from {-MAX_PADDING} to {MAX_PADDING}, got {value!r}")
    return values[0], values[1], values[2], values[3]


def _ints(value: object, count: int) -> tuple[int, ...]:
    """Returns an int `count` times, or a sequence of ints as a tuple; () for anything else."""
    if is_int(value):
        return (operator.index(value),) * count  # type: ignore[arg-type]
    if isinstance(value, Sequence) and all(is_int(v) for v in value):
        return tuple(operator.index(v) for v in value)
    return ()


def is_int(value: object) -> bool:
    """Whether `value` is an integer of any kind (NumPy's too); True and False are not."""
    return hasattr(value, "__index__") and not isinstance(value, (bool, torch.Tensor))


def positive(**values: object) -> None:
    """Raises unless all values are positive ints."""
    for name, value in values.items():
        if not is_int(value) or value < 1:  # type: ignore[operator]
            raise ValueError(f"{name} must be a positive int, got {value!r}")


def number(name: str, value: object) -> float:
    """Returns `value` as a float if it is a number and not NaN; raises otherwise."""
    if isinstance(value, (str, torch.Tensor)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    # Only NaN differs from itself; torch.compile can't trace math.isnan of a number that it leaves open.
    if number != number:
        raise ValueError(f"{name} must be a number, got nan")
    return number


def kernel_fits(
    name: str, x: torch.Tensor, size: Sequence[int], kernel: Sequence[int], dilation: Sequence[int] = (1, 1)
) -> None:
    """Raises where image `x`, of (height, width) `size` once padded, is smaller than the kernel of a convolution."""
    extent = [spacing * (taps - 1) + 1 for taps, spacing in zip(kernel, dilation, strict=True)]
    if size[0] < extent[0] or size[1] < extent[1]:
        raise ValueError(
            f"{name} of shape {list(x.shape)} has {size[0]} x {size[1]} pixels once padded, "
            f"which is less than the kernel's {extent[0]} x {extent[1]}"
        )


def not_empty(name: str, weight: torch.Tensor) -> None:
    """Raises for a convolution weight without output channels, input channels or taps."""
    if 0 in weight.shape:
        raise ValueError(f"{name} must have channels and taps, got shape {list(weight.shape)}")


def autocast(value: _OptionalTensor) -> _OptionalTensor:
    """Casts a tensor to the autocast dtype where autocast is on for its device; a no-op otherwise.

    The public functions cast, before the custom autograd Functions, so that what these save has the dtype that they
    compute in.
    """
    if not isinstance(value, torch.Tensor) or not autocast_is_on(value.device):
        return value
    return value.to(autocast_dtype(value.dtype, value.device))


def autocast_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Returns the dtype that autocast, where it is on, gives tensors of `dtype` on a device; else that dtype itself."""
    if not autocast_is_on(device) or dtype not in FLOATS or dtype == torch.float64:
        return dtype
    return torch.get_autocast_dtype(device.type)


def autocast_is_on(device: torch.device) -> bool:
    """Whether autocast is on for a device; PyTorch doesn't answer for meta."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)
