# SPDX-License-Identifier: Apache-2.0
"""One image, from its file to a square PNG."""

import hashlib
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from ..data.decoding import Note, Rendering, displayed_size, render
from ..errors import UserError
from .settings import REFUSE, Settings

# Larger images are decoded one at a time, so that a few of them don't fill the memory.
MAX_SHARED_PIXELS = 2**25
# Of such JPEGs, which can be decoded at a fraction of their size, at least this many times the prepared size is kept.
DECODED_SCALE = 4
_FILTERS = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}

_large_image = threading.Lock()


class Refusal(UserError):
    """An image that ends the preparation, which can't go on from there."""


@dataclass(frozen=True)
class Prepared:
    """A prepared image.

    Attributes:
        png: The PNG file.
        digest: Hash of its pixels.
        enlarged: Whether it has more pixels a side than the part of the original that it shows.
        format: Format of the original.
        notes: What decoding did to the original.
    """

    png: bytes
    digest: str
    enlarged: bool
    format: str
    notes: frozenset[Note]


def fitted_size(image: Image.Image, settings: Settings) -> int:
    """Returns the height and width in pixels that an opened image has once it is square, before it is resized."""
    return min(displayed_size(image)) if settings.fit == "crop" else max(displayed_size(image))


def prepare_picture(image: Image.Image, name: str, settings: Settings, size: int) -> Prepared:
    """Prepares an opened image.

    Args:
        image: The image.
        name: Its name in messages.
        settings: How it is prepared.
        size: Height and width of the prepared image in pixels.

    Raises:
        Refusal: It has transparent pixels or another size, which are refused.
        Exception: The file is damaged, or its pixels have no known meaning; any type of exception may say so.
    """
    original_size = fitted_size(image, settings)
    if settings.size is None and original_size != size:
        raise Refusal(
            f"The images differ in size: {name} would be {original_size}x{original_size} pixels, and the first one is "
            f"{size}x{size}: choose one size, as in --resize {size}."
        )
    is_large = image.width * image.height > MAX_SHARED_PIXELS
    with _large_image if is_large else nullcontext():
        if is_large:
            _draft(image, original_size, size)
        rendering = render(image, settings.background)
        if settings.transparency == REFUSE and Note.COMPOSITED in rendering.notes:
            raise Refusal(f"{name} has transparent pixels: name a colour to lay it over, as in --transparency white.")
        rgb = _resize(rendering, settings, size)
    buffer = BytesIO()
    rgb.save(buffer, "PNG")
    digest = hashlib.blake2b(rgb.tobytes(), digest_size=16).hexdigest()
    return Prepared(buffer.getvalue(), digest, original_size < size, rendering.format, rendering.notes)


def _draft(image: Image.Image, original_size: int, size: int) -> None:
    """Has a large JPEG decoded at a half, a quarter or an eighth of its size, where that is fine enough."""
    scale = DECODED_SCALE * size / original_size
    if scale < 1:
        # Other formats have no such way and ignore this.
        image.draft(None, (round(image.width * scale), round(image.height * scale)))  # type: ignore[arg-type]


def _resize(rendering: Rendering, settings: Settings, size: int) -> Image.Image:
    """Makes an image square and brings it to its size, in sRGB as is the custom."""
    rgb, method = rendering.rgb, _FILTERS[settings.filter]
    width, height = rgb.size
    if settings.fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return _plain(rgb.crop((left, top, left + side, top + side)).resize((size, size), method))
    longest = max(width, height)
    shown = max(1, round(width * size / longest)), max(1, round(height * size / longest))
    canvas = Image.new("RGB", (size, size), settings.padding_colour)
    # The padding comes last, so that its colour doesn't run into the image.
    canvas.paste(rgb.resize(shown, method), ((size - shown[0]) // 2, (size - shown[1]) // 2))
    return canvas


def _plain(image: Image.Image) -> Image.Image:
    """Returns an image without what its file said beside the pixels: a profile would be applied a second time."""
    image.info = {}
    return image
