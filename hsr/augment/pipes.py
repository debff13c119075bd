# SPDX-License-Identifier: Apache-2.0
"""Transforms by the names of groups."""

from .strengths import BANDS, COLOURS, CORRUPTIONS, MOVES

_BLIT, _GEOM, _CUTOUT = MOVES[:3], MOVES[3:], CORRUPTIONS[1:]
_NOISE = CORRUPTIONS[:1]

# The transforms that each named pipe switches on. A letter of a combined name stands for a group.
PIPES = {
    "blit": _BLIT,
    "geom": _GEOM,
    "color": COLOURS,
    "filter": BANDS,
    "noise": _NOISE,
    "cutout": _CUTOUT,
    "bg": MOVES,
    "bgc": (*MOVES, *COLOURS),
    "bgcf": (*MOVES, *COLOURS, *BANDS),
    "bgcfn": (*MOVES, *COLOURS, *BANDS, *_NOISE),
    "bgcfnc": (*MOVES, *COLOURS, *BANDS, *_NOISE, *_CUTOUT),
}


def pipe_strengths(text: str) -> dict[str, float]:
    """Returns the strengths, each of them 1, of a named pipe without some of its transforms.

    Args:
        text: A name in `PIPES`, and after commas the transforms to leave out, such as "bgc" or "bgc,-xflip,-rotate90".

    Raises:
        ValueError: There is no such pipe, it has no such transform, or none of its transforms is left.
    """
    name, *parts = (part.strip() for part in text.split(","))
    if name not in PIPES:
        raise ValueError(f'"{name}" is no pipe: expected {", ".join(PIPES)}')
    strengths = dict.fromkeys(PIPES[name], 1.0)
    for part in parts:
        if not part.startswith("-"):
            raise ValueError(f'"{part}" must be a transform to leave out, spelled like -xflip')
        transform = part.removeprefix("-")
        if transform not in PIPES[name]:
            raise ValueError(f'"{name}" has no transform "{transform}" to leave out: it has {", ".join(PIPES[name])}')
        strengths.pop(transform, None)
    if not strengths:
        raise ValueError(f'"{text}" leaves out every transform')
    return strengths
