# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of sizes: two resamplings, one up and one down, with upsampled images in between."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from ..upfirdn2d.geometry import Geometry, filter_taps, geometry_of


@dataclass(frozen=True)
class Resamplings:
    """The two resamplings of a call.

    Attributes:
        up: The first one, which doesn't go down.
        down: The second one, which doesn't go up; it flips its filter where the first one does.
    """

    up: Geometry
    down: Geometry

    @property
    def args(self) -> tuple[Any, ...]:
        """What `resamplings_of` takes, as the native operators have it in their schemas."""
        up, down = self.up, self.down
        return up.up, up.padding, up.gain, down.down, down.padding, down.gain, up.flip_filter

    @property
    def merged(self) -> Geometry:
        """The one resampling that both are, where neither has a factor and only one of them has a filter."""
        padding = [before + after for before, after in zip(self.up.padding, self.down.padding, strict=True)]
        return replace(
            self.up, padding=(padding[0], padding[1], padding[2], padding[3]), gain=self.up.gain * self.down.gain
        )

    @property
    def keeps_resolution(self) -> bool:
        """Whether neither has a factor."""
        return self.up.up == self.down.down == (1, 1)

    def sizes(
        self, height: int, width: int, fu: torch.Tensor | None, fd: torch.Tensor | None
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns (height, width) of the upsampled images and of the output, for images of `height` and `width`.

        Raises:
            ValueError: No pixel would be left.
        """
        upsampled = self.up.output_size(height, width, filter_taps(fu), "fu")
        taps = filter_taps(fd)
        if not any(self.down.padding) and (upsampled[0] < taps[0] or upsampled[1] < taps[1]):
            raise ValueError(
                f"padding {list(self.up.padding)} leaves {upsampled[0]} x {upsampled[1]} upsampled pixels of x, "
                f"which is less than the {taps[0]} x {taps[1]} taps of fd"
            )
        return upsampled, self.down.output_size(*upsampled, taps, "fd")

    def adjoint(self, size: tuple[int, int], fu: torch.Tensor | None, fd: torch.Tensor | None) -> "Resamplings":
        """Returns the resamplings of the transposed map, which takes fd first and then fu.

        Args:
            size: (height, width) of the images that this one takes.
            fu, fd: Its filters.
        """
        upsampled, _ = self.sizes(*size, fu, fd)
        return Resamplings(self.down.adjoint(upsampled, filter_taps(fd)), self.up.adjoint(size, filter_taps(fu)))


def resamplings_of(up, up_padding, up_gain, down, down_padding, down_gain, flip_filter) -> Resamplings:
    """Makes the resamplings from an operator's flat arguments."""
    return Resamplings(
        geometry_of(up, (1, 1), up_padding, flip_filter, up_gain),
        geometry_of((1, 1), down, down_padding, flip_filter, down_gain),
    )
