# SPDX-License-Identifier: Apache-2.0
"""`hsr generate`: a trained generator's images of given seeds."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from torch import Tensor

from .data import one_hot
from .device import resolve_device
from .errors import UserError
from .models import Generator
from .training.checkpoint import find_weights, load_weights, read_header
from .training.grids import generate_images, save_grid, save_image, to_uint8
from .training.trainer import build_generator

if TYPE_CHECKING:
    from .cli import GenerateOptions

MAX_SEEDS = 10000


def generate(options: "GenerateOptions") -> None:
    """Runs `hsr generate`.

    Raises:
        UserError: The options or the checkpoint cannot be used.
    """
    seeds = parse_seeds(options.seeds)
    device = resolve_device(options.device)
    G = load_generator(find_weights(options.checkpoint)).to(device)
    z = torch.stack([torch.randn(G.z_dim, generator=torch.Generator().manual_seed(s)) for s in seeds])
    c = _classes(seeds, options.label, G.c_dim)
    images = generate_images(G, z.to(device), None if c is None else c.to(device), truncation_psi=options.truncation)
    pixels = to_uint8(images)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_grid(pixels, math.ceil(math.sqrt(len(seeds))), options.out)
    Console().print(f"Wrote {options.out}.", highlight=False, soft_wrap=True)
    if options.outdir is not None:
        options.outdir.mkdir(parents=True, exist_ok=True)
        for seed, image in zip(seeds, pixels, strict=True):
            save_image(image, options.outdir / f"seed{seed:04d}.png")
        Console().print(f"Wrote {len(seeds)} images to {options.outdir}.", highlight=False, soft_wrap=True)


def parse_seeds(text: str) -> list[int]:
    """Parses "0-3,7" to [0, 1, 2, 3, 7].

    Raises:
        UserError: The text has another form, or names too many seeds.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UserError(f"--seeds {text} is not a list of seeds such as 0-35 or 1,5,9-12.")
        first, last = int(match[1]), int(match[2] or match[1])
        if len(seeds) + last - first >= MAX_SEEDS:
            raise UserError(f"--seeds {text} names more than {MAX_SEEDS} seeds.")
        seeds += range(first, last + 1)
    return seeds


def load_generator(path: Path) -> Generator:
    """Loads the averaged generator from a file of weights.

    Raises:
        UserError: The file is no checkpoint.
    """
    header = read_header(path)
    G = build_generator(header.config, header.resolution, header.num_classes)
    load_weights(path, {"G_ema": G})
    return G.eval().requires_grad_(False)


def _classes(seeds: list[int], label: int | None, c_dim: int) -> Tensor | None:
    """One-hot classes [N, c_dim]: the given one, or by seed so that an image depends on its seed alone."""
    if label is not None and not 0 <= label < c_dim:
        known = f"classes 0 to {c_dim - 1}" if c_dim else "no classes"
        raise UserError(f"--label {label} is not a class of this network, which knows {known}.")
    if c_dim == 0:
        return None
    return one_hot(torch.tensor([seed % c_dim if label is None else label for seed in seeds]), c_dim)
