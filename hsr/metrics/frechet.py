# SPDX-License-Identifier: Apache-2.0
"""Frechet distance between two sets of features.

Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium"
(2017); the closed form for Gaussians is Dowson and Landau's (1982).
"""

import torch
from rich.console import Console
from torch import Tensor

from ..console import track

# Features that are reduced at a time, in multiples of their width.
CHUNK_WIDTHS = 8


def frechet_distance(features_a: Tensor, features_b: Tensor, console: Console | None = None) -> float:
    """Returns the squared 2-Wasserstein distance between Gaussians fitted to two sets of features, in float64.

    |mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)), with sample covariances.

    Args:
        features_a: [N, E], N >= 2.
        features_b: [M, E], M >= 2.
        console: Where to show the progress; None: standard output.

    Raises:
        ValueError: The shapes do not fit, or a value is not finite.
    """
    a, b = features_a, features_b
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"features must be [N, E] and [M, E] with N, M >= 2, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("features must be finite")
    mean_a, mean_b = (x.mean(dim=0, dtype=torch.float64) for x in (a, b))
    root_a, root_b = _covariance_root(a, mean_a, console), _covariance_root(b, mean_b, console)
    # tr (A'A B'B)^(1/2) is the sum of the singular values of A B': no matrix root, and right for any rank.
    nuclear = torch.linalg.svdvals(root_a @ root_b.t()).sum()
    total = (mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * nuclear
    return max(total.item(), 0.0)


def _covariance_root(x: Tensor, mean: Tensor, console: Console | None) -> Tensor:
    """Returns R [min(N, E), E], float64, with R'R = the sample covariance of x [N, E].

    Of many features it takes some at a time, so that they never stand in memory in float64 as a whole.
    """
    root = torch.zeros(0, x.shape[1], dtype=torch.float64, device=x.device)
    chunks = x.split(CHUNK_WIDTHS * x.shape[1])
    for chunk in track(chunks, "Reducing features to their covariance", len(chunks), console):
        root = torch.cat([root, (chunk - mean) / (len(x) - 1) ** 0.5])
        if len(root) > root.shape[1]:
            root = torch.linalg.qr(root, mode="r").R
    return root
