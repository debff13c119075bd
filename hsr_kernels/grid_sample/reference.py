# SPDX-License-Identifier: Apache-2.0
"""The specification of grid_sample: gathers and weights in plain PyTorch, differentiable to any order."""

import torch


def grid_sample(input: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Bilinear interpolation at `grid`, zeros outside, corners not aligned. See `hsr_kernels.grid_sample`."""
    n, c, h, w = input.shape
    x = ((grid[..., 0] + 1) * w - 1) / 2
    y = ((grid[..., 1] + 1) * h - 1) / 2
    left, top = x.detach().floor(), y.detach().floor()
    pixels = input.reshape(n, c, h * w)
    total = input.new_zeros([n, c, *grid.shape[1:3]])
    for dy in (0, 1):
        for dx in (0, 1):
            column, row = left + dx, top + dy
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            index = (row.clamp(0, h - 1) * w + column.clamp(0, w - 1)).long()
            value = pixels.gather(2, index.reshape(n, 1, grid.shape[1] * grid.shape[2]).expand(n, c, -1)).reshape_as(
                total
            )
            total = total + value * (weight * inside)[:, None].to(input.dtype)
    return total
