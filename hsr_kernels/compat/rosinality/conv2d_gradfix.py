# SPDX-License-Identifier: Apache-2.0
"""op.conv2d_gradfix."""

from contextlib import AbstractContextManager

from ...conv2d import conv2d, conv_transpose2d
from ...conv2d import no_weight_gradients as _no_weight_gradients
from ..nvlabs.conv2d_gradfix import __getattr__

__all__ = ["__getattr__", "conv2d", "conv_transpose2d", "enabled", "no_weight_gradients"]

# Projects switch it on. The convolutions here have fast derivatives either way.
enabled = True


def no_weight_gradients() -> AbstractContextManager[None]:
    """`hsr_kernels.no_weight_gradients`."""
    return _no_weight_gradients()
