# SPDX-License-Identifier: Apache-2.0
"""`hsr generate`: images of given seeds from a trained generator."""

import math
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .config import MAX_SEED
from .console import make_console
from .device import resolve_device
from .errors import UserError, writing
from .images import check_format, generate_images, save_grid, save_image, to_uint8
from .interop.opening import build_average, open_checkpoint
from .models import Generator
from .options import GenerateOptions
from .tensors import one_hot
from .weights import find_weights

MAX_SEEDS = 10000
MAX_NUMPY_SEED = 2**32 - 1
# Pixels of all images together, which lie in memory twice: as images and as a grid.
MAX_PIXELS = 2**29
MAX_SHOWN_CLASSES = 10


def generate(options: GenerateOptions) -> None:
    """Runs `hsr generate`.

    Raises:
        UserError: The options or the checkpoint cannot be used.
    """
    seeds = parse_seeds(options.seeds)
    check_format(options.out)
    device = resolve_device(options.device)
    console = make_console()
    G, classes = load_generator(find_weights(options.checkpoint))
    G.to(device)
    if len(seeds) * G.resolution**2 > MAX_PIXELS:
        max_images = MAX_PIXELS // G.resolution**2
        raise UserError(
            f"--seeds {options.seeds} names {len(seeds)} images, but at most {max_images} of their size fit a grid."
        )
    z = draw_codes(seeds, G.z_dim, options.rng)
    c = _class_inputs(seeds, options.label, classes)
    images = generate_images(
        G,
        z.to(device),
        None if c is None else c.to(device),
        truncation_psi=options.truncation,
        title="Generating images, in batches of 16",
        console=console,
    )
    pixels = to_uint8(images)
    with writing(options.out):
        options.out.parent.mkdir(parents=True, exist_ok=True)
    save_grid(pixels, math.ceil(math.sqrt(len(seeds))), options.out)
    console.print(f"Wrote {options.out}.")
    if options.outdir is not None:
        with writing(options.outdir):
            options.outdir.mkdir(parents=True, exist_ok=True)
        for seed, image in zip(seeds, pixels, strict=True):
            save_image(image, options.outdir / f"seed{seed:04d}.png")
        console.print(f"Wrote {len(seeds)} images to {options.outdir}.")


def parse_seeds(text: str) -> list[int]:
    """Parses "0-3,7" to [0, 1, 2, 3, 7].

    Raises:
        UserError: The text has another form, or names too many seeds.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,20})(?:-([0-9]{1,20}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UserError(f"--seeds {text} is not a list of seeds such as 0-35 or 1,5,9-12.")
        start, end = int(match[1]), int(match[2] or match[1])
        if end > MAX_SEED:
            raise UserError(f"--seeds {text} names a seed above {MAX_SEED}.")
        if len(seeds) + end - start >= MAX_SEEDS:
            raise UserError(f"--seeds {text} names more than {MAX_SEEDS} seeds.")
        seeds += range(start, end + 1)
    return seeds


def load_generator(path: Path) -> tuple[Generator, tuple[int, ...]]:
    """Loads the averaged generator; returns it and the labels of its classes, in its order.

    Raises:
        UserError: The file is no checkpoint.
    """
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
        raise UserError(f"--rng numpy takes seeds up to {MAX_NUMPY_SEED}, and --seeds names {max(seeds)}.")
    return torch.from_numpy(np.concatenate([np.random.RandomState(seed).randn(1, z_dim) for seed in seeds])).float()


def _class_inputs(seeds: list[int], label: int | None, classes: tuple[int, ...]) -> Tensor | None:
    """Returns one-hot classes [N, num_classes]: of the label, or by seed so that an image depends on its seed alone."""
    if label is not None and label not in classes:
        raise UserError(f"--label {label} is not a class of this network, which knows {_describe_classes(classes)}.")
    if not classes:
        return None
    chosen = [seed % len(classes) if label is None else classes.index(label) for seed in seeds]
    return one_hot(torch.tensor(chosen), len(classes))


def _describe_classes(classes: tuple[int, ...]) -> str:
    """Returns classes in a few words: consecutive ones as a range, others as a list."""
    if not classes:
        return "no classes"
    if classes[-1] - classes[0] + 1 == len(classes):
        return f"classes {classes[0]} to {classes[-1]}"
    shown = ", ".join(map(str, classes[:MAX_SHOWN_CLASSES]))
    hidden = len(classes) - MAX_SHOWN_CLASSES
    return f"the classes {shown}" + (f" and {hidden} more" if hidden > 0 else "")
