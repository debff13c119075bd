# SPDX-License-Identifier: Apache-2.0
"""Figures of merit: distance of distributions and smoothness of the latent space."""

from .frechet import frechet_distance
from .ppl import ppl_w

__all__ = ["frechet_distance", "ppl_w"]
