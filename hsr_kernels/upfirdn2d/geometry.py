# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of sizes in FIR resampling, written once for every backend."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .. import _checks
from .._dispatch.functions import is_differentiated

# The native kernels take no more taps along an axis.
MAX_TAPS = 64
# The native kernels take no larger up, and no larger down, which is the up of the backward.
MAX_FACTOR = 64


@dataclass(frozen=True)
class Geometry:
    """All that defines an upfirdn2d call besides its tensors.

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

    def output_size(self, height: int, width: int, taps: tuple[int, int], filter_name: str = "f") -> tuple[int, int]:
        """Returns (H', W') for an image (H, W) and a filter of `taps` (height, width).

        Raises:
            ValueError: No pixel would be left; the message calls the filter `filter_name`.
        """
        x0, x1, y0, y1 = self.padding
        padded = (height * self.up[1] + y0 + y1, width * self.up[0] + x0 + x1)
        if padded[0] < taps[0] or padded[1] < taps[1]:
            raise ValueError(
                f"padding {list(self.padding)} leaves {padded[0]} x {padded[1]} pixels of x, "
                f"which is less than the {taps[0]} x {taps[1]} taps of {filter_name}"
            )
        return (padded[0] - taps[0]) // self.down[1] + 1, (padded[1] - taps[1]) // self.down[0] + 1

    def adjoint(self, size: tuple[int, int], taps: tuple[int, int]) -> "Geometry":
        """Returns the geometry of the transposed map: up and down change places, the filter is mirrored."""
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


def geometry_of(up, down, padding, flip_filter, gain) -> Geometry:
    """Makes a geometry from an operator's flat arguments."""
    return Geometry(tuple(up), tuple(down), tuple(padding), flip_filter, gain)


def filter_taps(f: torch.Tensor | None) -> tuple[int, int]:
    """Returns (height, width) of a filter; None is a single tap, a 1-D filter runs along both axes."""
    if f is None:
        return 1, 1
    if torch.jit.is_tracing():
        with warnings.catch_warnings():
            # A trace has tensors for sizes. Those of a filter are constants, which PyTorch would warn of.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            return int(f.shape[0]), int(f.shape[-1])
    return f.shape[0], f.shape[-1]


def check_filter(f: torch.Tensor | None, name: str = "f") -> torch.Tensor | None:
    """Returns `f` as kernels take it: None, or [taps] or [height, width] in float32 or float64.

    16-bit taps, such as those of a module after `.half()`, are cast; StyleGAN's filters are exact in 16 bits.

    Raises:
        TypeError, ValueError: It isn't a filter; the message calls it `name`.
    """
    if f is None:
        return None
    if not isinstance(f, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor or None, got {type(f).__name__}")
    if f.dtype not in _checks.FLOATS:
        raise TypeError(f"{name} must be float32, float16, bfloat16 or float64, got {f.dtype}")
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"{name} must have shape [taps] or [height, width], got {list(f.shape)}")
    return f.to(torch.promote_types(f.dtype, torch.float32))


def native_limit(f: torch.Tensor | None, factor: int) -> str:
    """Returns the reason why the fast backends can't run with a filter and a factor, empty if they can."""
    if f is not None and is_differentiated(f):
        return "only the reference differentiates a filter that requires grad"
    if max(filter_taps(f)) > MAX_TAPS or factor > MAX_FACTOR:
        return f"only the reference takes more than {MAX_TAPS} taps or a factor above {MAX_FACTOR}"
    return ""


def validate(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | Sequence[int],
    down: int | Sequence[int],
    padding: int | Sequence[int],
    flip_filter: bool,
    gain: float,
    filter_name: str = "f",
) -> Geometry:
    """Checks the arguments of a FIR call, f as `check_filter` returns it, and returns its geometry."""
    _checks.tensor("x", x, ndim=4)
    _checks.same_device("x", x, **{filter_name: f})
    geometry = Geometry(
        _checks.pair("up", up),
        _checks.pair("down", down),
        _checks.padding4("padding", padding),
        bool(flip_filter),
        _checks.number("gain", gain),
    )
    geometry.output_size(x.shape[2], x.shape[3], filter_taps(f), filter_name)
    return geometry
