# SPDX-License-Identifier: Apache-2.0
"""The order in which a resampling convolution does its work.

The definition is: upsample (zero-insert, pad, FIR, gain up^2), convolve, FIR, keep every down-th pixel. Filters
commute with each other, and decimation commutes with a 1x1 convolution, so the same function has cheaper orders:
convolve at the lower resolution, by a strided or transposed convolution. `plan` picks one; every backend follows it.
"""

from dataclasses import dataclass

import torch

from .. import _checks
from ..upfirdn2d.geometry import Geometry


@dataclass(frozen=True)
class Convolution:
    """A convolution, or a transposed one, with symmetric padding (y, x)."""

    transposed: bool = False
    stride: int = 1
    padding: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Plan:
    """A FIR, a convolution, a FIR.

    Attributes:
        before: The FIR before the convolution, or None.
        convolution: The convolution.
        after: The FIR after the convolution, or None.
        filtered: Whether the FIRs use the filter; otherwise they only pad or crop.
    """

    before: Geometry | None
    convolution: Convolution
    after: Geometry | None
    filtered: bool = True

    @property
    def resamples(self) -> bool:
        """Whether there is more to do than an ordinary convolution."""
        convolution = self.convolution
        return self.before is not None or self.after is not None or convolution.transposed or convolution.stride != 1

    def output_size(self, x: torch.Tensor, kernel: tuple[int, int], taps: tuple[int, int]) -> tuple[int, int]:
        """Returns (H', W') for images x, a kernel and a filter of (height, width).

        Raises:
            ValueError: Nothing would be left.
        """
        return self.sizes(x, kernel, taps)[2]

    def sizes(
        self, x: torch.Tensor, kernel: tuple[int, int], taps: tuple[int, int]
    ) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Returns (height, width) before the convolution, after it, and at the end.

        Raises:
            ValueError: Nothing would be left.
        """
        size = (x.shape[2], x.shape[3])
        taps = taps if self.filtered else (1, 1)
        if self.before is not None:
            size = self.before.output_size(*size, taps)
        stride, padding = self.convolution.stride, self.convolution.padding
        if self.convolution.transposed:
            sides = [(size[i] - 1) * stride - 2 * padding[i] + kernel[i] for i in (0, 1)]
        else:
            _checks.kernel_fits("x", x, [size[i] + 2 * padding[i] for i in (0, 1)], kernel)
            sides = [(size[i] + 2 * padding[i] - kernel[i]) // stride + 1 for i in (0, 1)]
        convolved_size = (sides[0], sides[1])
        final_size = self.after.output_size(*convolved_size, taps) if self.after is not None else convolved_size
        return size, convolved_size, final_size


def plan(
    kernel: tuple[int, int],
    taps: tuple[int, int],
    up: int,
    down: int,
    padding: tuple[int, int, int, int],
    flip_filter: bool,
) -> Plan:
    """Returns the order of work for a kernel of (height, width) and a filter of `taps` (height, width)."""
    (kh, kw), (fh, fw) = kernel, taps
    x0, x1, y0, y1 = padding
    if up > 1:
        x0, x1 = x0 + (fw + up - 1) // 2, x1 + (fw - up) // 2
        y0, y1 = y0 + (fh + up - 1) // 2, y1 + (fh - up) // 2
    if down > 1:
        x0, x1 = x0 + (fw - down + 1) // 2, x1 + (fw - down) // 2
        y0, y1 = y0 + (fh - down + 1) // 2, y1 + (fh - down) // 2
    padding = (x0, x1, y0, y1)
    gain = float(up * up)

    if up == 1 and down == 1:
        if x0 == x1 >= 0 and y0 == y1 >= 0:
            return Plan(None, Convolution(padding=(y0, x0)), None, filtered=False)
        return Plan(Geometry(padding=padding), Convolution(), None, filtered=False)
    if up > 1 and down > 1:
        before = Geometry(up=(up, up), padding=padding, flip_filter=flip_filter, gain=gain)
        return Plan(before, Convolution(), Geometry(down=(down, down), flip_filter=flip_filter))
    if kh == kw == 1:
        if down > 1:
            return Plan(Geometry(down=(down, down), padding=padding, flip_filter=flip_filter), Convolution(), None)
        return Plan(None, Convolution(), Geometry(up=(up, up), padding=padding, flip_filter=flip_filter, gain=gain))
    if down > 1:
        if (fh, fw) == (1, 1) and x0 == x1 >= 0 and y0 == y1 >= 0:
            return Plan(None, Convolution(stride=down, padding=(y0, x0)), None)
        return Plan(Geometry(padding=padding, flip_filter=flip_filter), Convolution(stride=down), None)

    # A transposed convolution gives the full correlation of the zero-inserted image less its last up - 1 zeros.
    x0, x1, y0, y1 = x0 - (kw - 1), x1 - (kw - up), y0 - (kh - 1), y1 - (kh - up)
    crop_x, crop_y = max(min(-x0, -x1), 0), max(min(-y0, -y1), 0)
    after = Geometry(padding=(x0 + crop_x, x1 + crop_x, y0 + crop_y, y1 + crop_y), flip_filter=flip_filter, gain=gain)
    return Plan(None, Convolution(transposed=True, stride=up, padding=(crop_y, crop_x)), after)
