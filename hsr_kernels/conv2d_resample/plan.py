# SPDX-License-Identifier: Apache-2.0
"""In which order a resampling convolution does its work.

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
    """before (FIR) -> convolution -> after (FIR); None leaves a step out, `filtered` says which use the filter."""

    before: Geometry | None
    convolution: Convolution
    after: Geometry | None
    filtered: bool = True

    @property
    def resamples(self) -> bool:
        """Whether there is more to do than an ordinary convolution."""
        step = self.convolution
        return self.before is not None or self.after is not None or step.transposed or step.stride != 1

    def output_size(self, x: torch.Tensor, kernel: tuple[int, int], taps: tuple[int, int]) -> tuple[int, int]:
        """(H', W') for images x, a kernel and a filter of (height, width); raises where nothing would be left."""
        return self.sizes(x, kernel, taps)[2]

    def sizes(
        self, x: torch.Tensor, kernel: tuple[int, int], taps: tuple[int, int]
    ) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """(height, width) before the convolution, after it, and at the end; raises where nothing would be left."""
        image = (x.shape[2], x.shape[3])
        taps = taps if self.filtered else (1, 1)
        if self.before is not None:
            image = self.before.output_size(*image, taps)
        stride, pads = self.convolution.stride, self.convolution.padding
        if self.convolution.transposed:
            sizes = [(image[i] - 1) * stride - 2 * pads[i] + kernel[i] for i in (0, 1)]
        else:
            _checks.kernel_fits("x", x, [image[i] + 2 * pads[i] for i in (0, 1)], kernel)
            sizes = [(image[i] + 2 * pads[i] - kernel[i]) // stride + 1 for i in (0, 1)]
        convolved = (sizes[0], sizes[1])
        return image, convolved, self.after.output_size(*convolved, taps) if self.after is not None else convolved


def plan(
    kernel: tuple[int, int],
    taps: tuple[int, int],
    up: int,
    down: int,
    padding: tuple[int, int, int, int],
    flip_filter: bool,
) -> Plan:
    """The order of work for a kernel of (height, width) and a filter of `taps` (height, width)."""
    (kh, kw), (fh, fw) = kernel, taps
    x0, x1, y0, y1 = padding
    if up > 1:
        x0, x1 = x0 + (fw + up - 1) // 2, x1 + (fw - up) // 2
        y0, y1 = y0 + (fh + up - 1) // 2, y1 + (fh - up) // 2
    if down > 1:
        x0, x1 = x0 + (fw - down + 1) // 2, x1 + (fw - down) // 2
        y0, y1 = y0 + (fh - down + 1) // 2, y1 + (fh - down) // 2
    pads = (x0, x1, y0, y1)
    ups, downs, gain = (up, up), (down, down), float(up * up)

    if up == 1 and down == 1:
        if x0 == x1 >= 0 and y0 == y1 >= 0:
            return Plan(None, Convolution(padding=(y0, x0)), None, filtered=False)
        return Plan(Geometry(padding=pads), Convolution(), None, filtered=False)
    if up > 1 and down > 1:
        first = Geometry(up=ups, padding=pads, flip_filter=flip_filter, gain=gain)
        return Plan(first, Convolution(), Geometry(down=downs, flip_filter=flip_filter))
    if kh == kw == 1:
        if down > 1:
            return Plan(Geometry(down=downs, padding=pads, flip_filter=flip_filter), Convolution(), None)
        return Plan(None, Convolution(), Geometry(up=ups, padding=pads, flip_filter=flip_filter, gain=gain))
    if down > 1:
        return Plan(Geometry(padding=pads, flip_filter=flip_filter), Convolution(stride=down), None)

    # A transposed convolution gives the full correlation of the zero-inserted image less its last up - 1 zeros.
    x0, x1, y0, y1 = x0 - (kw - 1), x1 - (kw - up), y0 - (kh - 1), y1 - (kh - up)
    crop_x, crop_y = max(min(-x0, -x1), 0), max(min(-y0, -y1), 0)
    after = Geometry(padding=(x0 + crop_x, x1 + crop_x, y0 + crop_y, y1 + crop_y), flip_filter=flip_filter, gain=gain)
    return Plan(None, Convolution(transposed=True, stride=up, padding=(crop_y, crop_x)), after)
