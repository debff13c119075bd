# SPDX-License-Identifier: Apache-2.0
"""Metrics: the distance of distributions and the smoothness of the latent space."""

from .frechet import frechet_distance
from .ppl import ppl_w

__all__ = ["frechet_distance", "ppl_w"]
