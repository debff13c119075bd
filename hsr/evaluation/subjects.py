# SPDX-License-Identifier: Apache-2.0
"""The generators that are measured, and the random codes and classes that all of them get."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import Config
from ..data import ImageDataset
from ..errors import UserError
from ..interop.opening import build_average, open_checkpoint
from ..models import Generator
from ..tensors import one_hot
from ..weights import find_weights


@dataclass(frozen=True)
class Subject:
    """A generator under measurement.

    Attributes:
        name: What results call it.
        path: File of its weights.
        G: The generator, in evaluation mode.
        classes: Labels of its classes, in its order.
        config: Settings that it was trained with.
        is_foreign: Its networks come from another project, so that the settings name no images.
    """

    name: str
    path: Path
    G: Generator
    classes: tuple[int, ...]
    config: Config
    is_foreign: bool


def load_subjects(paths: Sequence[Path], device: torch.device) -> list[Subject]:
    """Loads the averaged generators of checkpoints.

    Raises:
        UserError: A file is no checkpoint.
    """
    subjects = []
    names = _names(paths)
    for name, given in zip(names, paths, strict=True):
        path = find_weights(given)
        checkpoint = open_checkpoint(path)
        header = checkpoint.header
        G = build_average(checkpoint, path).to(device)
        subjects.append(Subject(name, path, G, header.classes, header.config, bool(header.source)))
    return subjects


def _names(paths: Sequence[Path]) -> list[str]:
    """Returns a short name of each path that no other has: its last part, or else the whole of it."""
    short = [path.resolve().name for path in paths]
    return [name if short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]


def class_rows(subject: Subject, dataset: ImageDataset | None) -> Tensor | None:
    """Returns one-hot rows [M, c_dim] to draw a generator's classes from; None for an unconditional one.

    They are those of the images, so that classes come as often as there, or each class once without labelled images.

    Raises:
        UserError: The images have a class that the generator doesn't know.
    """
    G = subject.G
    if G.c_dim == 0:
        return None
    if dataset is None or dataset.labels is None or len(dataset) == 0:
        return torch.eye(G.c_dim)
    classes = subject.classes or tuple(range(G.c_dim))
    unknown = sorted(set(dataset.classes) - set(classes))
    if unknown:
        raise UserError(f"{dataset.name} has the class {unknown[0]}, which {subject.name} doesn't know.")
    index = torch.tensor([classes.index(value) for value in dataset.classes])
    return one_hot(index[torch.from_numpy(dataset.labels)], G.c_dim)


def draw(subject: Subject, rows: Tensor | None, count: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Returns codes z [count, z_dim] and classes [count, c_dim], or None, the same ones for a seed."""
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(count, subject.G.z_dim, generator=rng)
    if rows is None:
        return z, None
    return z, rows[torch.randint(len(rows), (count,), generator=rng)]
