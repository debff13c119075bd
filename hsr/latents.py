# SPDX-License-Identifier: Apache-2.0
"""The latent codes of seeds, and the generators that they are for: what the commands that make images share."""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .config import MAX_SEED
from .errors import UserError
from .interop.opening import build_average, open_checkpoint
from .models import Generator
from .tensors import one_hot
from .weights import find_weights

MAX_SEEDS = 10000
MAX_NUMPY_SEED = 2**32 - 1
MAX_SHOWN_CLASSES = 10


def parse_seeds(text: str, option: str = "--seeds") -> list[int]:
    """Parses "0-3,7" to [0, 1, 2, 3, 7]; `option` is what messages call it.

    Raises:
        UserError: The text has another form, or names too many seeds.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,20})(?:-([0-9]{1,20}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UserError(f"{option} {text} is not a list of seeds such as 0-35 or 1,5,9-12.")
        start, end = int(match[1]), int(match[2] or match[1])
        if end > MAX_SEED:
            raise UserError(f"{option} {text} names a seed above {MAX_SEED}.")
        if len(seeds) + end - start >= MAX_SEEDS:
            raise UserError(f"{option} {text} names more than {MAX_SEEDS} seeds.")
        seeds += range(start, end + 1)
    return seeds


def load_generator(path: Path) -> tuple[Generator, tuple[int, ...]]:
    """Loads the averaged generator of a file, or of a run folder; returns it and its classes' labels, in its order.

    Raises:
        UserError: The file is no checkpoint.
    """
    path = find_weights(path)
    checkpoint = open_checkpoint(path)
    return build_average(checkpoint, path), checkpoint.header.classes


def draw_codes(seeds: list[int], z_dim: int, rng: str) -> Tensor:
    """Returns a latent code per seed, [N, z_dim], from the random generator "torch" or "numpy".

    Raises:
        UserError: NumPy takes no such seed.
    """
    if rng == "torch":
        return torch.stack([torch.randn(z_dim, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    if max(seeds) > MAX_NUMPY_SEED:
        raise UserError(f"--rng numpy takes seeds up to {MAX_NUMPY_SEED}, and the largest here is {max(seeds)}.")
    return torch.from_numpy(np.concatenate([np.random.RandomState(seed).randn(1, z_dim) for seed in seeds])).float()


def class_inputs(seeds: list[int], label: int | None, classes: tuple[int, ...]) -> Tensor | None:
    """Returns one-hot classes [N, num_classes]: of the label, or by seed so that an image depends on its seed alone.

    Raises:
        UserError: No class has this label.
    """
    if label is not None and label not in classes:
        raise UserError(f"--label {label} is not a class of this network, which knows {_describe_classes(classes)}.")
    if not classes:
        return None
    chosen = [seed % len(classes) if label is None else classes.index(label) for seed in seeds]
    return one_hot(torch.tensor(chosen), len(classes))


def map_seeds(
    G: Generator,
    classes: tuple[int, ...],
    seeds: list[int],
    *,
    label: int | None = None,
    rng: str = "torch",
    truncation: float = 1.0,
) -> Tensor:
    """Returns the latent codes of seeds, ws [N, num_ws, w_dim], on the generator's device.

    Raises:
        UserError: A seed or the label can't be used.
    """
    device = G.mapping.w_avg.device
    z, c = draw_codes(seeds, G.z_dim, rng), class_inputs(seeds, label, classes)
    with torch.no_grad():
        return G.mapping(z.to(device), None if c is None else c.to(device), truncation_psi=truncation)


def _describe_classes(classes: tuple[int, ...]) -> str:
    """Returns classes in a few words: consecutive ones as a range, others as a list."""
    if not classes:
        return "no classes"
    if classes[-1] - classes[0] + 1 == len(classes):
        return f"classes {classes[0]} to {classes[-1]}"
    shown = ", ".join(map(str, classes[:MAX_SHOWN_CLASSES]))
    hidden = len(classes) - MAX_SHOWN_CLASSES
    return f"the classes {shown}" + (f" and {hidden} more" if hidden > 0 else "")
