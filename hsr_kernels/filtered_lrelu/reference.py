# SPDX-License-Identifier: Apache-2.0
"""The specification of filtered_lrelu in plain PyTorch, differentiable to any order."""

import torch

from ..bias_act import reference as _bias_act
from ..bias_act.activations import Epilogue
from ..upfirdn2d import reference as _upfirdn2d
from .geometry import Resamplings


def filtered_lrelu(
    x: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    b: torch.Tensor | None,
    resamplings: Resamplings,
    epilogue: Epilogue,
) -> torch.Tensor:
    """Adds the bias, upsamples with fu, applies the leaky ReLU of `epilogue`, downsamples with fd."""
    if b is not None:
        x = x + b.to(x.dtype)[:, None, None]
    x = _upfirdn2d.upfirdn2d(x, fu, resamplings.up)
    x = _bias_act.bias_act(x, None, 0, epilogue)
    return _upfirdn2d.upfirdn2d(x, fd, resamplings.down)
