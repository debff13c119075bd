# SPDX-License-Identifier: Apache-2.0
"""`hsr mix`: images with some layers' codes of one seed and the others' of another.

Source: Karras et al., "A Style-Based Generator Architecture for Generative Adversarial Networks" (2019), section 3.1.
"""

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ..console import make_console
from ..device import resolve_device
from ..errors import writing
from ..images import check_format, check_pixels, save_grid
from ..latents import load_generator, map_seeds, parse_seeds
from ..models import Generator
from ..options import MixOptions
from .layers import parse_layers
from .rendering import render


def mix(options: MixOptions) -> None:
    """Runs `hsr mix`.

    Raises:
        UserError: The options, or what they name, can't be used.
    """
    rows, columns = parse_seeds(options.rows, "--rows"), parse_seeds(options.columns, "--columns")
    check_format(options.out)
    device = resolve_device(options.device)
    console = make_console()
    G, classes = load_generator(options.checkpoint)
    G.to(device)
    layers = parse_layers(G, options.layers)
    check_pixels("--rows and --columns make", (len(rows) + 1) * (len(columns) + 1), G.resolution)
    settings = {"label": options.label, "rng": options.rng, "truncation": options.truncation}
    ws = map_seeds(G, classes, rows + columns, **settings)  # type: ignore[arg-type]
    pixels = mixing_grid(G, ws[: len(rows)], ws[len(rows) :], layers, console)
    with writing(options.out):
        options.out.parent.mkdir(parents=True, exist_ok=True)
    save_grid(pixels, len(columns) + 1, options.out)
    numbers = ", ".join(map(str, layers))
    console.print(f"Wrote {options.out}: the columns' seeds give the layers {numbers}, the rows' seeds the others.")


def mixed_codes(rows: Tensor, columns: Tensor, layers: tuple[int, ...]) -> Tensor:
    """Returns codes [R, C, num_ws, w_dim]: rows [R, num_ws, w_dim] with these layers of columns [C, num_ws, w_dim]."""
    codes = rows[:, None].repeat(1, len(columns), 1, 1)
    codes[:, :, list(layers)] = columns[None, :, list(layers)]
    return codes


def mixing_grid(
    G: Generator, rows: Tensor, columns: Tensor, layers: tuple[int, ...], console: Console | None = None
) -> np.ndarray:
    """Returns the images of `mixed_codes` with their sources, [(R + 1) * (C + 1), H, W, 3] uint8 row by row.

    The columns' own images stand above and the rows' at the left of the mixed ones; the corner is white.
    """
    num_rows, num_columns = len(rows), len(columns)
    codes = torch.cat([columns, rows, mixed_codes(rows, columns, layers).flatten(0, 1)])
    pixels = render(G, codes, console=console)
    canvas = np.full((num_rows + 1, num_columns + 1, *pixels.shape[1:]), 255, np.uint8)
    canvas[0, 1:] = pixels[:num_columns]
    canvas[1:, 0] = pixels[num_columns : num_columns + num_rows]
    canvas[1:, 1:] = pixels[num_columns + num_rows :].reshape(num_rows, num_columns, *pixels.shape[1:])
    return canvas.reshape(-1, *pixels.shape[1:])
