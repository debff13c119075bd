# SPDX-License-Identifier: Apache-2.0
"""The stream of training batches."""

import multiprocessing
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from hsr.data import open_dataset
from hsr.errors import UserError
from hsr.training.stream import BatchStream

from .test_data import pixels, truncate


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_when_streamed(images: Path, workers: int) -> None:
    dataset = open_dataset(images, in_memory=False)
    truncate(images / "00000/img0005.png")  # Damage is found on opening; this one comes later.
    stream = BatchStream(dataset, 24, seed=0, mirror=False, workers=workers)
    with pytest.raises(UserError, match=r"^00000/img0005\.png in .* cannot be read as an image"):
        next(stream)
    stream.close()


def test_each_epoch_shows_every_image_once() -> None:
    digits = open_dataset().subset(np.arange(30))
    stream = BatchStream(digits, 8, seed=3, mirror=False)
    seen = [image.numpy().tobytes() for batch, _ in islice(stream, 15) for image in batch]
    originals = [image.tobytes() for image in pixels(digits)]
    assert seen[:30] != seen[30:60]
    for epoch in range(4):
        assert Counter(seen[30 * epoch : 30 * epoch + 30]) == Counter(originals)


def test_labels_go_with_their_images() -> None:
    digits = open_dataset().subset(np.arange(30))
    assert digits.labels is not None
    by_image = {digits[i].tobytes(): int(digits.labels[i]) for i in range(30)}
    images, labels = next(BatchStream(digits, 30, seed=0, mirror=False))
    assert labels.dtype == torch.int64
    assert [by_image[image.numpy().tobytes()] for image in images] == labels.tolist()


def test_mirror_flips_about_half_of_the_images() -> None:
    digits = open_dataset().subset(np.arange(200))
    originals = {image.tobytes() for image in pixels(digits)}
    images, _ = next(BatchStream(digits, 200, seed=0, mirror=True))
    straight = sum(image.numpy().tobytes() in originals for image in images)
    flipped = sum(image.flip(2).contiguous().numpy().tobytes() in originals for image in images)
    assert straight + flipped >= 200 and 70 < straight < 130


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_depends_on_seed_and_position_alone(images: Path, workers: int) -> None:
    held, streamed = open_dataset(images), open_dataset(images, in_memory=False)
    whole = BatchStream(held, 7, seed=5, mirror=True)
    later = BatchStream(streamed, 7, seed=5, mirror=True, workers=workers, start=5 * 7)
    random_state = torch.get_rng_state()
    for expected, found in zip(islice(whole, 5, 15), later, strict=False):
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert torch.equal(torch.get_rng_state(), random_state)
    later.close()
    other = next(BatchStream(held, 7, seed=6, mirror=True))[0]
    assert not torch.equal(other, next(BatchStream(held, 7, seed=5, mirror=True))[0])


def test_workers_stop_with_the_stream(images: Path) -> None:
    stream = BatchStream(open_dataset(images, in_memory=False), 4, seed=0, mirror=False, workers=2)
    next(stream)
    assert len(multiprocessing.active_children()) >= 2
    stream.close()
    assert not multiprocessing.active_children()
