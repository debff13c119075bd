# SPDX-License-Identifier: Apache-2.0
"""What the page shows: the images of one seed by every network, moved along directions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..editing.directions import Direction, moved_styles
from ..errors import UserError
from ..images import to_uint8
from ..latents import map_seeds
from ..models import Generator

# Images of fewer pixels are enlarged, by whole factors so that each pixel stays what it is.
MIN_SHOWN_PIXELS = 384


@dataclass(frozen=True)
class Network:
    """A generator with its name on the page, its classes' labels, and its directions by name."""

    name: str
    G: Generator
    classes: tuple[int, ...]
    directions: dict[str, Direction]


class Explorer:
    """Networks that show the same latent codes z side by side.

    Attributes:
        networks: One or two.
        classes: Labels of their classes, in order; none where they have none.
        names: Names of the directions that all of them have, in the order of the first one.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        """Raises a `UserError` where two networks can't show the same codes or share no direction."""
        first, *others = networks
        for other in others:
            if other.G.z_dim != first.G.z_dim:
                raise UserError(
                    f"--against {other.name} can't show the same codes: z has {other.G.z_dim} components there and "
                    f"{first.G.z_dim} in {first.name}."
                )
            if other.classes != first.classes:
                raise UserError(f"--against {other.name} can't show the same codes: its classes are others.")
        self.networks = tuple(networks)
        self.classes = first.classes
        self.names = [name for name in first.directions if all(name in other.directions for other in others)]
        if not self.names:
            raise UserError("no direction has the same name in both files of directions.")

    @torch.no_grad()
    def images(self, seed: int, truncation: float, label: int | None, steps: dict[str, float]) -> list[np.ndarray]:
        """Returns an image of each network, [R, R, 3] uint8, of the seed with the network's fixed noise.

        Args:
            seed: Of the latent code z.
            truncation: Below 1, the code w moves towards the mean before the edit.
            label: Of the class; None: the seed decides, as in `hsr generate`.
            steps: How far to move along directions, by their names, in their unit steps.

        Raises:
            UserError: No class has the label.
        """
        images = []
        for network in self.networks:
            ws = map_seeds(network.G, network.classes, [seed], label=label, truncation=truncation)
            moves = [(network.directions[name], ws.new_full((1,), step)) for name, step in steps.items() if step]
            styles = moved_styles(network.G, ws, moves)
            images.append(to_uint8(network.G.synthesis.from_styles(styles, noise_mode="const")[0])[0])
        return images


def enlarge(pixels: np.ndarray) -> np.ndarray:
    """Returns an image [R, R, 3] with each pixel repeated so often that it has `MIN_SHOWN_PIXELS` on a side."""
    factor = -(-MIN_SHOWN_PIXELS // len(pixels))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)
