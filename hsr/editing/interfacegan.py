# SPDX-License-Identifier: Apache-2.0
"""InterFaceGAN: the normal of the plane in W that separates images with an attribute from those without.

Source: Shen et al., "InterFaceGAN: Interpreting the Disentangled Face Representation Learned by GANs" (2020): the
linear classifier and its accuracy on held-out codes, section 3.1; conditional manipulation, section 3.2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UserError
from ..models import Generator
from .directions import Direction
from .samples import Samples

# Share of the samples that the accuracy is measured on.
HELD_OUT = 0.3
# Length that must remain of a unit normal without its components along the preserved ones.
MIN_REMAINDER = 0.05


def separating_normal(w: Tensor, labels: Tensor, seed: int = 0) -> tuple[Tensor, float]:
    """Returns the unit normal [w_dim], towards codes with the attribute, and the balanced accuracy on held-out codes.

    Args:
        w: Codes [N, w_dim].
        labels: Which of them have the attribute, bool [N].
        seed: Of the choice of held-out codes.
    """
    # It is slow to import, and `hsr edit` does without it.
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import train_test_split

    # On standardised codes the penalty on weights is fair to every dimension.
    deviation = w.double().std(dim=0).clamp_min(1e-12)
    x = ((w.double() - w.double().mean(dim=0)) / deviation).numpy()
    y = labels.numpy()
    x_fit, x_held, y_fit, y_held = train_test_split(x, y, test_size=HELD_OUT, stratify=y, random_state=seed)
    classifier = LogisticRegression(class_weight="balanced", max_iter=2000).fit(x_fit, y_fit)
    normal = torch.from_numpy(classifier.coef_[0]) / deviation
    return normal / normal.norm(), float(balanced_accuracy_score(y_held, classifier.predict(x_held)))


def without_components(normal: Tensor, others: Tensor) -> Tensor:
    """Returns normal [w_dim] without its components along others [K, w_dim], at its remaining length."""
    basis = torch.linalg.qr(others.T).Q
    return normal - basis @ (basis.T @ normal)


def interfacegan_directions(
    G: Generator, samples: Samples, attributes: Sequence[str], preserved: Sequence[str] = (), seed: int = 0
) -> list[Direction]:
    """Returns a direction for each attribute, and where some are to be preserved another one that leaves them as is.

    Their scores are "accuracy", the balanced accuracy on held-out codes, and of the latter also "remainder", the length
    that was left of the normal.

    Raises:
        UserError: An attribute can't be told from those that are to be preserved.
    """
    fits = {name: separating_normal(samples.w, samples.labels(name), seed) for name in {*attributes, *preserved}}
    layers = tuple(range(G.num_ws))
    found = []
    for name in attributes:
        normal, accuracy = fits[name]
        candidates = [(f"interfacegan-{name}", normal, {"accuracy": accuracy})]
        others = [other for other in preserved if other != name]
        if others:
            rest = without_components(normal, torch.stack([fits[other][0] for other in others]))
            remainder = float(rest.norm())
            if remainder < MIN_REMAINDER:
                raise UserError(f"--preserve {','.join(others)} leaves nothing of the direction of {name}.")
            scores = {"accuracy": accuracy, "remainder": remainder}
            candidates.append((f"interfacegan-{name}-preserving-{'+'.join(others)}", rest / remainder, scores))
        for title, vector, scores in candidates:
            unit_step = float((samples.w.double() @ vector).std())
            found.append(Direction(title, "interfacegan", vector.float(), unit_step, layers, scores=scores))
    return found
