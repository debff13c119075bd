# SPDX-License-Identifier: Apache-2.0
"""Batches that are computed in parts, one after another or by several processes, with the result of the whole batch.

Part k of n holds every n-th sample of the batch, from sample k on. So it holds whole groups of the minibatch standard
deviation, whose members are as far apart in the batch as there are groups, if its size is a multiple of theirs.

Random inputs are drawn for the whole batch, and a part takes its own: where every part starts with the same state of
the random generators, the parts together see the numbers that the undivided batch would see. What belongs to
single samples must therefore be drawn by `randn`, `randn_of_each`, `rand` and `randint` of this module; a draw for the
batch as a whole, such as a scalar, may be PyTorch's.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

_Samples = TypeVar("_Samples", Tensor, None, Tensor | None)


@dataclass(frozen=True)
class BatchPart:
    """Every `count`-th sample of a batch, from sample `index` on.

    Attributes:
        index: Position of the part's first sample in the batch.
        count: Number of parts, all of one size.
    """

    index: int = 0
    count: int = 1

    def split(self, count: int) -> list["BatchPart"]:
        """Returns `count` parts of this part, each as a part of the same batch.

        A process that has part r of W so computes it in A parts r + W * a of W * A.
        """
        return [BatchPart(self.index + self.count * i, self.count * count) for i in range(count)]

    def take(self, samples: _Samples) -> _Samples:
        """Returns the part's own of the batch's samples [N, ...]; None stands for inputs that there are not."""
        return samples if samples is None or self.count == 1 else samples[self.index :: self.count]


WHOLE = BatchPart()
# Global to the process, as a batch is computed by one thread.
_computed_part = WHOLE


def computed_part() -> BatchPart:
    """Returns the part that is being computed: the whole batch outside of `computing`."""
    return _computed_part


@contextmanager
def computing(part: BatchPart) -> Iterator[None]:
    """Takes the first dimension of what its body draws for samples as that of `part`."""
    global _computed_part
    enclosing = _computed_part
    _computed_part = part
    try:
        yield
    finally:
        _computed_part = enclosing


def randn(*shape: int, **options: Any) -> Tensor:
    """Returns the part's own of normal numbers for the batch, as `shape`, whose first dimension is the part's size."""
    return _computed_part.take(torch.randn(_batch_shape(shape), **options))


def randn_of_each(size: int, lengths: Sequence[int], **options: Any) -> Tensor:
    """Returns the part's own of normal numbers in one draw: [size, length], flat, of one length after another."""
    numbers = torch.randn(size * _computed_part.count * sum(lengths), **options)
    if _computed_part.count == 1:
        return numbers
    of_batch = numbers.split([size * _computed_part.count * length for length in lengths])
    rows = (each.view(-1, length) for each, length in zip(of_batch, lengths, strict=True))
    return torch.cat([_computed_part.take(each).flatten() for each in rows])


def rand(*shape: int, **options: Any) -> Tensor:
    """Returns the part's own of uniform numbers in [0, 1) for the batch, as `shape`, which is the part's."""
    return _computed_part.take(torch.rand(_batch_shape(shape), **options))


def randint(high: int, *shape: int, **options: Any) -> Tensor:
    """Returns the part's own of integers from 0 to `high` - 1 for the batch, as `shape`, which is the part's."""
    return _computed_part.take(torch.randint(high, _batch_shape(shape), **options))


def _batch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0] * _computed_part.count, *shape[1:])


class RandomState:
    """The state of PyTorch's default generators of the CPU and of a device, at the moment of construction.

    It is kept on the host, so that neither reading nor restoring it waits for a GPU.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """Sets the generators to this state."""
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)
