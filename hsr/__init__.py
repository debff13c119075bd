# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 training with the Hierarchical Semantic Regularizer, on `hsr_kernels`."""

from pathlib import Path
from typing import TYPE_CHECKING

# PyTorch is imported only when a network is loaded, so that the command's help answers at once.
if TYPE_CHECKING:
    from .models import Generator


def load(path: "str | Path") -> "Generator":
    """Returns a generator from a file or a run folder: `hsr.interop.load_generator`."""
    from .interop import load_generator

    return load_generator(path)
