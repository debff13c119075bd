# SPDX-License-Identifier: Apache-2.0
"""The specification of grid_sample: gathers and weights in plain PyTorch, differentiable to any order."""

import torch


def grid_sample(input: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Bilinear interpolation at `grid`, zeros outside, corners not aligned. See `hsr_kernels.grid_sample`."""
    n, c, h, w = input.shape
    size = grid.shape[1:3]
    columns, rows = _neighbours(grid[..., 0], w), _neighbours(grid[..., 1], h)
    pixels = input.reshape(n, c, h * w)
    total = input.new_zeros([n, c, *size], dtype=torch.promote_types(input.dtype, columns[0][1].dtype))
    for row, height in rows:
        for column, width in columns:
            index = (row * w + column).reshape(n, 1, size[0] * size[1]).expand(n, c, -1)
            total = total + pixels.gather(2, index).reshape_as(total) * (width * height)[:, None]
    return total.to(input.dtype)


def _neighbours(places: torch.Tensor, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The two pixels around each place along one axis, as (index, weight); outside the image the weight is 0.

    The neighbours are those at the floor and one beyond it, on pixel centres too: the derivative there is the one
    towards larger places, as PyTorch's is. Places have at least float32, whatever the pixels have.
    """
    places = places.to(torch.promote_types(places.dtype, torch.float32))
    position = ((within_reach(places) + 1) * size - 1) / 2
    left = position.detach().floor()
    fraction = position - left
    found = []
    for index, weight in ((left.long(), 1 - fraction), (left.long() + 1, fraction)):
        inside = (index >= 0) & (index < size)
        found.append((index.clamp(0, size - 1), torch.where(inside, weight, 0)))
    return found


def within_reach(places: torch.Tensor) -> torch.Tensor:
    """Places that are numbers and near the image, giving the same samples: nothing of it lies beyond -3 or 3.

    NaN stands for -1, as in PyTorch; its derivative is 0, as are those of infinite places.
    """
    return torch.where(places.isnan(), -1, places).clamp(-3, 3)
