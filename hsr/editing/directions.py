# SPDX-License-Identifier: Apache-2.0
"""A direction in latent space, and the file of directions of a generator.

A file is safetensors: a tensor for each direction under its name, and a JSON header with all else. Nothing in it is
executed.
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, reading
from ..models import Generator
from ..weights import load_tensors, save_tensors

FORMAT = 1
_KIND = "directions"
MAX_SHOWN_NAMES = 12


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction in W, or in the styles of one layer.

    Attributes:
        name: Such as "ganspace-1@coarse", unique in a file.
        method: What found it: ganspace, sefa, interfacegan or stylespace.
        vector: Of unit length, float32: [w_dim], or [C] for a layer with C styles.
        unit_step: Standard deviation of random codes, or of their styles, along the vector: the length of a step of 1.
        layers: The layers whose codes move, by their places among ws; of a direction in styles empty.
        style_layer: The layer whose styles move, by its place in `style_layers` of the generator; None: one in W.
        scores: What is known of it, by name.
    """

    name: str
    method: str
    vector: Tensor
    unit_step: float
    layers: tuple[int, ...] = ()
    style_layer: int | None = None
    scores: dict[str, float] = field(default_factory=dict)

    def styles(self, G: Generator, ws: Tensor, steps: Tensor) -> list[Tensor]:
        """Returns the styles of codes ws [N, num_ws, w_dim] that are moved by steps [N], in units of `unit_step`.

        Derivatives: those of the generator, with regard to ws and steps.
        """
        return moved_styles(G, ws, [(self, steps)])


def moved_styles(G: Generator, ws: Tensor, moves: Sequence[tuple[Direction, Tensor]]) -> list[Tensor]:
    """Returns the styles of codes ws [N, num_ws, w_dim] that are moved along several directions, in any order.

    Args:
        G: The generator.
        ws: The codes.
        moves: Directions, and by how many of their unit steps each code moves, [N].

    Derivatives: those of the generator, with regard to ws and the steps.
    """
    offsets = [(moved, steps[:, None] * moved.unit_step * moved.vector.to(ws)) for moved, steps in moves]
    for direction, offset in offsets:
        if direction.style_layer is None:
            is_moved = torch.zeros(G.num_ws, 1, dtype=ws.dtype, device=ws.device)
            is_moved[list(direction.layers)] = 1
            ws = ws + offset[:, None] * is_moved
    styles = G.synthesis.styles(ws)
    for direction, offset in offsets:
        if direction.style_layer is not None:
            styles[direction.style_layer] = styles[direction.style_layer] + offset
    return styles


@dataclass(frozen=True)
class Identity:
    """The generator that directions were found in.

    Directions fit every generator of the same shape; `fingerprint`, 16 hexadecimal digits, is that of its weights.
    """

    w_dim: int
    num_ws: int
    resolution: int
    style_channels: tuple[int, ...]
    fingerprint: str

    def difference(self, other: "Identity") -> str:
        """Returns in which way another generator has another shape, or nothing."""
        for name in ("w_dim", "resolution", "num_ws", "style_channels"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} is {getattr(self, name)} there and {getattr(other, name)} in this network"
        return ""


@dataclass(frozen=True)
class Directions:
    """The content of a file: directions by name, their generator, and the settings that they were found with."""

    directions: dict[str, Direction]
    generator: Identity
    settings: dict[str, Any]


def identify(G: Generator) -> Identity:
    """Returns a generator's identity."""
    digest = hashlib.sha256()
    for name, tensor in sorted(G.state_dict().items()):
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    channels = tuple(layer.affine.weight.shape[0] for layer in G.synthesis.style_layers())
    return Identity(G.w_dim, G.num_ws, G.resolution, channels, digest.hexdigest()[:16])


def write_directions(path: Path, found: Sequence[Direction], generator: Identity, settings: dict[str, Any]) -> None:
    """Writes directions of different names; a reader never sees half a file.

    Raises:
        UserError: The file can't be written.
    """
    records = [
        {f.name: getattr(direction, f.name) for f in dataclasses.fields(direction) if f.name != "vector"}
        for direction in found
    ]
    header = {
        "kind": _KIND,
        "format": FORMAT,
        "generator": dataclasses.asdict(generator),
        "settings": settings,
        "directions": records,
    }
    save_tensors({direction.name: direction.vector for direction in found}, path, header)


def read_directions(path: Path, G: Generator) -> Directions:
    """Returns the directions in a file, which must fit the generator.

    Raises:
        UserError: It is no such file, is damaged, or is of a generator of another shape.
    """
    kind = f"a file of {_KIND}"
    tensors, header = load_tensors(path, kind)
    with reading(path, kind):
        if not isinstance(header, dict) or header.get("kind") != _KIND or header.get("format") != FORMAT:
            raise ValueError("it has no such header")
        stored = header["generator"]
        identity = Identity(**(stored | {"style_channels": tuple(stored["style_channels"])}))
        difference = identity.difference(identify(G))
        if difference:
            raise UserError(f"{path} holds directions of another generator: {difference}.")
        records = [
            Direction(**(record | {"vector": tensors[record["name"]], "layers": tuple(record["layers"])}))
            for record in header["directions"]
        ]
        for direction in records:
            _check(direction, identity)
        return Directions({direction.name: direction for direction in records}, identity, header["settings"])


def _check(direction: Direction, generator: Identity) -> None:
    """Checks what a file says of a direction.

    Raises:
        ValueError: It doesn't hold together.
    """
    width = generator.w_dim
    if direction.style_layer is not None:
        if direction.style_layer not in range(len(generator.style_channels)):
            raise ValueError(f"{direction.name} has the style layer {direction.style_layer}")
        width = generator.style_channels[direction.style_layer]
    elif not direction.layers or not set(direction.layers) <= set(range(generator.num_ws)):
        raise ValueError(f"{direction.name} has the layers {list(direction.layers)}")
    if direction.vector.shape != (width,) or not direction.vector.isfinite().all():
        raise ValueError(f"the vector of {direction.name} is not {width} finite numbers")
    if not math.isfinite(direction.unit_step) or direction.unit_step <= 0:
        raise ValueError(f"the unit step of {direction.name} is {direction.unit_step}")


def find_direction(directions: Directions, name: str | None, path: Path) -> Direction:
    """Returns the direction that `--direction` names, or the only one.

    Raises:
        UserError: The file has no such direction, or several and none was named.
    """
    names = list(directions.directions)
    if name in directions.directions:
        return directions.directions[name]
    if name is None and len(names) == 1:
        return directions.directions[names[0]]
    listed = ", ".join(names[:MAX_SHOWN_NAMES])
    more = f" and {len(names) - MAX_SHOWN_NAMES} more" if len(names) > MAX_SHOWN_NAMES else ""
    problem = "--direction is missing" if name is None else f"--direction {name} is unknown"
    raise UserError(f"{problem}: {path} holds {listed}{more}.")
