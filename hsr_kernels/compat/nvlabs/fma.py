# SPDX-License-Identifier: Apache-2.0
"""torch_utils.ops.fma."""

import torch

__all__ = ["fma"]


def fma(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """a * b + c, each of which broadcasts; every order of derivative."""
    return torch.addcmul(c, a, b)
