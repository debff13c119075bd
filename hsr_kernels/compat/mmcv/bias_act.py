# SPDX-License-Identifier: Apache-2.0
"""mmcv.ops.bias_act."""

import torch

from .. import arguments

__all__ = ["bias_act"]


def bias_act(
    input: torch.Tensor,
    bias: torch.Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    use_custom_op: bool = True,
) -> torch.Tensor:
    """`hsr_kernels.bias_act`; without a custom operator, on the reference backend."""
    with arguments.backend(not use_custom_op):
        return arguments.bias_act(input, bias, dim, act, alpha, gain, clamp)
