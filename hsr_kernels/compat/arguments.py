# SPDX-License-Identifier: Apache-2.0
"""Arguments as other projects pass them: tensors for numbers, padding in their order, filters on another device."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.compiler import is_compiling

import hsr_kernels as kernels

from .._dispatch import request

_lock = threading.Lock()
_calls_on_reference = 0
_before: str | None = None


def backend(on_reference: bool) -> AbstractContextManager[object, bool | None]:
    """Has the calls inside run on the reference backend, where that is asked for.

    The setting is the process's: while one thread is inside, the calls of the others take the reference too.
    """
    if not on_reference:
        return nullcontext()
    # torch.compile knows nothing of locks, and runs what it has compiled without this.
    return request.use_backend("reference") if is_compiling() else _reference()


@contextmanager
def _reference() -> Iterator[None]:
    global _calls_on_reference, _before
    with _lock:
        if _calls_on_reference == 0:
            _before = request.BACKEND.used
        _calls_on_reference += 1
        request.BACKEND.used = "reference"
    try:
        yield
    finally:
        with _lock:
            _calls_on_reference -= 1
            if _calls_on_reference == 0:
                request.BACKEND.used = _before


def number(value: Any) -> Any:
    """A number that may be a tensor or an array of one element as Python's; anything else as it is.

    Raises:
        TypeError: It is a tensor with a gradient, which would be lost.
    """
    if isinstance(value, torch.Tensor) and value.requires_grad and torch.is_grad_enabled():
        raise TypeError("a tensor that requires a gradient can be a gain, but no other number; pass it as detach()")
    return value.item() if hasattr(value, "item") and not isinstance(value, (int, float)) else value


def ints(value: Any) -> Any:
    """An int, or several in a sequence, an array or a tensor, as one or a tuple of Python's."""
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0:
        return tuple(ints(v) for v in value)
    return number(value)


def before_and_after(padding: Any) -> tuple[int, ...]:
    """Two numbers of padding, (before, after) of both axes, as (x0, x1, y0, y1); four as they are."""
    values = ints(padding)
    return (*values, *values) if len(values) == 2 else values


def filter_on(f: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | None:
    """A filter on the device of the images."""
    return f.to(x.device) if isinstance(f, torch.Tensor) and isinstance(x, torch.Tensor) else f


def bias_of(b: torch.Tensor | None, x: torch.Tensor, dim: int) -> torch.Tensor | None:
    """A bias as [C]: other projects also have it as [1, C, 1, 1], and an empty one for none."""
    if not isinstance(b, torch.Tensor) or not isinstance(x, torch.Tensor):
        return b
    if b.ndim != 1 and b.numel() == x.shape[dim]:
        return b.reshape(-1)
    return None if b.numel() == 0 and x.shape[dim] > 0 else b


def bias_act(
    x: torch.Tensor, b: torch.Tensor | None, dim: int, act: str, alpha: Any, gain: Any, clamp: Any
) -> torch.Tensor:
    """`hsr_kernels.bias_act` with a gain that may be a tensor, which has a gradient then."""
    b, alpha, clamp = bias_of(b, x, dim), number(alpha), number(clamp)
    if not isinstance(gain, torch.Tensor):
        return kernels.bias_act(x, b, dim, act, alpha, number(gain), clamp)
    y = kernels.bias_act(x, b, dim, act, alpha, 1.0) * gain.to(x.dtype)
    return y if clamp is None or clamp < 0 else kernels.bias_act(y, clamp=clamp)


def fir(
    function: Callable[..., torch.Tensor],
    x: torch.Tensor,
    f: torch.Tensor | None,
    *factors: Any,
    gain: Any,
    **options: Any,
) -> torch.Tensor:
    """A FIR function of `hsr_kernels`, its factors (of up- or downsampling) and padding of any kind of ints.

    Args:
        function: `hsr_kernels.upfirdn2d` or one of its like.
        x, f: Images and filter, which may lie on another device.
        factors: up, down.
        gain: A number or a tensor, which has a gradient then.
        options: padding and flip_filter.
    """
    options["padding"] = ints(options["padding"])
    f, factors = filter_on(f, x), tuple(ints(v) for v in factors)
    if not isinstance(gain, torch.Tensor):
        return function(x, f, *factors, gain=number(gain), **options)
    return function(x, f, *factors, **options) * gain.to(x.dtype)
