# SPDX-License-Identifier: Apache-2.0
"""Generated images, and the files that they are written to, singly or as a grid."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from .console import track
from .errors import UserError
from .files import replacing
from .models import Generator

# Pixels of all images together, which lie in memory twice: as images and as a grid.
MAX_PIXELS = 2**29
# Pillow's format for each suffix of a file name, and the options to write it with.
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
}


def to_uint8(images: Tensor) -> np.ndarray:
    """Maps images [N, 3, H, W] in [-1, 1] to [N, H, W, 3] uint8."""
    pixels = ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def check_pixels(what: str, count: int, resolution: int) -> None:
    """Checks that `count` images fit one file; a message begins with `what`, such as "--seeds 0-9 names".

    Raises:
        UserError: They don't.
    """
    max_images = MAX_PIXELS // resolution**2
    if count > max_images:
        raise UserError(f"{what} {count} images, but at most {max_images} of their size fit a grid.")


def check_format(path: Path, others: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """Returns Pillow's format for a file's suffix, and the options to write it with.

    `others` are suffixes of files that are no single images, which the message names, too.

    Raises:
        UserError: No format has this suffix.
    """
    image_format = FORMATS.get(path.suffix.lower())
    if image_format is None:
        choices = ", ".join([*FORMATS, *others])
        raise UserError(f"{path} does not end in the suffix of an image format: choose one of {choices}.")
    return image_format


def save_image(pixels: np.ndarray, path: Path) -> None:
    """Writes pixels [H, W, 3] uint8 in the format of the suffix; a reader never sees half a file.

    Raises:
        UserError: The suffix is unknown or the file can't be written.
    """
    name, options = check_format(path)
    with replacing(path) as part:
        Image.fromarray(pixels).save(part, format=name, **options)


def save_grid(pixels: np.ndarray, columns: int, path: Path) -> None:
    """Writes images [N, H, W, 3] uint8 row by row into one file; the rest of the last row stays black."""
    save_image(grid(pixels, columns), path)


def grid(pixels: np.ndarray, columns: int) -> np.ndarray:
    """Returns images [N, H, W, 3] uint8 row by row as one, [rows * H, columns * W, 3]; what is left over is black."""
    n, height, width, channels = pixels.shape
    rows = -(-n // columns)
    canvas = np.zeros((rows * columns, height, width, channels), np.uint8)
    canvas[:n] = pixels
    canvas = canvas.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return canvas.reshape(rows * height, columns * width, channels)


@torch.no_grad()
def generate_images(
    G: Generator,
    z: Tensor,
    c: Tensor | None,
    *,
    truncation_psi: float = 1.0,
    batch: int = 16,
    title: str = "Generating images",
    console: Console | None = None,
) -> Tensor:
    """Generates images [N, 3, R, R] on the CPU from z [N, z_dim] and c [N, c_dim], with fixed noise."""
    parts = []
    starts = range(0, len(z), batch)
    for start in track(starts, title, len(starts), console):
        classes = None if c is None else c[start : start + batch]
        images = G(z[start : start + batch], classes, truncation_psi=truncation_psi, noise_mode="const")
        parts.append(images.cpu())
    return torch.cat(parts)
