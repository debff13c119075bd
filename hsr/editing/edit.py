# SPDX-License-Identifier: Apache-2.0
"""`hsr edit`: images that move along a direction, or from one latent code to the next."""

import math
import re

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ..console import make_console
from ..device import resolve_device
from ..errors import UserError, writing
from ..images import check_format, check_pixels, grid, save_grid
from ..latents import load_generator, map_seeds, parse_seeds
from ..models import Generator
from ..options import EditOptions
from .animation import SUFFIXES, check_animation, is_animation, save_animation
from .directions import Direction, find_direction, identify, read_directions
from .projected import read_codes
from .rendering import render

# Frames of a strip of images, and of an animation in either direction or between two codes.
STRIP_FRAMES, ANIMATION_FRAMES = 7, 50
# Options of the codes of seeds, which those of a file have no use for.
SEED_OPTIONS = ("seeds", "truncation", "rng", "label")


def edit(options: EditOptions) -> None:
    """Runs `hsr edit`.

    Raises:
        UserError: The options, or what they name, can't be used.
    """
    first, last = parse_range(options.range)
    _check_options(options)
    device = resolve_device(options.device)
    console = make_console()
    G, classes = load_generator(options.checkpoint)
    G.to(device)
    direction = None if options.interpolate else _read_direction(options, G, console)
    if options.source is None:
        seeds = parse_seeds(options.seeds)
        settings = {"label": options.label, "rng": options.rng, "truncation": options.truncation}
        ws = map_seeds(G, classes, seeds, **settings)  # type: ignore[arg-type]
    else:
        stored = read_codes(options.source, G)
        if stored.fingerprint is not None and stored.fingerprint != identify(G).fingerprint:
            console.print(f"The codes in {options.source} were found with other weights of the same shape.")
        stored.give_noise(G)
        ws = stored.ws.to(device)
    is_moving = is_animation(options.out)
    frames = options.frames or (ANIMATION_FRAMES if is_moving else STRIP_FRAMES)
    if direction is None:
        pixels = interpolate(G, ws, frames, is_loop=is_moving, console=console)
    else:
        pixels = move(G, ws, direction, torch.linspace(first, last, frames), console=console)
        if is_moving:
            # Back again, so that the animation repeats without a jump.
            pixels = np.concatenate([pixels, pixels[:, -2:0:-1]], axis=1)
    with writing(options.out):
        options.out.parent.mkdir(parents=True, exist_ok=True)
    if is_moving:
        columns = math.ceil(math.sqrt(len(pixels)))
        save_animation(np.stack([grid(pixels[:, i], columns) for i in range(pixels.shape[1])]), options.out)
    else:
        save_grid(pixels.reshape(-1, *pixels.shape[2:]), pixels.shape[1], options.out)
    console.print(f"Wrote {options.out}.")


def parse_range(text: str) -> tuple[float, float]:
    """Parses "-3,3".

    Raises:
        UserError: The text is not two different numbers.
    """
    number = r"\s*([+-]?(?:[0-9]{1,6}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}))\s*"
    match = re.fullmatch(f"{number},{number}", text)
    if match is None or float(match[1]) == float(match[2]):
        raise UserError(f"--range {text} is not two different numbers such as -3,3.")
    return float(match[1]), float(match[2])


def move(G: Generator, ws: Tensor, direction: Direction, steps: Tensor, console: Console | None = None) -> np.ndarray:
    """Returns images [N, T, R, R, 3] uint8 of codes ws [N, num_ws, w_dim], moved by steps [T] each."""
    count = len(ws) * len(steps)
    check_pixels("such an edit has", count, G.resolution)
    pixels = render(
        G,
        ws.repeat_interleave(len(steps), dim=0),
        direction=direction,
        steps=steps.repeat(len(ws)),
        console=console,
    )
    return pixels.reshape(len(ws), len(steps), *pixels.shape[1:])


def interpolate(
    G: Generator, ws: Tensor, frames: int, is_loop: bool = False, console: Console | None = None
) -> np.ndarray:
    """Returns images uint8 on the straight lines in W between consecutive codes ws [N, num_ws, w_dim].

    Returns:
        [N - 1, frames, R, R, 3], each row from a code to the next one, both included; or as a loop
        [1, N * frames, R, R, 3], through all codes and back to the first, with `frames` frames from code to code.

    Raises:
        UserError: There are fewer than two codes, or too many images.
    """
    if len(ws) < 2:
        raise UserError("--interpolate needs two seeds or more.")
    starts, ends = (ws, ws.roll(-1, 0)) if is_loop else (ws[:-1], ws[1:])
    check_pixels("such an interpolation has", len(starts) * frames, G.resolution)
    shares = torch.linspace(0, 1, frames + 1)[:-1] if is_loop else torch.linspace(0, 1, frames)
    codes = starts[:, None].lerp(ends[:, None], shares.to(ws)[:, None, None])
    pixels = render(G, codes.flatten(0, 1), console=console)
    return pixels.reshape(1 if is_loop else len(starts), -1, *pixels.shape[1:])


def _check_options(options: EditOptions) -> None:
    """Checks what doesn't depend on the network.

    Raises:
        UserError: Options are missing or exclude one another, or the format of the file is unknown.
    """
    if is_animation(options.out):
        check_animation(options.out)
    else:
        check_format(options.out, SUFFIXES)
    if options.interpolate and (options.directions is not None or options.direction is not None):
        raise UserError("--interpolate and --direction exclude one another.")
    if options.source is not None:
        for name in SEED_OPTIONS:
            if getattr(options, name) != getattr(EditOptions, name):
                raise UserError(f"--from and --{name} exclude one another: codes of a file are edited as they are.")
    if not options.interpolate and options.directions is None:
        raise UserError("--directions is missing: name a file that hsr directions wrote, or --interpolate.")


def _read_direction(options: EditOptions, G: Generator, console: Console) -> Direction:
    assert options.directions is not None
    stored = read_directions(options.directions, G)
    if stored.generator.fingerprint != identify(G).fingerprint:
        console.print(f"The directions in {options.directions} were found with other weights of the same shape.")
    return find_direction(stored, options.direction, options.directions)
