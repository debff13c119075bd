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


def _neighbours(coordinates: torch.Tensor, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Returns the two pixels around each coordinate along one axis, as (index, weight); weights outside are 0.

    The neighbours are the pixel at the floor and the next one, on pixel centres too: the derivative there is the one
    towards larger coordinates, as PyTorch's is. Positions have at least float32, whatever the pixels have.
    """
    coordinates = coordinates.to(torch.promote_types(coordinates.dtype, torch.float32))
    position = ((limit_coordinates(coordinates) + 1) * size - 1) / 2
    left = position.detach().floor()
    fraction = position - left
    neighbours = []
    for index, weight in ((left.long(), 1 - fraction), (left.long() + 1, fraction)):
        in_image = (index >= 0) & (index < size)
        neighbours.append((index.clamp(0, size - 1), torch.where(in_image, weight, 0)))
    return neighbours


def limit_coordinates(coordinates: torch.Tensor) -> torch.Tensor:
    """Returns finite coordinates near the image that give the same samples: beyond -3 and 3 everything is 0.

    NaN stands for -1, as in PyTorch. Its derivative is 0, and so are those of infinite coordinates.
    """
    return torch.where(coordinates.isnan(), -1, coordinates).clamp(-3, 3)
