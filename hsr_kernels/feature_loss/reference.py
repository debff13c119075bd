# SPDX-License-Identifier: Apache-2.0
"""The specification of feature_projection_loss: plain PyTorch, differentiable to any order."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

Head = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def feature_projection_loss(
    features: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    heads: Sequence[Head],
    hidden_gain: float,
) -> torch.Tensor:
    """Per scale: mean of (area_resize(w2 @ (relu(w1 @ x + b1) * hidden_gain) + b2, T) - target)^2."""
    scales = zip(features, targets, heads, strict=True)
    return torch.stack([scale_loss(x, target, head, hidden_gain) for x, target, head in scales])


def scale_loss(x: torch.Tensor, target: torch.Tensor, head: Head, hidden_gain: float) -> torch.Tensor:
    """The loss of one scale, in float32 (float64 for float64 features)."""
    w1, b1, w2, b2 = (t.to(x.dtype) for t in head)
    hidden = F.relu(F.conv2d(x, w1[:, :, None, None], b1)) * hidden_gain
    projected = F.adaptive_avg_pool2d(F.conv2d(hidden, w2[:, :, None, None], b2), (target.shape[2], target.shape[3]))
    dtype = torch.promote_types(x.dtype, torch.float32)
    return (projected.to(dtype) - target.detach().to(dtype)).square().mean()
