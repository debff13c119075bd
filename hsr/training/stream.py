# SPDX-License-Identifier: Apache-2.0
"""The endless stream of training batches."""

import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ..data import ImageDataset
from ..errors import UserError
from ..parts import WHOLE, BatchPart


class BatchStream(Iterator[tuple[torch.Tensor, torch.Tensor]]):
    """Endless shuffled batches: images [N, 3, H, W] uint8 and labels [N] int64.

    The batch at a position depends on the seed and the position alone, whatever the number of workers, so
    that a resumed run sees the images that it would have seen.

    Args:
        dataset: Images to draw from; each epoch shows every image once.
        batch_size: Images per batch, of all processes that train together.
        seed: Seed of the order and the flips.
        mirror: Flip every image with probability one half.
        workers: Processes that decode images; 0: the calling process does.
        start: Number of images already drawn.
        part: The part of every batch that is handed out.
        pin_memory: Hand out batches in pinned memory, from which copies to a GPU don't wait for it. The host prepares
            the next batch while the GPU is still at work on this one.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        *,
        seed: int,
        mirror: bool,
        workers: int = 0,
        start: int = 0,
        pin_memory: bool = False,
        part: BatchPart = WHOLE,
    ):
        loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
            _TrainingImages(dataset),
            batch_sampler=_BatchSampler(len(dataset), batch_size, seed, mirror, start, part),
            collate_fn=_collate,
            num_workers=workers,
            worker_init_fn=_init_worker,
            pin_memory=pin_memory,
            # The loader would otherwise draw from the global generator.
            generator=torch.Generator(),
        )
        earlier_children = set(multiprocessing.active_children())
        self._batches: Iterator | None = iter(loader)
        self._workers = [child for child in multiprocessing.active_children() if child not in earlier_children]

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._batches is None:
            raise StopIteration
        batch = next(self._batches)
        if isinstance(batch, UserError):
            raise batch
        return batch

    def close(self) -> None:
        """Stops the workers."""
        # Dropping the iterator asks them to end and waits a while; a worker that hangs in a read ignores SIGTERM.
        self._batches = None
        for worker in self._workers:
            if worker.is_alive():
                worker.kill()


@dataclass(frozen=True)
class _BatchSampler:
    """Yields lists of (image index, flip) without end."""

    num_images: int
    batch_size: int
    seed: int
    mirror: bool
    start: int
    part: BatchPart

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(self.num_images)
        return order, rng.random(self.num_images) < (0.5 if self.mirror else 0.0)

    def __iter__(self) -> Iterator[list[tuple[int, bool]]]:
        epoch, position = divmod(self.start, self.num_images)
        order, flips = self._epoch(epoch)
        while True:
            batch: list[tuple[int, bool]] = []
            while len(batch) < self.batch_size:
                if position == self.num_images:
                    epoch, position = epoch + 1, 0
                    order, flips = self._epoch(epoch)
                batch.append((int(order[position]), bool(flips[position])))
                position += 1
            yield batch[self.part.index :: self.part.count]


@dataclass(frozen=True)
class _TrainingImages(torch.utils.data.Dataset):
    dataset: ImageDataset

    def __getitem__(self, key: tuple[int, bool]) -> tuple[np.ndarray, int] | UserError:
        index, flip = key
        try:
            image = self.dataset[index]
        except UserError as error:
            # An exception would lose its type and gain a traceback on its way to the main process.
            return error
        label = 0 if self.dataset.labels is None else int(self.dataset.labels[index])
        return (image[:, :, ::-1] if flip else image), label


def _collate(samples: list) -> tuple[torch.Tensor, torch.Tensor] | UserError:
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    images, labels = zip(*samples, strict=True)
    return torch.from_numpy(np.stack(images)), torch.tensor(labels, dtype=torch.int64)


def _init_worker(index: int) -> None:
    """Ignores signals, which the main process handles: it needs batches until it has stopped, and ends the workers.

    Terminals and schedulers signal every process of a job.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
