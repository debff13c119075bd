# SPDX-License-Identifier: Apache-2.0
"""Pixels are those that a viewer shows: turned, over a background, of any mode, in sRGB."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from hsr.data import BACKGROUND, ImageDataset, open_dataset
from hsr.errors import UserError

TURNS = Image.Transpose
# What turns an image as seen into the one that is stored with an orientation.
STORED = {
    2: TURNS.FLIP_LEFT_RIGHT,
    3: TURNS.ROTATE_180,
    4: TURNS.FLIP_TOP_BOTTOM,
    5: TURNS.TRANSPOSE,
    6: TURNS.ROTATE_90,
    7: TURNS.TRANSVERSE,
    8: TURNS.ROTATE_270,
}
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# A profile whose red is green, and the other way round.
SWAPPED = SRGB.replace(b"rXYZ", b"----").replace(b"gXYZ", b"rXYZ").replace(b"----", b"gXYZ")


def quadrants() -> np.ndarray:
    """16x16 pixels, [16, 16, 3] uint8: red, green, blue and yellow, so that every turn shows."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8, :8], pixels[:8, 8:], pixels[8:, :8], pixels[8:, 8:] = (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 0),
    )
    return pixels


def png(depth: int, colour: int, samples: np.ndarray, transparent: list[int]) -> bytes:
    """A PNG of any depth and colour type with a transparent colour; samples are [H, W] or [H, W, 3] integers."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    bits = (samples.reshape(len(samples), -1, 1) >> np.arange(depth - 1, -1, -1)) & 1
    rows = np.packbits(bits.astype(np.uint8).reshape(len(samples), -1), axis=1)
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], depth, colour, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    key = struct.pack(f">{len(transparent)}H", *transparent)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*c) for c in ((b"IHDR", header), (b"tRNS", key), (b"IDAT", content), (b"IEND", b""))
    )


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., ImageDataset]:
    """Saves images, opens them as a data set (filled up with plain ones) and gives it; they come in their order."""

    def open_images(suffix: str, *images: Image.Image | bytes, **options: object) -> ImageDataset:
        for i in range(max(8, len(images))):
            path = tmp_path / (f"{i:02}{suffix}" if i < len(images) else f"{i:02}.png")
            image = images[i] if i < len(images) else Image.new("RGB", (16, 16))
            if isinstance(image, bytes):
                path.write_bytes(image)
            else:
                image.save(path, **(options if i < len(images) else {}))
        return open_dataset(tmp_path)

    return open_images


def said(dataset: ImageDataset, words: str) -> bool:
    return any(words in sentence for sentence in dataset.report)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_images_are_turned_as_their_exif_says(tmp_path: Path, suffix: str) -> None:
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    for orientation in range(1, 9):
        image = Image.fromarray(quadrants())
        if orientation in STORED:
            image = image.transpose(STORED[orientation])
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(tmp_path / f"{orientation}{suffix}", exif=exif, quality=95)
    dataset = open_dataset(tmp_path)
    middles = [(3, 3), (3, 12), (12, 3), (12, 12)]
    for i in range(8):
        for y, x in middles:
            np.testing.assert_allclose(dataset[i][:, y, x], quadrants()[y, x], atol=40, err_msg=f"orientation {i + 1}")
    assert said(dataset, "7 images were turned as their EXIF tags say.")


def test_sizes_are_reported_after_turning(opened: Callable[..., ImageDataset]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with pytest.raises(UserError, match=r"00\.png in .* is 8x16, but images must be square"):
        opened(".png", Image.new("RGB", (16, 8)), exif=exif)


def test_broken_exif_turns_nothing(opened: Callable[..., ImageDataset]) -> None:
    broken = b"Exif\0\0no TIFF header"
    dataset = opened(".webp", Image.fromarray(quadrants()), exif=broken, lossless=True)
    np.testing.assert_array_equal(dataset[0], quadrants().transpose(2, 0, 1))


def hidden(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random colours under an opacity of zero around an opaque middle: [16, 16, 3] and [16, 16] uint8."""
    opacity = np.zeros((16, 16), np.uint8)
    opacity[4:12, 4:12] = 255
    return rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), opacity


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".tga"])
def test_hidden_colours_never_show_through(opened: Callable[..., ImageDataset], suffix: str) -> None:
    colours, opacity = hidden(np.random.default_rng(0))
    gray = np.repeat(colours[..., :1], 3, axis=2)
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    images = [Image.fromarray(np.dstack([c, opacity])) for c in (colours, gray)]
    dataset = opened(suffix, images[0], images[1] if suffix == ".webp" else images[1].convert("LA"), **options)
    for i, expected in enumerate((colours, gray)):
        expected = np.where(opacity[..., None] > 0, expected, np.uint8(BACKGROUND))
        np.testing.assert_array_equal(dataset[i], expected.transpose(2, 0, 1))
    assert said(dataset, "2 images with transparency were laid over white.")


def test_palettes_have_transparency_too(opened: Callable[..., ImageDataset]) -> None:
    image = Image.fromarray(np.repeat([[0], [1], [2], [1]], 4, axis=0).repeat(16, axis=1).astype(np.uint8), "P")
    image.putpalette([255, 0, 255, 200, 30, 30, 0, 0, 100])
    single = opened(".png", image, transparency=0)
    assert [single[0][:, y, 0].tolist() for y in (0, 4, 8)] == [[255] * 3, [200, 30, 30], [0, 0, 100]]
    several = opened(".png", image, transparency=bytes([0, 255, 51]))
    assert [several[0][:, y, 0].tolist() for y in (0, 4, 8)] == [[255] * 3, [200, 30, 30], [204, 204, 224]]
    gif = opened(".gif", image, transparency=0)
    assert [gif[0][:, y, 0].tolist() for y in (0, 4, 8)] == [[255] * 3, [200, 30, 30], [0, 0, 100]]


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_one_gray_level_may_be_transparent(opened: Callable[..., ImageDataset], depth: int) -> None:
    largest = 2**depth - 1
    levels = np.arange(256).reshape(16, 16) * 251 % (largest + 1)
    key = int(levels[0, 1])
    dataset = opened(".png", png(depth, 0, levels, [key]))
    expected = np.where(levels == key, 255, levels >> 8 if depth == 16 else levels * 255 // largest)
    np.testing.assert_array_equal(dataset[0], np.repeat(expected[None], 3, axis=0))


@pytest.mark.parametrize("depth", [8, 16])
def test_one_colour_may_be_transparent(opened: Callable[..., ImageDataset], depth: int) -> None:
    colours = quadrants().astype(np.int64) * (257 if depth == 16 else 1)
    dataset = opened(".png", png(depth, 2, colours, colours[0, 15].tolist()))
    expected = quadrants()
    expected[:8, 8:] = BACKGROUND
    np.testing.assert_array_equal(dataset[0], expected.transpose(2, 0, 1))
    assert said(dataset, "1 image of more than 8 bits a channel") == (depth == 16)


def test_full_opacity_changes_nothing(opened: Callable[..., ImageDataset]) -> None:
    opaque = np.dstack([quadrants(), np.full((16, 16), 255, np.uint8)])
    dataset = opened(".png", Image.fromarray(opaque))
    np.testing.assert_array_equal(dataset[0], quadrants().transpose(2, 0, 1))
    assert len(dataset.report) == 1


WIDE = RAMP.astype(np.uint16) * 257


@pytest.mark.parametrize(
    ("suffix", "image", "options"),
    [
        (".png", Image.fromarray(WIDE), {}),
        (".tif", Image.fromarray(WIDE), {}),
        (".tif", Image.fromarray(WIDE.astype(">u2")), {}),
        (".tif", Image.fromarray(65535 - WIDE), {"tiffinfo": {262: 0}}),
        (".pgm", Image.fromarray(WIDE.astype(np.int32)), {}),
    ],
    ids=["PNG", "TIFF", "TIFF of big-endian numbers", "TIFF where white is zero", "PGM"],
)
def test_16_bit_gray_keeps_its_range(
    opened: Callable[..., ImageDataset], suffix: str, image: Image.Image, options: dict
) -> None:
    dataset = opened(suffix, image, **options)
    np.testing.assert_array_equal(dataset[0], np.repeat(RAMP[None], 3, axis=0))
    assert said(dataset, "1 image of more than 8 bits a channel was reduced to 8.")


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_refused(opened: Callable[..., ImageDataset], dtype: type) -> None:
    with pytest.raises(UserError, match=r"00\.tif in .* its black and white are unknown"):
        opened(".tif", Image.fromarray(RAMP.astype(dtype)))


@pytest.mark.parametrize(
    ("mode", "suffix", "tolerance"),
    [("1", ".png", 0), ("L", ".bmp", 0), ("P", ".gif", 0), ("CMYK", ".jpg", 12), ("YCbCr", ".tif", 3)],
)
def test_every_mode_becomes_rgb(opened: Callable[..., ImageDataset], mode: str, suffix: str, tolerance: int) -> None:
    image = Image.fromarray(quadrants()).convert("L" if mode in ("1", "L") else "RGB")
    image = image.point(lambda level: 255 * (level > 128)) if mode == "1" else image
    dataset = opened(suffix, image.convert(mode), **({"quality": 100} if suffix == ".jpg" else {}))
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_allclose(dataset[0].astype(int), expected, atol=tolerance)


def test_lab_becomes_srgb(opened: Callable[..., ImageDataset]) -> None:
    # The red of sRGB: L* 53.2 of 100, a* 80.1 and b* 67.2, as Pillow keeps them in a byte each.
    lab = Image.new("LAB", (16, 16), (136, 208, 195))
    np.testing.assert_allclose(opened(".tif", lab)[0][:, 0, 0].astype(int), [255, 0, 0], atol=25)


def test_colours_are_converted_from_their_profile(opened: Callable[..., ImageDataset]) -> None:
    image = Image.fromarray(quadrants())
    opacity = Image.fromarray(hidden(np.random.default_rng(0))[1])
    over = image.copy()
    over.putalpha(opacity)
    dataset = opened(".png", image, image.quantize(8), over, icc_profile=SWAPPED)
    expected = quadrants()[..., [1, 0, 2]]
    for i in range(2):
        np.testing.assert_allclose(dataset[i].astype(int), expected.transpose(2, 0, 1), atol=2)
    expected[np.asarray(opacity) == 0] = BACKGROUND
    np.testing.assert_allclose(dataset[2].astype(int), expected.transpose(2, 0, 1), atol=2)
    assert said(dataset, "3 images were converted to sRGB from other colour spaces.")


def test_srgb_in_other_words_changes_no_pixel(opened: Callable[..., ImageDataset]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    dataset = opened(".png", Image.fromarray(pixels), icc_profile=SRGB)
    np.testing.assert_array_equal(dataset[0], pixels.transpose(2, 0, 1))
    assert len(dataset.report) == 1


def test_a_profile_that_cannot_be_used_is_reported(opened: Callable[..., ImageDataset]) -> None:
    image = Image.fromarray(quadrants())
    dataset = opened(".png", image, icc_profile=SRGB.replace(b"RGB XYZ ", b"CMYKXYZ "))
    np.testing.assert_array_equal(dataset[0], quadrants().transpose(2, 0, 1))
    assert said(dataset, "The colour profile of 1 image can't be used, so its colours were taken as they are (00.png).")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_the_first_frame_is_taken_and_reported(opened: Callable[..., ImageDataset], suffix: str) -> None:
    frames = [Image.fromarray(quadrants()), Image.new("RGB", (16, 16)), Image.new("RGB", (16, 16), "white")]
    options = {"lossless": True} if suffix == ".webp" else {}
    dataset = opened(suffix, frames[0], save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(dataset[0], quadrants().transpose(2, 0, 1))
    assert said(dataset, "Of 1 file with several frames or pages, the first was taken")
