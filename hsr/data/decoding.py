# SPDX-License-Identifier: Apache-2.0
"""From the bytes of an image file to the 8-bit sRGB pixels that a viewer would show."""

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

# Colour behind transparent pixels, unless another one is asked for.
BACKGROUND = (255, 255, 255)
# Pillow's format for each suffix, of those that this Pillow can read. Other formats, such as EPS, run other programs.
_FORMATS = {
    suffix: name
    for suffix, name in sorted(Image.registered_extensions().items())
    if name in ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000", "QOI", "TGA")
    and name in Image.OPEN
}
IMAGE_SUFFIXES = tuple(_FORMATS)
# Any bytes may look like TGA, which has no signature, so only the suffix identifies it.
_TGA_SUFFIXES = tuple(suffix for suffix, name in _FORMATS.items() if name == "TGA")
_SIGNED_FORMATS = tuple(sorted({*_FORMATS.values()} - {"TGA"}))
# Names of formats in reports, where they differ from Pillow's.
_REPORTED_FORMATS = {"MPO": "JPEG", "DIB": "BMP", "WEBP": "WebP", "JPEG2000": "JPEG 2000"}
# A profile that moves no colour by more levels than this is taken for sRGB, and the pixels stay as they are.
_MAX_SRGB_DIFFERENCE = 2
# Pillow spreads gray levels of 2 and 4 bits over 0..255 in these steps, but not their transparent level.
_LEVEL_STEPS = {"L;2": 85, "L;4": 17}
# The TIFF tag PhotometricInterpretation, and its value for inverted gray levels.
_PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 262, 0


class Note(Enum):
    """Something that decoding did to an image, or left undone, and that its user may want to know."""

    TURNED = "turned"
    COMPOSITED = "composited"
    REDUCED = "reduced"
    RECOLOURED = "recoloured"
    PROFILE_UNUSED = "profile unused"
    FIRST_FRAME = "first frame"


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: [3, H, W] uint8, sRGB.
        format: Format of the file.
        notes: What decoding did to it.
    """

    pixels: np.ndarray
    format: str
    notes: frozenset[Note]


@dataclass(frozen=True)
class Rendering:
    """An image as a viewer shows it.

    Attributes:
        rgb: The image in mode RGB, sRGB.
        format: Format of the file.
        notes: What decoding did to it.
    """

    rgb: Image.Image
    format: str
    notes: frozenset[Note]


def open_image(data: bytes, name: str) -> ImageFile.ImageFile:
    """Opens an image file's content, and reads no more than its header.

    Raises:
        Exception: It is no image of a known format; any type of exception may say so.
    """
    formats = (*_SIGNED_FORMATS, "TGA") if name.lower().endswith(_TGA_SUFFIXES) else _SIGNED_FORMATS
    try:
        return Image.open(BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        raise ValueError("it is empty" if not data else "it is damaged or of an unknown format") from error


def displayed_size(image: Image.Image) -> tuple[int, int]:
    """Returns an opened image's width and height in pixels after turning."""
    width, height = image.size
    # Pillow gives the size of a TIFF after turning.
    if width == height or image.format == "TIFF" or _orientation(image) < 5:
        return width, height
    return height, width


def decode(image: Image.Image) -> Picture:
    """Decodes the first frame of an opened image to pixels.

    Raises:
        Exception: The file is damaged, or its pixels have no known meaning; any type of exception may say so.
    """
    rendering = render(image)
    return Picture(np.asarray(rendering.rgb).transpose(2, 0, 1).copy(), rendering.format, rendering.notes)


def render(image: Image.Image, background: tuple[int, int, int] = BACKGROUND) -> Rendering:
    """Decodes the first frame of an opened image as a viewer shows it.

    Args:
        image: A file that was opened, or an image in memory.
        background: Colour behind transparent pixels.

    Raises:
        Exception: The file is damaged, or its pixels have no known meaning; any type of exception may say so.
    """
    notes = set()
    if getattr(image, "n_frames", 1) > 1:
        notes.add(Note.FIRST_FRAME)
    layout = _layout(image)
    # Pillow turns a TIFF when it's loaded, and forgets the tag.
    orientation = _orientation(image) if image.format == "TIFF" else None
    image.load()
    if ";16" in layout or image.mode.startswith("I"):
        notes.add(Note.REDUCED)
    colour, opacity = _split(image, layout)
    rgb, note = _to_srgb(colour, image.info.get("icc_profile"))
    if note is not None:
        notes.add(note)
    if opacity is not None and opacity.getextrema() != (255, 255):
        notes.add(Note.COMPOSITED)
        canvas = Image.new("RGB", rgb.size, background)
        canvas.paste(rgb, mask=opacity)
        rgb = canvas
    if orientation is None:
        orientation = _orientation(image)
        rgb = _turn(rgb, orientation)
    if orientation != 1:
        notes.add(Note.TURNED)
    name = image.format or "in memory"
    return Rendering(rgb, _REPORTED_FORMATS.get(name, name), frozenset(notes))


def _layout(image: Image.Image) -> str:
    """Returns the layout of pixels in the file, in Pillow's terms, such as "RGB;16B"; empty if it is unknown."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments: Any = tiles[0][3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1..8. Viewers show images whose EXIF is broken as they are stored: 1."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _turn(rgb: Image.Image, orientation: int) -> Image.Image:
    """Turns an image, without its own EXIF, which may be broken in other places."""
    if orientation == 1:
        return rgb
    tagged = rgb.copy()
    tagged.info = {}
    tagged.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(tagged)


def _split(image: Image.Image, layout: str) -> tuple[Image.Image, Image.Image | None]:
    """Splits a loaded image into colours (L, RGB, CMYK or LAB) and opacity (L, or None without any)."""
    key = image.info.get("transparency")
    if image.mode.startswith("I"):
        values = _gray_levels(image, layout)
        opacity = _opacity(values == key) if isinstance(key, int) else None
        return Image.fromarray((values >> 8).astype(np.uint8)), opacity
    if image.mode == "F":
        raise _unknown_range(image)
    if image.mode in ("P", "PA", "La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA" if image.has_transparency_data else "RGB")
    if image.mode in ("LA", "RGBA"):
        return image.convert("L" if image.mode == "LA" else "RGB"), image.getchannel("A")
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("RGB")
    if image.mode == "L" and isinstance(key, int):
        return image, _opacity(np.asarray(image) == key * _LEVEL_STEPS.get(layout, 1))
    if image.mode == "RGB" and isinstance(key, tuple):
        colour = np.array(key) >> (8 if ";16" in layout else 0)
        return image, _opacity((np.asarray(image) == colour).all(axis=2))
    return image, None


def _gray_levels(image: Image.Image, layout: str) -> np.ndarray:
    """Returns the gray levels of an image of more than 8 bits, [H, W] in 0..65535."""
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise _unknown_range(image)
    levels = np.asarray(image).astype(np.int32)
    if layout.startswith("I;12"):
        levels <<= 4
    # Pillow inverts such a TIFF of 8 bits, but not one of 16.
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO:
        levels = 65535 - levels
    return levels


def _unknown_range(image: Image.Image) -> ValueError:
    return ValueError(
        f"its pixels are signed or of 32 bits (mode {image.mode}), so its black and white are unknown: save it with "
        "8 or 16 unsigned bits"
    )


def _opacity(transparent: np.ndarray) -> Image.Image:
    """Returns the opacity (L) for a mask [H, W] of transparent pixels, bool."""
    return Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8))


def _to_srgb(colour: Image.Image, profile: bytes | None) -> tuple[Image.Image, Note | None]:
    """Converts colours (L, RGB, CMYK or LAB) to sRGB as viewers do; also returns the note that this deserves."""
    if colour.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        return _apply(ImageCms.buildTransform(lab, ImageCms.createProfile("sRGB"), "LAB", "RGB"), colour)
    note = Note.RECOLOURED if colour.mode == "CMYK" else None
    if profile:
        try:
            transform = _profile_transform(profile, colour.mode)
            if transform is not None:
                source = colour.convert(transform.input_mode)
                return _apply(transform, source)
        except Exception:
            # The profile is broken, or is for another kind of colours than the image's.
            note = Note.PROFILE_UNUSED
    return colour.convert("RGB"), note


def _apply(transform: ImageCms.ImageCmsTransform, colour: Image.Image) -> tuple[Image.Image, Note]:
    converted = ImageCms.applyTransform(colour, transform)
    assert converted is not None
    return converted, Note.RECOLOURED


@lru_cache(maxsize=16)
def _profile_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Returns the transform from a profile to sRGB, or None if the profile is sRGB already.

    Args:
        profile: ICC profile.
        mode: Mode of the image: L, RGB or CMYK. A gray image may have a profile for RGB.
    """
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    if mode == "L" and source.profile.xcolor_space.strip() == "RGB":
        mode = "RGB"
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode == "CMYK":
        return transform
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(len(steps), -1, 3)
    samples = Image.fromarray(cube if mode == "RGB" else np.ascontiguousarray(cube[..., 0]))
    original = np.asarray(samples.convert("RGB"), dtype=np.int16)
    converted = np.asarray(_apply(transform, samples)[0], dtype=np.int16)
    return transform if np.abs(converted - original).max() > _MAX_SRGB_DIFFERENCE else None
