# SPDX-License-Identifier: Apache-2.0
"""The layers of a generator by the size of what they change in the image.

A layer here is a latent code's place among ws, [N, num_ws, w_dim]: code 0 goes to the layer at 4x4, two more codes to
each following resolution, and the last one to ToRGB at the highest.
"""

import re

from ..errors import UserError
from ..models import Generator

RANGES = ("all", "coarse", "middle", "fine")
# The highest resolutions of coarse and middle layers in Karras et al. 2019 (StyleGAN), section 3.1.
MAX_COARSE, MAX_MIDDLE = 8, 32


def layer_range(G: Generator, name: str) -> tuple[int, ...]:
    """Returns the layers of one of `RANGES`, in order.

    Coarse layers are those up to 8x8, middle ones those up to 32x32, as published. Networks of less than 64 pixels have
    these limits at an eighth and a half of their resolution, so that each range still changes something.
    """
    if name == "all":
        return tuple(range(G.num_ws))
    limits = {"coarse": max(4, min(MAX_COARSE, G.resolution // 8)), "middle": min(MAX_MIDDLE, G.resolution // 2)}
    low = {"coarse": 0, "middle": limits["coarse"], "fine": limits["middle"]}[name]
    high = limits.get(name, G.resolution)
    return tuple(layer for layer, resolution in enumerate(layer_resolutions(G)) if low < resolution <= high)


def layer_resolutions(G: Generator) -> list[int]:
    """Returns the resolution of each layer's block, in pixels."""
    first, *others = G.synthesis.resolutions
    return [first, *(resolution for resolution in others for _ in range(2)), others[-1]]


def parse_layers(G: Generator, text: str) -> tuple[int, ...]:
    """Parses the name of a range, or numbers of layers such as 0-3,6.

    Raises:
        UserError: The text is neither, or the generator has no such layers.
    """
    if text in RANGES:
        layers = layer_range(G, text)
        if not layers:
            raise UserError(f"--layers {text} names no layer of a network of {G.resolution} pixels.")
        return layers
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,4})(?:-([0-9]{1,4}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UserError(f"--layers {text} is neither one of {', '.join(RANGES)} nor a list such as 0-3,6.")
        chosen.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    if max(chosen) >= G.num_ws:
        raise UserError(f"--layers {text} names layer {max(chosen)}, but the layers are 0 to {G.num_ws - 1}.")
    return tuple(sorted(chosen))
