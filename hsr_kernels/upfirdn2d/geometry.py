# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of sizes in FIR resampling, written once for every backend."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .. import _checks

MAX_TAPS = 64  # of the native kernels, along an axis
MAX_UP = 64


@dataclass(frozen=True)
class Geometry:
    """Everything about an upfirdn2d call but its tensors.

    Attributes:
        up, down: Factors (x, y).
        padding: (x0, x1, y0, y1) on the zero-inserted image; negative crops.
        flip_filter: True correlates, False convolves.
        gain: Factor on the output.
    """

    up: tuple[int, int] = (1, 1)
    down: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    flip_filter: bool = False
    gain: float = 1.0

    def output_size(self, height: int, width: int, taps: tuple[int, int]) -> tuple[int, int]:
        """(H', W') for an image of (H, W) and a filter of `taps` (height, width)."""
        x0, x1, y0, y1 = self.padding
        return (
            (height * self.up[1] + y0 + y1 - taps[0]) // self.down[1] + 1,
            (width * self.up[0] + x0 + x1 - taps[1]) // self.down[0] + 1,
        )

    def adjoint(self, size: tuple[int, int], taps: tuple[int, int]) -> "Geometry":
        """The geometry of the transposed map: up and down change places, the filter is mirrored."""
        height, width = size
        out_height, out_width = self.output_size(height, width, taps)
        x0, _, y0, _ = self.padding
        return replace(
            self,
            up=self.down,
            down=self.up,
            flip_filter=not self.flip_filter,
            padding=(
                taps[1] - x0 - 1,
                width * self.up[0] - out_width * self.down[0] + x0 - self.up[0] + 1,
                taps[0] - y0 - 1,
                height * self.up[1] - out_height * self.down[1] + y0 - self.up[1] + 1,
            ),
        )


def filter_taps(f: torch.Tensor | None) -> tuple[int, int]:
    """(height, width) of a filter; None is a single tap, a 1-D filter runs along both axes."""
    if f is None:
        return 1, 1
    return (f.shape[0], f.shape[0]) if f.ndim == 1 else (f.shape[0], f.shape[1])


def check_filter(f: torch.Tensor | None) -> torch.Tensor | None:
    """Returns `f` if it is a filter: None, [taps] or [h, w], float32."""
    if f is None:
        return None
    if not isinstance(f, torch.Tensor):
        raise TypeError(f"f must be a torch.Tensor or None, got {type(f).__name__}")
    if f.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"f must be float32, got {f.dtype}")
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"f must have shape [taps] or [height, width], got {list(f.shape)}")
    return f


def native_limit(f: torch.Tensor | None, up: int) -> str:
    """Why a filter keeps the fast backends from running; empty where it doesn't."""
    if f is not None and f.requires_grad and torch.is_grad_enabled():
        return "a filter that requires grad is differentiated by the reference only"
    if max(filter_taps(f)) > MAX_TAPS or up > MAX_UP:
        return f"more than {MAX_TAPS} taps or up above {MAX_UP} is left to the reference"
    return ""


def validate(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | Sequence[int],
    down: int | Sequence[int],
    padding: int | Sequence[int],
    flip_filter: bool,
    gain: float,
) -> Geometry:
    """Checks the arguments of a FIR call and returns its geometry."""
    _checks.tensor("x", x, ndim=4)
    _checks.same_device("x", x, f=check_filter(f))
    geometry = Geometry(
        _checks.pair("up", up),
        _checks.pair("down", down),
        _checks.padding4("padding", padding),
        bool(flip_filter),
        float(gain),
    )
    (x0, x1, y0, y1), taps = geometry.padding, filter_taps(f)
    for axis, size, before, after, tap in (
        ("height", x.shape[2] * geometry.up[1], y0, y1, taps[0]),
        ("width", x.shape[3] * geometry.up[0], x0, x1, taps[1]),
    ):
        if size + before + after < tap:
            raise ValueError(
                f"padding {list(geometry.padding)} leaves {axis} {size + before + after} of x {list(x.shape)}, "
                f"which is less than the {tap} taps of f"
            )
    return geometry
