# SPDX-License-Identifier: Apache-2.0
"""torch_utils.ops.upfirdn2d."""

import functools
from collections.abc import Sequence
from typing import Any

import torch

import hsr_kernels as kernels

from ... import _checks
from ...upfirdn2d import setup_filter as _setup_filter
from ...upfirdn2d.geometry import filter_taps
from .. import arguments
from ._plugin import _init, _inited, _plugin, on_reference

__all__ = [
    "_get_filter_size",
    "_init",
    "_inited",
    "_parse_padding",
    "_parse_scaling",
    "_plugin",
    "_upfirdn2d_ref",
    "downsample2d",
    "filter2d",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
]


def setup_filter(
    f: torch.Tensor | Sequence[float] | Sequence[Sequence[float]] | float | None,
    device: str | torch.device = torch.device("cpu"),  # noqa: B008
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> torch.Tensor:
    """`hsr_kernels.setup_filter`."""
    return _setup_filter(
        f, "cpu" if device is None else device, normalize, flip_filter, arguments.number(gain), separable
    )


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> torch.Tensor:
    """`hsr_kernels.upfirdn2d`; two numbers of padding are (x, y)."""
    with on_reference(impl):
        return arguments.fir(kernels.upfirdn2d, x, f, up, down, padding=padding, flip_filter=flip_filter, gain=gain)


def filter2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> torch.Tensor:
    """`hsr_kernels.filter2d`."""
    with on_reference(impl):
        return arguments.fir(kernels.filter2d, x, f, padding=padding, flip_filter=flip_filter, gain=gain)


def upsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> torch.Tensor:
    """`hsr_kernels.upsample2d`."""
    with on_reference(impl):
        return arguments.fir(kernels.upsample2d, x, f, up, padding=padding, flip_filter=flip_filter, gain=gain)


def downsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> torch.Tensor:
    """`hsr_kernels.downsample2d`."""
    with on_reference(impl):
        return arguments.fir(kernels.downsample2d, x, f, down, padding=padding, flip_filter=flip_filter, gain=gain)


# Operators that projects have added themselves call these.
_upfirdn2d_ref = functools.partial(upfirdn2d, impl="ref")


def _parse_scaling(scaling: Any) -> tuple[int, int]:
    """A factor as (x, y)."""
    return _checks.pair("scaling", arguments.ints(scaling))


def _parse_padding(padding: Any) -> tuple[int, int, int, int]:
    """Padding as (x0, x1, y0, y1)."""
    return _checks.padding4("padding", arguments.ints(padding))


def _get_filter_size(f: torch.Tensor | None) -> tuple[int, int]:
    """The (width, height) of a filter."""
    height, width = filter_taps(f)
    return width, height
