# SPDX-License-Identifier: Apache-2.0
"""Linear separability: how much of an attribute a hyperplane in the latent space tells.

Source: Karras et al., "A Style-Based Generator Architecture for Generative Adversarial Networks" (2019), section 4.2.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ..console import track
from ..ranks import Ranks

# Share of the images that are kept on each side, those that the classifier is surest of.
KEPT_FRACTION = 0.5
NUM_FOLDS = 2


@dataclass(frozen=True)
class Separability:
    """The separability of attributes.

    Attributes:
        value: exp of the sum over attributes of `entropies`: 1 if hyperplanes tell all of them. Lower is better.
        entropies: [A]: the entropy in nats of an attribute given the side of its hyperplane that a code lies on.
        shares: [A]: the share of the kept images that have the attribute. Where only one or none have or lack it,
            nothing is to be told, and the entropy is 0.
    """

    value: float
    entropies: Tensor
    shares: Tensor


def linear_separability(
    latents: Tensor,
    logits: Tensor,
    *,
    seed: int = 0,
    console: Console | None = None,
    ranks: Ranks | None = None,
) -> Separability:
    """Returns how well linear support vector machines tell attributes of images from their latent codes.

    For each attribute, the half of the images that a classifier is surest of is kept, and a support vector machine
    learns their classes from the codes, each coordinate of which is standardised. Two things differ from what is
    published: halves are taken of the images with the attribute and of those without it, as a rare attribute would
    vanish; and a machine is judged on codes that it hasn't learned from, as it would tell all of a few codes apart.
    For 100,000 codes and even attributes neither makes a difference.

    Args:
        latents: [N, L] codes.
        logits: [N, A] a classifier's scores of the images; positive ones mean that an image has the attribute.
        seed: Seed of the solver.
        console: Where to show the progress; None: standard output.
        ranks: The processes that share the attributes, all with the same codes; None: this one learns them all.

    Raises:
        ValueError: The shapes do not fit.
    """
    if latents.ndim != 2 or logits.ndim != 2 or not len(latents) == len(logits) >= 2 or logits.shape[1] < 1:
        raise ValueError(
            f"latents must be [N, L] and logits [N, A], N >= 2, A >= 1, got {tuple(latents.shape)} and "
            f"{tuple(logits.shape)}"
        )
    ranks = Ranks(latents.device) if ranks is None else ranks
    codes = latents.double().cpu().numpy()
    columns = ranks.share(list(logits.double().cpu().numpy().T))
    found = [
        _separate(codes, scores, seed % 2**32)
        for scores in track(columns, "Separating attributes", len(columns), console)
    ]
    entropies, shares = zip(*ranks.gather(found), strict=True)
    return Separability(math.exp(math.fsum(entropies)), torch.tensor(entropies), torch.tensor(shares))


def _separate(codes: np.ndarray, scores: np.ndarray, seed: int) -> tuple[float, float]:
    """Returns an attribute's entropy given the side of its hyperplane, and the share of kept images that have it.

    Args:
        codes: [N, L] codes.
        scores: [N] a classifier's scores of the images.
        seed: Seed of the solver.
    """
    # It is slow to import, and training does without it.
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    kept = np.concatenate([_surest(scores, side) for side in (scores > 0, scores <= 0)])
    has_attribute = scores[kept] > 0
    share = float(has_attribute.mean())
    if min(has_attribute.sum(), (~has_attribute).sum()) < NUM_FOLDS:
        return 0.0, share
    machine = make_pipeline(StandardScaler(), LinearSVC(dual=False, random_state=seed))
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed)
    guesses = cross_val_predict(machine, codes[kept], has_attribute, cv=folds)
    return conditional_entropy(has_attribute, guesses), share


def _surest(scores: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Returns the positions of those images on a side [N] whose scores [N] are farthest from 0."""
    positions = np.flatnonzero(side)
    order = np.argsort(-np.abs(scores[positions]), kind="stable")
    return positions[order[: round(KEPT_FRACTION * len(positions))]]


def conditional_entropy(outcome: np.ndarray, given: np.ndarray) -> float:
    """Returns the entropy in nats of a yes or no [N], given another one [N]."""
    total = 0.0
    for side in (False, True):
        of_side = outcome[given == side]
        if len(of_side) == 0:
            continue
        for share in (of_side.mean(), 1 - of_side.mean()):
            if share > 0:
                total -= len(of_side) / len(outcome) * share * math.log(share)
    return float(total)
