# SPDX-License-Identifier: Apache-2.0
"""The latent edits whose linearity the Attribute Linearity Score measures: sequences of codes, and their scores."""

import torch
from rich.console import Console
from torch import Tensor

from ..attributes import Classifier, classify
from ..console import track
from ..metrics.exact import exact_generator
from ..models import Generator
from ..ranks import Ranks

# Frames of an edit, as in HSR's released code.
NUM_FRAMES = 11


@torch.no_grad()
def map_codes(G: Generator, z: Tensor, c: Tensor | None, device: torch.device, batch: int) -> Tensor:
    """Returns the codes w [N, w_dim] of z [N, z_dim] and one-hot classes [N, c_dim], without truncation, on the CPU."""
    classes = [None] * -(-len(z) // batch) if c is None else [part.to(device) for part in c.split(batch)]
    with exact_generator(G, device) as exact:
        # All layers have the same code, so that one is kept of each.
        parts = [
            exact.mapping(part.to(device), of_part)[:, 0] for part, of_part in zip(z.split(batch), classes, strict=True)
        ]
    return torch.cat(parts).cpu()


def lines(ends: Tensor) -> Tensor:
    """Returns the codes [S, 11, w_dim] of frames on straight lines in W between two codes each, [S, 2, w_dim]."""
    steps = torch.linspace(0, 1, NUM_FRAMES)[None, :, None]
    return ends[:, :1].lerp(ends[:, 1:], steps)


def frame_scores(
    G: Generator,
    classifier: Classifier,
    codes: Tensor,
    device: torch.device,
    *,
    batch: int,
    title: str,
    console: Console | None = None,
    ranks: Ranks | None = None,
) -> Tensor:
    """Returns the scores [S, T, A] that a classifier gives the frames of edits, float32 on the CPU.

    Args:
        G: Generator.
        classifier: Maps images to scores [N, A].
        codes: [S, T, w_dim] codes of T frames each.
        device: Where the generator is.
        batch: Images per call, or one edit if that has more.
        title: What the progress calls the work.
        console: Where to show the progress; None: standard output.
        ranks: The processes that share the work; None: this one does it all.
    """
    ranks = Ranks(device) if ranks is None else ranks
    share = ranks.share(codes.split(max(1, batch // codes.shape[1])))
    scores = []
    with torch.no_grad(), exact_generator(G, device) as exact:
        for w in track(share, title, len(share), console):
            ws = w.flatten(0, 1).to(device)[:, None].expand(-1, G.num_ws, -1)
            images = exact.synthesis(ws, noise_mode="const")
            scores.append(classify(classifier, images).unflatten(0, w.shape[:2]))
    return torch.cat(ranks.gather(scores))
