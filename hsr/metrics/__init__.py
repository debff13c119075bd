# SPDX-License-Identifier: Apache-2.0
"""Metrics: the distance of distributions, and the smoothness and linearity of the latent space.

frechet, kernel, manifold   generated features against real ones
path_length                 perceptual path length, on four kinds of paths
linearity                   Attribute Linearity Score
separability                linear separability
linear_map                  how well some features predict others
estimate                    means with intervals
exact                       the precision that all of them compute in
"""

from .estimate import Estimate
from .frechet import frechet_distance
from .kernel import kernel_distance
from .linear_map import linear_r2
from .linearity import Linearity, frame_sigma, linearity
from .manifold import manifold_metrics
from .path_length import (
    PATHS,
    end_distances,
    path_length_estimate,
    path_lengths,
    perceptual_distance,
    relative_path_length,
    trimmed_mean,
)
from .separability import Separability, linear_separability

__all__ = [
    "PATHS",
    "Estimate",
    "Linearity",
    "Separability",
    "end_distances",
    "frame_sigma",
    "frechet_distance",
    "kernel_distance",
    "linear_r2",
    "linear_separability",
    "linearity",
    "manifold_metrics",
    "path_length_estimate",
    "path_lengths",
    "perceptual_distance",
    "relative_path_length",
    "trimmed_mean",
]
