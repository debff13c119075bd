# SPDX-License-Identifier: Apache-2.0
"""torch_utils.ops.conv2d_gradfix."""

from typing import Any

from ...conv2d import conv2d, conv_transpose2d, no_weight_gradients
from ...conv2d.weight_gradients import weight_gradients_disabled as _weight_gradients_disabled

__all__ = ["conv2d", "conv_transpose2d", "enabled", "no_weight_gradients"]

# Projects switch it on. The convolutions here have fast derivatives either way.
enabled = True


def __getattr__(name: str) -> Any:
    if name == "weight_gradients_disabled":
        return _weight_gradients_disabled()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
