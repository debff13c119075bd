# SPDX-License-Identifier: Apache-2.0
"""How images and labels become the tensors that networks take."""

import torch


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Maps uint8 pixels 0..255 to float32 in [-1, 1], same shape."""
    return images.to(torch.float32) / 127.5 - 1


def one_hot(labels: torch.Tensor, num_classes: int) -> torch.Tensor | None:
    """Maps [N] int64 labels to the networks' [N, num_classes] float32 input, or to None without classes."""
    if num_classes == 0:
        return None
    return torch.nn.functional.one_hot(labels, num_classes).to(torch.float32)
