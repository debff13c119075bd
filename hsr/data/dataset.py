# SPDX-License-Identifier: Apache-2.0
"""The data set that everything else works with."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..tensors import to_float


class ImageStore(Protocol):
    """Random access to decoded images."""

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns image `index`, [3, H, W] uint8."""


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Square RGB images of one power-of-two size, with or without class labels.

    Attributes:
        name: Short name, used for run folders.
        resolution: Height and width in pixels.
        labels: [N] int64 class indices 0..num_classes - 1, or None.
        store: Store of the pixels.
        indices: [N] int64 positions in the store.
        identity: Hash of the whole set's decoded pixels and classes, before any split.
        channels: Number of channels of an image.
        classes: The data's own value of each class index, ascending; empty without labels.
        report: Sentences that say what was read, converted and ignored when the set was opened.
        class_names: Name of each class, as `classes`; empty if they have none.
        path: The folder or zip; None for the bundled digits.
        names: Normalized name of each image of the store; empty for the bundled digits.
    """

    name: str
    resolution: int
    labels: np.ndarray | None
    store: ImageStore
    indices: np.ndarray
    identity: str
    channels: int = 3
    classes: tuple[int, ...] = ()
    report: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    path: Path | None = None
    names: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 without labels."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns image `index`, [3, H, W] uint8."""
        return self.store[int(self.indices[index])]

    def fingerprint(self) -> str:
        """Returns a hash that identifies these images and their order, for use as a cache key."""
        return hashlib.sha256(self.identity.encode() + self.indices.tobytes()).hexdigest()[:16]

    def subset(self, positions: np.ndarray) -> "ImageDataset":
        """Returns the images at `positions` ([M] integers) as a data set of their own."""
        labels = None if self.labels is None else self.labels[positions]
        return replace(self, labels=labels, indices=self.indices[positions])

    def split(self, fraction: float, maximum: int, seed: int = 0) -> tuple["ImageDataset", "ImageDataset"]:
        """Splits into images to train on and held-out images, at random but always alike for the same seed.

        Args:
            fraction: Fraction of the images to hold out, though at least 2 images, and never the last one to train on.
            maximum: Largest number of images to hold out.
            seed: Seed of the choice.
        """
        order = np.random.default_rng(seed).permutation(len(self))
        held_out = max(2, min(round(fraction * len(self)), maximum))
        held_out = max(0, min(held_out, len(self) - 1))
        return self.subset(np.sort(order[held_out:])), self.subset(np.sort(order[:held_out]))

    def batch(self, positions: np.ndarray) -> torch.Tensor:
        """Returns the images at `positions` as [M, 3, H, W] float32 in [-1, 1]."""
        return to_float(torch.from_numpy(np.stack([self[i] for i in positions])))
