# SPDX-License-Identifier: Apache-2.0
"""From images and labels to the tensors that networks take."""

import torch


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Maps uint8 pixels 0..255 to float32 in [-1, 1], same shape."""
    return images.to(torch.float32) / 127.5 - 1


def one_hot(labels: torch.Tensor, num_classes: int) -> torch.Tensor | None:
    """Maps labels [N] int64 to one-hot rows [N, num_classes] float32, or to None without classes."""
    if num_classes == 0:
        return None
    # torch.nn.functional.one_hot would wait for a GPU to check the labels.
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)).to(torch.float32)
