# SPDX-License-Identifier: Apache-2.0
"""Precision, recall, density and coverage of generated features with respect to real ones.

Source: precision and recall from Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative
Models" (2019), with 3 neighbours; density and coverage from Naeem et al., "Reliable Fidelity and Diversity Metrics for
Generative Models" (2020), with 5.
"""

import torch
from torch import Tensor

PRECISION_NEIGHBOURS = 3
COVERAGE_NEIGHBOURS = 5
# Rows of a matrix of distances that are computed at a time.
CHUNK_ROWS = 1024


def manifold_metrics(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Returns "precision", "recall", "density" and "coverage", in float64.

    A set's manifold is the union of balls around its features, each reaching to the feature's k-th neighbour in its
    own set (fewer where the set is smaller). Precision is the share of fakes on the real manifold, recall that of reals
    on the fake one; density the mean number of real balls that hold a fake, over k; coverage the share of real
    balls that hold a fake.

    Args:
        real: [N, E], N >= 2.
        fake: [M, E], M >= 2.

    Raises:
        ValueError: The shapes do not fit.
    """
    real, fake = real.double(), fake.double()
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise ValueError(
            f"features must be [N, E] and [M, E] with N, M >= 2, got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    k = min(COVERAGE_NEIGHBOURS, len(real) - 1)
    real_radii = _radii(real, PRECISION_NEIGHBOURS)
    fake_radii = _radii(fake, PRECISION_NEIGHBOURS)
    coverage_radii = _radii(real, COVERAGE_NEIGHBOURS)
    is_on_real = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    balls = torch.zeros([], dtype=torch.float64, device=fake.device)
    recalled, covered = [], []
    for start in range(0, len(real), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        distances = _distances(real[rows], fake)
        is_on_real |= (distances <= real_radii[rows, None]).any(dim=0)
        recalled.append((distances <= fake_radii).any(dim=1))
        inside = distances <= coverage_radii[rows, None]
        balls += inside.sum()
        covered.append(inside.any(dim=1))
    return {
        "precision": is_on_real.double().mean().item(),
        "recall": torch.cat(recalled).double().mean().item(),
        "density": (balls / (k * len(fake))).item(),
        "coverage": torch.cat(covered).double().mean().item(),
    }


def _radii(features: Tensor, neighbours: int) -> Tensor:
    """Returns the distance of each feature [N, E] to its k-th neighbour in the set, [N]."""
    k = min(neighbours, len(features) - 1)
    chunks = features.split(CHUNK_ROWS)
    # The nearest one is the feature itself.
    return torch.cat([_distances(chunk, features).kthvalue(k + 1, dim=1).values for chunk in chunks])


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # The faster form, a matrix product, cancels digits where features are close together.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
