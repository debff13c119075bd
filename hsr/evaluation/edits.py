# SPDX-License-Identifier: Apache-2.0
"""The latent edits whose linearity the Attribute Linearity Score measures: sequences of codes, and their scores."""

from collections.abc import Sequence

import torch
from rich.console import Console
from torch import Tensor

from ..attributes import Classifier
from ..console import track
from ..metrics.exact import exact_generator, exact_metrics
from ..models import Generator
from ..ranks import Ranks

# Frames of an edit, as in HSR's released code.
NUM_FRAMES = 11


@torch.no_grad()
def lines(G: Generator, z: Tensor, c: Tensor | None, device: torch.device) -> Tensor:
    """Returns codes [S, 11, num_ws, w_dim] on straight lines in W between two codes each.

    Args:
        G: Generator.
        z: [S, 2, z_dim] latent codes of the two ends.
        c: [S, c_dim] one-hot classes, one for both ends; None for an unconditional generator.
        device: Where the generator is.
    """
    classes = None if c is None else c.to(device)
    start, end = (G.mapping(z_end.to(device), classes) for z_end in z.unbind(dim=1))
    steps = torch.linspace(0, 1, NUM_FRAMES, device=device)[None, :, None, None]
    return start[:, None].lerp(end[:, None], steps)


def frame_scores(
    G: Generator,
    classifier: Classifier,
    sequences: Sequence[Tensor],
    device: torch.device,
    *,
    title: str,
    console: Console | None = None,
    ranks: Ranks | None = None,
) -> Tensor:
    """Returns the scores [S, 11, A] that a classifier gives the frames of edits, float32 on the CPU.

    Args:
        G: Generator.
        classifier: Maps images to scores [N, A].
        sequences: Codes [s, 11, num_ws, w_dim] of a few edits each.
        device: Where the generator is.
        title: What the progress calls the work.
        console: Where to show the progress; None: standard output.
        ranks: The processes that share the work; None: this one does it all.
    """
    ranks = Ranks(device) if ranks is None else ranks
    share = ranks.share(sequences)
    scores = []
    with torch.no_grad(), exact_generator(G, device) as exact:
        for ws in track(share, title, len(share), console):
            images = exact.synthesis(ws.flatten(0, 1).to(device), noise_mode="const")
            scores.append(classify(classifier, images, device).unflatten(0, ws.shape[:2]))
    return torch.cat(ranks.gather(scores))


def classify(classifier: Classifier, images: Tensor, device: torch.device) -> Tensor:
    """Returns the scores [N, A] of images [N, 3, H, W], cut to [-1, 1] as files are, float32 on the CPU."""
    with exact_metrics(device):
        return classifier(images.clamp(-1, 1)).float().cpu()
