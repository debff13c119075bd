# SPDX-License-Identifier: Apache-2.0
"""Logistic classifiers of attributes, on an encoder's features."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ..console import track
from ..errors import UserError
from .table import AttributeTable

# Balanced accuracy on held-out images below which a classifier isn't used; 0.5 is that of guessing.
MINIMUM_ACCURACY = 0.75
NUM_FOLDS = 3
# Of scikit-learn: the inverse of the strength of the L2 penalty on standardised features. Features are hundreds, and
# examples of a rare attribute tens, so the penalty is strong.
INVERSE_PENALTY = 0.01
MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class LogisticHeads:
    """Classifiers of attributes, each a hyperplane in the space of features.

    Attributes:
        names: Names of the A attributes.
        accuracies: Of each, the balanced accuracy on held-out images, of classifiers that were fitted to the others.
        weight: [A, E].
        bias: [A].
    """

    names: tuple[str, ...]
    accuracies: tuple[float, ...]
    weight: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """Maps features [N, E] to logits [N, A]: positive ones mean that an image has the attribute."""
        return features @ self.weight.to(features).t() + self.bias.to(features)


def fit_heads(
    features: Tensor,
    table: AttributeTable,
    *,
    minimum_accuracy: float = MINIMUM_ACCURACY,
    seed: int = 0,
    log: Callable[[str], None] = print,
    console: Console | None = None,
) -> LogisticHeads:
    """Fits a classifier to each attribute, and keeps those that are right on images that they haven't seen.

    Each image is held out once, in one of three folds; images of one group, such as the same drawing in several
    colours, together. Both classes weigh alike, however rare one is. The classifiers that are returned are fitted to
    all images.

    Args:
        features: [N, E] features of the images.
        table: Their attributes.
        minimum_accuracy: Balanced accuracy on held-out images that a classifier must have.
        seed: Seed of the folds.
        log: Takes a sentence on the classifiers that are left out.
        console: Where to show the progress; None: standard output.

    Raises:
        UserError: No classifier is right often enough.
    """
    x = features.double().cpu().numpy()
    found: list[tuple[str, float, np.ndarray, float]] = []
    refused: list[str] = []
    columns = list(zip(table.names, table.values.numpy().T, strict=True))
    for name, values in track(columns, "Fitting classifiers of attributes", len(columns), console):
        known = ~np.isnan(values)
        y, groups = values[known] > 0.5, table.groups[known]
        accuracy = _held_out_accuracy(x[known], y, groups, seed)
        if accuracy is None:
            refused.append(f"{name} (too few groups of images have or lack it)")
            continue
        if accuracy < minimum_accuracy:
            refused.append(f"{name} ({accuracy:.0%})")
            continue
        found.append((name, accuracy, *_hyperplane(x[known], y)))
    if refused:
        log(
            f"{len(refused)} of {len(columns)} attributes are left out, as their classifiers aren't right on "
            f"{minimum_accuracy:.0%} of held-out images (balanced): {', '.join(refused)}."
        )
    if not found:
        raise UserError(
            f"No attribute can be told from these features: of {len(columns)} classifiers none is right on "
            f"{minimum_accuracy:.0%} of held-out images (balanced); choose another network of features."
        )
    names, accuracies, weights, biases = zip(*found, strict=True)
    weight = torch.from_numpy(np.stack(weights)).float()
    return LogisticHeads(names, accuracies, weight, torch.tensor(biases, dtype=torch.float32))


def _held_out_accuracy(x: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int) -> float | None:
    """Returns the balanced accuracy on held-out images; None where a fold would lack one of the classes."""
    # It is slow to import, and training does without it.
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if any(len(np.unique(groups[y == side])) < NUM_FOLDS for side in (False, True)):
        return None
    guesses = np.zeros_like(y)
    # Where each image is a group of its own, the plain folds are the same thing without a loop over groups.
    is_grouped = len(np.unique(groups)) < len(groups)
    kind = StratifiedGroupKFold if is_grouped else StratifiedKFold
    folds = kind(NUM_FOLDS, shuffle=True, random_state=seed % 2**32)
    for seen, held_out in folds.split(x, y, groups if is_grouped else None):
        if len(np.unique(y[seen])) < 2:
            return None
        weight, bias = _hyperplane(x[seen], y[seen])
        guesses[held_out] = x[held_out] @ weight + bias > 0
    return float(balanced_accuracy_score(y, guesses))


def _hyperplane(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the weight [E] and the bias of a classifier for features x [N, E] as they are."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=MAX_ITERATIONS)
    model.fit(scaler.transform(x), y)
    weight = model.coef_[0] / scaler.scale_
    return weight, float(model.intercept_[0] - weight @ scaler.mean_)
