# SPDX-License-Identifier: Apache-2.0
"""The launches that a FIR takes on a GPU, whose filter stays where it is: its values aren't known to the host."""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from .geometry import Geometry

NO_FILTER, OUTER, PLAIN = 0, 1, 2  # of one tap; the outer product of a row with itself; [height, width]

_Pass = TypeVar("_Pass", bound="FirPass")


@dataclass(frozen=True)
class FirPass:
    """One launch: a geometry and its filter."""

    geometry: Geometry
    f: torch.Tensor | None
    taps: tuple[int, int]  # height, width

    @property
    def kind(self) -> int:
        return NO_FILTER if self.f is None else OUTER if self.f.ndim == 1 else PLAIN

    @property
    def filter_args(self) -> tuple:
        """(f, index of the correlation's first tap, steps (y, x)): an unflipped filter is walked backwards."""
        if self.f is None:
            return None, 0, 0, 0
        f = self.f
        steps = f.stride() if f.ndim == 2 else (f.stride(0), f.stride(0))
        if self.geometry.flip_filter:
            return f, 0, *steps
        if f.ndim == 1:
            return f, (f.shape[0] - 1) * steps[0], -steps[0], -steps[1]
        return f, sum((n - 1) * step for n, step in zip(f.shape, steps, strict=True)), -steps[0], -steps[1]


def along_each_axis(whole: _Pass) -> list[_Pass]:
    """The two passes that an outer product comes to: along rows, then along columns."""
    g, f, n = whole.geometry, whole.f, whole.taps[0]
    assert f is not None and f.ndim == 1, "only an outer product has one axis of taps"
    x0, x1, y0, y1 = g.padding
    rows = replace(g, up=(g.up[0], 1), down=(g.down[0], 1), padding=(x0, x1, 0, 0))
    columns = replace(g, up=(1, g.up[1]), down=(1, g.down[1]), padding=(0, 0, y0, y1), gain=1.0)
    kind = type(whole)
    return [kind(rows, f[None, :], (1, n)), kind(columns, f[:, None], (n, 1))]
