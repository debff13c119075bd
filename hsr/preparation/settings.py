# SPDX-License-Identifier: Apache-2.0
"""How images are prepared."""

from dataclasses import dataclass
from typing import Literal

from PIL import ImageColor

from ..errors import UserError

# Version of the preparation, a part of its key: raise it when the same settings give other images.
VERSION = 1
REFUSE = "refuse"


@dataclass(frozen=True)
class Settings:
    """How images are prepared.

    Attributes:
        size: Height and width of the prepared images in pixels; None: images are not resized, and must be of one size.
        fit: How an image becomes square: crop its centre, or pad its shorter sides.
        filter: Filter for resizing.
        transparency: Colour behind transparent pixels, or "refuse" to refuse images that have any.
        padding: Colour of the padding.
        duplicates: Drop or keep images that equal an earlier one once they are prepared.
        max_images: Largest number of images, which are chosen at random; None: all.
        strict: Refuse a set with a file that can't be read, instead of leaving the file out.

    Raises:
        UserError: A colour is unknown.
    """

    size: int | None
    fit: Literal["crop", "pad"] = "crop"
    filter: Literal["lanczos", "box"] = "lanczos"
    transparency: str = "white"
    padding: str = "white"
    duplicates: Literal["drop", "keep"] = "drop"
    max_images: int | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        _ = self.background, self.padding_colour

    @property
    def background(self) -> tuple[int, int, int]:
        """Colour behind transparent pixels, where they are allowed."""
        return (0, 0, 0) if self.transparency == REFUSE else parse_colour(self.transparency, "--transparency")

    @property
    def padding_colour(self) -> tuple[int, int, int]:
        """Colour of the padding."""
        return parse_colour(self.padding, "--padding")


def parse_colour(text: str, option: str) -> tuple[int, int, int]:
    """Returns a colour's red, green and blue, 0..255.

    Raises:
        UserError: It is unknown or not opaque; `option` is named.
    """
    try:
        colour = ImageColor.getrgb(text)
    except ValueError as error:
        raise UserError(f"{option} {text} is no colour: give a name such as white, or #rrggbb.") from error
    if len(colour) != 3:
        raise UserError(f"{option} {text} is not opaque: give a name such as white, or #rrggbb.")
    return colour
