# SPDX-License-Identifier: Apache-2.0
"""Metrics: the distance of distributions and the smoothness of the latent space."""

from .frechet import frechet_distance
from .manifold import manifold_metrics
from .ppl import ppl_w

__all__ = ["frechet_distance", "manifold_metrics", "ppl_w"]
