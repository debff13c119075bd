# SPDX-License-Identifier: Apache-2.0
"""The transforms, their parameters and checks of both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

MOVES = ("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac")
COLOURS = ("brightness", "contrast", "lumaflip", "hue", "saturation")
BANDS = ("imgfilter",)
CORRUPTIONS = ("noise", "cutout")
TRANSFORMS = (*MOVES, *COLOURS, *BANDS, *CORRUPTIONS)
NUM_BANDS = 4


@dataclass(frozen=True)
class Strengths:
    """How often each transform happens, and how far it goes.

    A field that is called as a transform is a multiplier: the transform happens with that many times the probability p,
    and 0 leaves it out. The others are the ranges or standard deviations of what is drawn.

    Raises:
        TypeError: A value is no number, or `imgfilter_bands` no sequence.
        ValueError: A value is negative or not finite, or there aren't four bands.
    """

    # Mirrors left and right.
    xflip: float = 0.0
    # Turns by multiples of 90 degrees.
    rotate90: float = 0.0
    # Moves by whole pixels, up to `xint_max` of the width and of the height.
    xint: float = 0.0
    xint_max: float = 0.125
    # Magnifies by 2^(scale_std n), n normal.
    scale: float = 0.0
    scale_std: float = 0.2
    # Turns by up to `rotate_max` times 180 degrees either way.
    rotate: float = 0.0
    rotate_max: float = 1.0
    # Stretches one axis and shrinks the other, by 2^(aniso_std n).
    aniso: float = 0.0
    aniso_std: float = 0.2
    # Moves by `xfrac_std` n of the width and of the height.
    xfrac: float = 0.0
    xfrac_std: float = 0.125

    # Adds `brightness_std` n.
    brightness: float = 0.0
    brightness_std: float = 0.2
    # Multiplies by 2^(contrast_std n).
    contrast: float = 0.0
    contrast_std: float = 0.5
    # Mirrors the luma.
    lumaflip: float = 0.0
    # Turns the hue by up to `hue_max` times 180 degrees either way.
    hue: float = 0.0
    hue_max: float = 1.0
    # Multiplies the distance from grey by 2^(saturation_std n).
    saturation: float = 0.0
    saturation_std: float = 1.0

    # Multiplies frequency bands, from low to high ones, by 2^(imgfilter_std n); `imgfilter_bands` are multipliers, too.
    imgfilter: float = 0.0
    imgfilter_bands: Sequence[float] = (1.0,) * NUM_BANDS
    imgfilter_std: float = 1.0

    # Adds normal noise of the standard deviation `noise_std` abs(n).
    noise: float = 0.0
    noise_std: float = 0.1
    # Blanks out a box of `cutout_size` of the width and of the height.
    cutout: float = 0.0
    cutout_size: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "imgfilter_bands":
                object.__setattr__(self, field.name, _not_negative(field.name, getattr(self, field.name)))
        bands = self.imgfilter_bands
        if isinstance(bands, str) or not hasattr(bands, "__len__") or not hasattr(bands, "__iter__"):
            raise TypeError(f"imgfilter_bands must be a sequence of {NUM_BANDS} numbers, got {bands!r}")
        if len(bands) != NUM_BANDS:
            raise ValueError(f"imgfilter_bands must be a sequence of {NUM_BANDS} numbers, got {bands!r}")
        values = tuple(_not_negative(f"imgfilter_bands[{k}]", value) for k, value in enumerate(bands))
        object.__setattr__(self, "imgfilter_bands", values)

    def any(self, transforms: Sequence[str]) -> bool:
        """Returns whether any of these transforms is switched on."""
        return any(getattr(self, name) > 0 for name in transforms)

    @classmethod
    def from_keywords(cls, values: dict[str, Any]) -> "Strengths":
        """Makes strengths from keyword arguments.

        Raises:
            TypeError: There is no such transform or parameter; or see `Strengths`.
            ValueError: See `Strengths`.
        """
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise TypeError(f"there is no transform or parameter {name!r}: expected {', '.join(names)}")
        return cls(**values)


def number(name: str, value: Any) -> float:
    """Returns a number, of a Python, NumPy or PyTorch type, as a float.

    Raises:
        TypeError: It is none; the message calls it `name`.
    """
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise TypeError(f"{name} must be a number, got {value!r}") from error


def _not_negative(name: str, value: Any) -> float:
    result = number(name, value)
    if not 0 <= result < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}")
    return result
