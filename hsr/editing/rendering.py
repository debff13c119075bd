# SPDX-License-Identifier: Apache-2.0
"""The images of latent codes, moved along a direction or not."""

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ..console import track
from ..images import to_uint8
from ..models import Generator
from .directions import Direction

# Images that are generated at once.
BATCH = 16


@torch.no_grad()
def render(
    G: Generator,
    ws: Tensor,
    *,
    direction: Direction | None = None,
    steps: Tensor | None = None,
    title: str = "Generating images",
    console: Console | None = None,
) -> np.ndarray:
    """Returns the images of codes ws [N, num_ws, w_dim], uint8 [N, R, R, 3], with the network's fixed noise.

    Args:
        direction, steps: What the codes are moved along, and by how many unit steps each, [N]; None: they stay.
        title, console: The name of the work, and where its progress is shown.
    """
    parts = []
    starts = range(0, len(ws), BATCH)
    for start in track(starts, f"{title}, in batches of {BATCH}", len(starts), console):
        codes = ws[start : start + BATCH]
        if direction is None or steps is None:
            styles = G.synthesis.styles(codes)
        else:
            styles = direction.styles(G, codes, steps[start : start + BATCH].to(codes))
        parts.append(to_uint8(G.synthesis.from_styles(styles, noise_mode="const")[0]))
    return np.concatenate(parts)
