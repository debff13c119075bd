# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 generator and discriminator on the operators of `hsr_kernels`."""

from .discriminator import Discriminator
from .generator import Generator

__all__ = ["Discriminator", "Generator"]
