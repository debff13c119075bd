# SPDX-License-Identifier: Apache-2.0
"""What the GPU backends of a modulated layer share: vectors and maps as kernels read them, partial sums added up."""

import torch


def per_sample(partial: torch.Tensor) -> torch.Tensor:
    """Partial sums [..., parts, C] added up to [..., C]."""
    return partial.squeeze(-2) if partial.shape[-2] == 1 else partial.sum(-2, dtype=torch.float64).float()


def per_pixel(partial: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """Sums over blocks of channels [blocks, N, 1, H, W] added up, or an empty tensor for None."""
    if partial is None:
        return like.new_empty(0)
    return partial[0] if partial.shape[0] == 1 else partial.sum(0)


def as_float(vector: torch.Tensor | None) -> torch.Tensor | None:
    """As the kernels read vectors."""
    return None if vector is None else vector.float().contiguous()


def stride_of(noise: torch.Tensor | None, hw: int) -> int:
    """Between the samples of a noise map."""
    return 0 if noise is None or noise.shape[0] == 1 else hw
