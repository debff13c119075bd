# SPDX-License-Identifier: Apache-2.0
"""The launches that a FIR takes on a GPU, whose filter stays where it is: its values aren't known to the host."""

from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeVar

import torch

from .geometry import Geometry

_Pass = TypeVar("_Pass", bound="FirPass")


class FilterKind(Enum):
    """What the taps of a filter are, as kernels take it.

    Attributes:
        NONE: One tap of 1.
        OUTER_PRODUCT: A row of taps, applied along both axes.
        MATRIX: Taps [height, width].
    """

    NONE = 0
    OUTER_PRODUCT = 1
    MATRIX = 2


@dataclass(frozen=True)
class FirPass:
    """One launch: a geometry and its filter.

    Attributes:
        geometry: What it computes.
        f: Its filter: None, [taps] or [height, width].
        taps: (height, width) of the filter.
    """

    geometry: Geometry
    f: torch.Tensor | None
    taps: tuple[int, int]

    @property
    def kind(self) -> FilterKind:
        if self.f is None:
            return FilterKind.NONE
        return FilterKind.OUTER_PRODUCT if self.f.ndim == 1 else FilterKind.MATRIX

    @property
    def filter_args(self) -> tuple:
        """(f, offset of the correlation's first tap, strides (y, x)): an unflipped filter is walked backwards."""
        if self.f is None:
            return None, 0, 0, 0
        f = self.f
        strides = f.stride() if f.ndim == 2 else (f.stride(0), f.stride(0))
        if self.geometry.flip_filter:
            return f, 0, *strides
        if f.ndim == 1:
            return f, (f.shape[0] - 1) * strides[0], -strides[0], -strides[1]
        offset = sum((n - 1) * stride for n, stride in zip(f.shape, strides, strict=True))
        return f, offset, -strides[0], -strides[1]


def along_each_axis(fir_pass: _Pass) -> list[_Pass]:
    """Returns the two passes that an outer product can be split into: along rows, then along columns."""
    g, f, taps = fir_pass.geometry, fir_pass.f, fir_pass.taps[0]
    assert f is not None and f.ndim == 1, "only an outer product has one axis of taps"
    x0, x1, y0, y1 = g.padding
    rows = replace(g, up=(g.up[0], 1), down=(g.down[0], 1), padding=(x0, x1, 0, 0))
    columns = replace(g, up=(1, g.up[1]), down=(1, g.down[1]), padding=(0, 0, y0, y1), gain=1.0)
    kind = type(fir_pass)
    return [kind(rows, f[None, :], (1, taps)), kind(columns, f[:, None], (taps, 1))]
