# SPDX-License-Identifier: Apache-2.0
"""Grids of real and generated images that show how training goes."""

from pathlib import Path

import numpy as np
import torch

from ..data import ImageDataset
from ..images import generate_images, save_grid, to_uint8
from ..models import Generator
from ..tensors import one_hot

# Pixels a side that a grid comes close to, as far as the limits on its images a side allow.
GRID_PIXELS = 1024
MIN_GRID_IMAGES, MAX_GRID_IMAGES = 4, 10


def grid_side(resolution: int) -> int:
    """Returns the number of rows and columns of a grid of samples."""
    return min(max(GRID_PIXELS // resolution, MIN_GRID_IMAGES), MAX_GRID_IMAGES)


class SampleGrid:
    """A grid of images from the same latent codes at every tick; with labels, a column shows one class.

    Args:
        dataset: Data set with the size of the images and the classes.
        z_dim: Dimension of the latent codes.
        c_dim: Number of classes of the generator, 0 for none.
        device: Device of the generator.
        seed: Seed of the latent codes.
    """

    def __init__(self, dataset: ImageDataset, z_dim: int, c_dim: int, device: torch.device, seed: int):
        self.columns = grid_side(dataset.resolution)
        count = self.columns**2
        self.z = torch.randn(count, z_dim, generator=torch.Generator().manual_seed(seed)).to(device)
        self.c = None
        self._reals = np.arange(count) % len(dataset)
        if c_dim > 0 and dataset.labels is not None:
            present = np.unique(dataset.labels)
            classes = present[np.arange(count) % self.columns % len(present)]
            self.c = one_hot(torch.from_numpy(classes).to(device), c_dim)
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
