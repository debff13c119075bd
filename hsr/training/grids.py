# SPDX-License-Identifier: Apache-2.0
"""Images as grids in files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from ..console import tracked
from ..data import ImageDataset
from ..errors import UserError
from ..files import replacing
from ..models import Generator

# A grid of samples has about so many pixels a side, within these numbers of images a side.
GRID_PIXELS = 1024
GRID_SIDE = (4, 10)
# What a file's suffix stands for: the format and how it is written.
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
}


def grid_side(resolution: int) -> int:
    """Returns the number of rows and columns of a grid of samples."""
    return min(max(GRID_PIXELS // resolution, GRID_SIDE[0]), GRID_SIDE[1])


def to_uint8(images: Tensor) -> np.ndarray:
    """Maps images [N, 3, H, W] in [-1, 1] to [N, H, W, 3] uint8."""
    pixels = ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def check_format(path: Path) -> tuple[str, dict[str, Any]]:
    """Returns the format that a file's suffix stands for, and how to write it.

    Raises:
        UserError: It stands for none.
    """
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise UserError(f"{path} has a suffix of no known image format: choose one of {', '.join(FORMATS)}.")
    return found


def save_image(pixels: np.ndarray, path: Path) -> None:
    """Writes [H, W, 3] uint8 in the format of the suffix; a reader never sees half a file.

    Raises:
        UserError: The suffix is unknown or the file can't be written.
    """
    kind, options = check_format(path)
    with replacing(path) as part:
        Image.fromarray(pixels).save(part, format=kind, **options)


def save_grid(pixels: np.ndarray, columns: int, path: Path) -> None:
    """Writes images [N, H, W, 3] uint8 row by row into one file; missing ones at the end stay black."""
    n, height, width, channels = pixels.shape
    rows = -(-n // columns)
    canvas = np.zeros((rows * columns, height, width, channels), np.uint8)
    canvas[:n] = pixels
    canvas = canvas.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    save_image(canvas.reshape(rows * height, columns * width, channels), path)


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
    for start in tracked(starts, title, len(starts), console):
        classes = None if c is None else c[start : start + batch]
        images = G(z[start : start + batch], classes, truncation_psi=truncation_psi, noise_mode="const")
        parts.append(images.cpu())
    return torch.cat(parts)


class SampleGrid:
    """The same latent codes at every tick; with labels, a column shows one class.

    Args:
        dataset: Gives the size of the images and the classes.
        z_dim: Dimension of the latent codes.
        c_dim: Number of classes that the generator knows, 0 for none.
        device: Where the generator lives.
        seed: Of the latent codes.
    """

    def __init__(self, dataset: ImageDataset, z_dim: int, c_dim: int, device: torch.device, seed: int):
        self.columns = grid_side(dataset.resolution)
        number = self.columns**2
        self.z = torch.randn(number, z_dim, generator=torch.Generator().manual_seed(seed)).to(device)
        self.c = None
        self._reals = np.arange(number) % len(dataset)
        if c_dim > 0 and dataset.labels is not None:
            present = np.unique(dataset.labels)
            classes = present[np.arange(number) % self.columns % len(present)]
            self.c = torch.nn.functional.one_hot(torch.from_numpy(classes), c_dim).float().to(device)
            members = [np.flatnonzero(dataset.labels == label) for label in classes]
            self._reals = np.array([m[i // self.columns % len(m)] for i, m in enumerate(members)])
        self._dataset = dataset

    def save_reals(self, path: Path) -> None:
        """Writes real images in the same arrangement."""
        pixels = np.stack([self._dataset[int(i)] for i in self._reals]).transpose(0, 2, 3, 1)
        save_grid(pixels, self.columns, path)

    def save_samples(self, G: Generator, path: Path) -> None:
        """Writes generated images."""
        save_grid(to_uint8(generate_images(G, self.z, self.c)), self.columns, path)
