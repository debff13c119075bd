# SPDX-License-Identifier: Apache-2.0
"""Frechet distance between two sets of features.

Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium"
(2017); the closed form for Gaussians is Dowson and Landau's (1982).
"""

import torch
from torch import Tensor


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Returns the squared 2-Wasserstein distance between Gaussians fitted to two sets of features, in float64.

    |mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)), with sample covariances.

    Args:
        features_a: [N, E], N >= 2.
        features_b: [M, E], M >= 2.

    Raises:
        ValueError: The shapes do not fit, or a value is not finite.
    """
    a, b = features_a.double(), features_b.double()
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"features must be [N, E] and [M, E] with N, M >= 2, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("features must be finite")
    mean_term = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    centred_a = (a - a.mean(dim=0)) / (len(a) - 1) ** 0.5
    centred_b = (b - b.mean(dim=0)) / (len(b) - 1) ** 0.5
    # tr (A'A B'B)^(1/2) is the sum of the singular values of A B': no matrix root, and right for any rank.
    nuclear = torch.linalg.svdvals(_compact(centred_a) @ _compact(centred_b).t()).sum()
    total = mean_term + centred_a.square().sum() + centred_b.square().sum() - 2 * nuclear
    return max(total.item(), 0.0)


def _compact(x: Tensor) -> Tensor:
    """Returns a factor R [min(N, E), E] with R'R = x'x."""
    return x if x.shape[0] <= x.shape[1] else torch.linalg.qr(x, mode="r").R
