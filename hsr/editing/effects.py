# SPDX-License-Identifier: Apache-2.0
"""What moving along a direction does to the attributes of images."""

import dataclasses

import torch
from rich.console import Console
from torch import Tensor

from ..attributes import Classifier, classify
from ..console import track
from ..metrics.linearity import linearity
from ..models import Generator
from .directions import Direction
from .samples import Samples

# Sequences, frames in each and the length to either side in unit steps. Source of the frames: Karmali et al. 2022
# (HSR), code.
SEQUENCES, FRAMES, REACH = 16, 11, 3.0
# Beginning of the names of these scores.
EFFECT = "effect:"


@torch.no_grad()
def attribute_frames(
    G: Generator, direction: Direction, w: Tensor, classifier: Classifier, reach: float = REACH
) -> Tensor:
    """Returns the logits of `FRAMES` frames from -reach to reach unit steps, [S, T, A] for codes w [S, w_dim].

    Images are made in the generator's own precision: `exact_generator` makes that float32.
    """
    ws = w.to(G.mapping.w_avg.device)[:, None].expand(-1, G.num_ws, -1)
    frames = []
    for step in torch.linspace(-reach, reach, FRAMES).tolist():
        styles = direction.styles(G, ws, ws.new_full((len(ws),), step))
        frames.append(classify(classifier, G.synthesis.from_styles(styles, noise_mode="const")[0]))
    return torch.stack(frames, dim=1)


def with_effects(
    G: Generator,
    directions: list[Direction],
    samples: Samples,
    attributes: list[str],
    classifier: Classifier,
    console: Console | None = None,
) -> list[Direction]:
    """Returns the directions with further scores.

    "effect:NAME" is by how many standard deviations of the samples' logits an attribute changes, on average, from one
    end of an edit to the other. "als" is the Attribute Linearity Score over these attributes in the same units, so that
    the scores of different directions compare; it says nothing without the effects, as an edit that does nothing is
    linear.
    """
    columns = [samples.names.index(name) for name in attributes]
    sigma = samples.logits.std(dim=0)[columns].clamp_min(1e-12)
    scored = []
    for direction in track(directions, "Measuring the effects of directions", len(directions), console):
        logits = attribute_frames(G, direction, samples.w[:SEQUENCES], classifier)[..., columns]
        changes = ((logits[:, -1] - logits[:, 0]) / sigma).mean(dim=0)
        als = linearity(logits, sigma.double()).mean.value
        effects = {f"{EFFECT}{name}": change for name, change in zip(attributes, changes.tolist(), strict=True)}
        scored.append(dataclasses.replace(direction, scores=direction.scores | {"als": als} | effects))
    return scored
