# SPDX-License-Identifier: Apache-2.0
"""GANSpace: the principal axes of the latent codes w.

Source: Härkönen et al., "GANSpace: Discovering Interpretable GAN Controls" (2020), section 2.
"""

import math

import torch
from torch import Tensor

from ..models import Generator
from .directions import Direction
from .layers import RANGES, layer_range


def principal_axes(w: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the first axes [K, w_dim] of codes w [N, w_dim], the variances along them and their shares, [K] each."""
    # It is slow to import, and `hsr edit` does without it.
    from sklearn.decomposition import PCA

    fitted = PCA(min(number, *w.shape), svd_solver="full").fit(w.double().numpy())
    results = fitted.components_, fitted.explained_variance_, fitted.explained_variance_ratio_
    axes, variances, ratios = map(torch.from_numpy, results)
    return axes, variances, ratios


def ganspace_directions(G: Generator, w: Tensor, number: int) -> list[Direction]:
    """Returns the first principal axes of w [N, w_dim], each for every range of layers.

    Their score "explained_variance" is the share of the variance of w along them.
    """
    axes, variances, ratios = principal_axes(w, number)
    return [
        Direction(
            f"ganspace-{i}@{name}",
            "ganspace",
            axis.float(),
            math.sqrt(variance),
            layers,
            scores={"explained_variance": ratio},
        )
        for name in RANGES
        if (layers := layer_range(G, name))
        for i, (axis, variance, ratio) in enumerate(zip(axes, variances.tolist(), ratios.tolist(), strict=True), 1)
        if variance > 0
    ]
