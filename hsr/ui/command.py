# SPDX-License-Identifier: Apache-2.0
"""`hsr ui`."""

import threading
from pathlib import Path

import torch
from rich.console import Console

from ..console import make_console
from ..device import resolve_device
from ..editing.directions import Direction, read_directions
from ..editing.samples import draw_samples
from ..editing.search import UNSUPERVISED, find_directions
from ..errors import UserError
from ..latents import load_generator
from ..models import Generator
from ..options import UiOptions
from .explorer import Explorer, Network
from .page import MAX_SLIDERS, build_page, load_gradio, serve

# Codes that directions are found in at the start, and directions by method and range of layers.
SAMPLES, NUMBER = 10000, 4


def ui(options: UiOptions) -> None:
    """Runs `hsr ui`, until it is interrupted.

    Raises:
        UserError: The options, or what they name, can't be used.
    """
    console = make_console()
    explorer = open_explorer(options, console)
    page = build_page(explorer, options.truncation)
    try:
        address = serve(page, options.port)
        console.print(f"The page is at {address} (Ctrl-C ends it).")
        threading.Event().wait()
    except KeyboardInterrupt:
        console.print("The page is closed.")
    finally:
        page.close(verbose=False)


def open_explorer(options: UiOptions, console: Console) -> Explorer:
    """Returns the networks of the options with their directions, and says on the console which these are.

    Raises:
        UserError: The options, or what they name, can't be used.
    """
    if options.against is None and options.against_directions is not None:
        raise UserError("--against-directions needs --against.")
    if options.directions is None and options.against_directions is not None:
        raise UserError("--against-directions needs --directions.")
    load_gradio()
    device = resolve_device(options.device)
    networks = [_open_network(options.checkpoint, options.directions, device, console)]
    if options.against is not None:
        file = options.against_directions or options.directions
        networks.append(_open_network(options.against, file, device, console))
    explorer = Explorer(networks)
    if len(networks) == 2:
        if options.directions is None or options.against_directions is not None:
            console.print("Each network moves along its own directions: one slider moves those of the same name.")
        else:
            console.print(f"Both networks, which are of the same shape, move along those in {options.directions}.")
    if len(explorer.names) > MAX_SLIDERS:
        console.print(f"The page has sliders for the first {MAX_SLIDERS} of {len(explorer.names)} directions.")
    return explorer


def _open_network(path: Path, file: Path | None, device: torch.device, console: Console) -> Network:
    """Returns the network at a path with its directions, those in the file where there is one."""
    G, classes = load_generator(path)
    G.to(device)
    if file is not None:
        directions = read_directions(file, G).directions
    else:
        console.print(f"Finding directions of {path}")
        directions = _find_directions(G, classes)
    return Network(str(path), G, classes, directions)


def _find_directions(G: Generator, classes: tuple[int, ...]) -> dict[str, Direction]:
    samples = draw_samples(G, classes, SAMPLES)
    return {direction.name: direction for direction in find_directions(G, samples, UNSUPERVISED, number=NUMBER)}
