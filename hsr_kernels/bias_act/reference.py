# SPDX-License-Identifier: Apache-2.0
"""The specification of bias_act: plain PyTorch, differentiable to any order."""

import torch
import torch.nn.functional as F

from .activations import Epilogue


def bias_act(x: torch.Tensor, b: torch.Tensor | None, dim: int, epilogue: Epilogue) -> torch.Tensor:
    """clamp(act(x + b) * gain), the bias along dimension `dim`."""
    if b is not None:
        x = x + b.to(x.dtype).reshape([-1 if d == dim else 1 for d in range(x.ndim)])
    x = epilogue.activation.function(x, epilogue.alpha)
    if epilogue.gain != 1:
        x = x * epilogue.gain
    if epilogue.clamp >= 0:
        # Not clamp, whose gradient is 1 on the limit itself: an output there may have been cut.
        x = F.hardtanh(x, -epilogue.clamp, epilogue.clamp)
    return x
