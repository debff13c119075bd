# SPDX-License-Identifier: Apache-2.0
"""Augmentation of the images that a discriminator sees, differentiable to second order.

Source: Karras et al., "Training Generative Adversarial Networks with Limited Data" (2020), section 2 and appendix B.

strengths   the transforms, their parameters and checks of both
pipes       transforms by the names of groups
draws       random parameters of a batch, or those at a percentile
geometry    transforms 1 to 8: one affine map, one resampling
colour      transforms 9 to 13: one matrix of colours
bands       transform 14: gains of frequency bands
corruption  transforms 15 and 16: noise and cutout
pipe        all of them in order
"""

from .pipe import AugmentPipe
from .pipes import PIPES, pipe_strengths

__all__ = ["PIPES", "AugmentPipe", "pipe_strengths"]
