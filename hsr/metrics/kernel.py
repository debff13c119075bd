# SPDX-License-Identifier: Apache-2.0
"""Kernel distance between two sets of features.

Source: Binkowski et al., "Demystifying MMD GANs" (2018), the kernel inception distance for any features; the unbiased
estimate is Gretton et al.'s, "A Kernel Two-Sample Test" (2012), lemma 6.
"""

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ..console import track


def kernel_distance(
    features_a: Tensor,
    features_b: Tensor,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
    console: Console | None = None,
) -> tuple[float, float]:
    """Returns the mean and the standard deviation, over random subsets, of the squared maximum mean discrepancy.

    The estimate is unbiased, and so below zero at times; the kernel is (x.y / E + 1)^3; float64.

    Args:
        features_a: [N, E], N >= 2.
        features_b: [M, E], M >= 2.
        subsets: Number of subsets.
        subset_size: Features of either set in a subset, without repetition (fewer where a set is smaller).
        seed: Seed of the subsets.
        console: Where to show the progress; None: standard output.

    Raises:
        ValueError: The shapes do not fit, a value is not finite, or there is no subset or none of two features.
    """
    a, b = features_a, features_b
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"features must be [N, E] and [M, E] with N, M >= 2, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"subsets must be at least 1 and subset_size 2, got {subsets} and {subset_size}")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("features must be finite")
    size = min(subset_size, len(a), len(b))
    rng = np.random.default_rng(seed)
    distances = []
    for _ in track(range(subsets), "Comparing subsets of features", subsets, console):
        rows_a, rows_b = (torch.from_numpy(rng.choice(len(x), size, replace=False)).to(x.device) for x in (a, b))
        distances.append(_squared_discrepancy(a[rows_a].double(), b[rows_b].double()))
    values = torch.stack(distances)
    return values.mean().item(), values.std(correction=0).item()


def _squared_discrepancy(a: Tensor, b: Tensor) -> Tensor:
    """Returns the unbiased squared maximum mean discrepancy of a and b, both [N, E]."""
    size = len(a)
    # A feature's product with itself would bias the means within a set.
    within = sum(_kernel(x, x).fill_diagonal_(0).sum() for x in (a, b)) / (size * (size - 1))
    return within - 2 * _kernel(a, b).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    base = x @ y.t() / x.shape[1] + 1
    # A power takes ten times as long.
    return base * base * base
