# SPDX-License-Identifier: Apache-2.0
"""Latent codes and the attributes of their images, which directions are found in."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from torch import Tensor

from ..attributes import Classifier, classify
from ..console import track
from ..errors import UserError
from ..models import Generator
from ..tensors import one_hot

# Images that a batch of the generator and the classifier holds.
BATCH = 32
# Fewer examples of either kind say nothing about an attribute.
MIN_EXAMPLES = 20


@dataclass(frozen=True)
class Samples:
    """Random codes w [N, w_dim] and the logits [N, A] of the attributes `names`, float32 on the CPU.

    Without a classifier the attributes are the generator's classes, with logits of 1 and -1; others have none.
    """

    w: Tensor
    names: tuple[str, ...]
    logits: Tensor

    def labels(self, name: str) -> Tensor:
        """Returns which samples have an attribute, bool [N]."""
        return self.logits[:, self.names.index(name)] > 0

    def rarer_count(self, name: str) -> int:
        """Returns the number of samples that have an attribute or lack it, whichever are fewer."""
        count = int(self.labels(name).sum())
        return min(count, len(self.w) - count)


@torch.no_grad()
def draw_samples(
    G: Generator,
    classes: tuple[int, ...],
    number: int,
    *,
    classifier: Classifier | None = None,
    label: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> Samples:
    """Returns samples, without truncation: of one class, or of every class in turn.

    Args:
        classes: Labels of the generator's classes, in its order.
        number: How many.
        classifier: Labels their images; None: the classes are the attributes.
        label: Label of the only class.
        seed: Of the codes z.
        console: Shows the progress of labelling.

    Raises:
        UserError: No class has the label.
    """
    if label is not None and label not in classes:
        raise UserError(f"--label {label} is not a class of this network.")
    device = G.mapping.w_avg.device
    z = torch.randn(number, G.z_dim, generator=torch.Generator().manual_seed(seed)).to(device)
    c = None
    if classes:
        numbers = torch.arange(number) % len(classes) if label is None else torch.full((number,), classes.index(label))
        c = one_hot(numbers.to(device), len(classes))
    w = torch.cat(
        [G.mapping.map(z[i : i + 1024], None if c is None else c[i : i + 1024]) for i in range(0, number, 1024)]
    )
    if classifier is not None:
        return Samples(w.cpu(), tuple(classifier.names), _classify(G, w, classifier, console))
    if c is None or label is not None:
        return Samples(w.cpu(), (), torch.empty(number, 0))
    return Samples(w.cpu(), tuple(map(str, classes)), (2 * c - 1).cpu())


def _classify(G: Generator, w: Tensor, classifier: Classifier, console: Console | None) -> Tensor:
    """Returns the logits [N, A] of the images of codes w [N, w_dim]."""
    logits = []
    starts = range(0, len(w), BATCH)
    for start in track(starts, f"Labelling images, in batches of {BATCH}", len(starts), console):
        ws = w[start : start + BATCH, None].expand(-1, G.num_ws, -1)
        logits.append(classify(classifier, G.synthesis(ws, noise_mode="const")))
    return torch.cat(logits)


def choose_attributes(
    samples: Samples, asked: Sequence[str] | None, console: Console, option: str = "--only"
) -> list[str]:
    """Returns the attributes that `option` names, or all that enough samples have and lack where it is None.

    Raises:
        UserError: One that was asked for is unknown or too rare, or none is left.
    """
    rare = [name for name in samples.names if samples.rarer_count(name) < MIN_EXAMPLES]
    for name in asked or ():
        if name not in samples.names:
            raise UserError(f"{option} names {name}, which is not one of {', '.join(samples.names)}.")
        if name in rare:
            raise UserError(
                f"{option} names {name}, which can't be found: {samples.rarer_count(name)} of {len(samples.w)} samples "
                f"have it or lack it, and {MIN_EXAMPLES} of either kind are needed."
            )
    if asked is not None:
        return list(asked)
    if rare:
        console.print(f"No directions for {', '.join(rare)}: nearly all samples are alike in that.")
    chosen = [name for name in samples.names if name not in rare]
    if not chosen:
        raise UserError("no attribute differs between the samples, so that there is no direction to find.")
    return chosen
