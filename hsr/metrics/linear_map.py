# SPDX-License-Identifier: Apache-2.0
"""How much of some features a linear map of others tells: R^2 on samples that the map hasn't seen."""

import torch
from torch import Tensor

# Of the largest singular value: smaller ones are rounding.
RELATIVE_CUTOFF = 1e-8


def linear_r2(x: Tensor, y: Tensor, held_out_x: Tensor, held_out_y: Tensor) -> float:
    """Returns the share of the variance of held-out features that the least-squares map with an offset explains.

    It is 1 less the squared errors over the squared distances from the held-out mean, both summed over all coordinates:
    1 for an exact map, about 0 for one that tells nothing, and less if it misleads. NaN where nothing varies.

    Args:
        x: [N, C] features to fit the map to.
        y: [N, D] what it is to predict.
        held_out_x: [M, C] features to judge it by.
        held_out_y: [M, D] what it should predict.

    Raises:
        ValueError: The shapes do not fit.
    """
    shapes = [tuple(tensor.shape) for tensor in (x, y, held_out_x, held_out_y)]
    fits = all(len(shape) == 2 for shape in shapes) and len(x) == len(y) and len(held_out_x) == len(held_out_y)
    if not fits or x.shape[1] != held_out_x.shape[1] or y.shape[1] != held_out_y.shape[1]:
        raise ValueError(f"x and held_out_x must be [N, C], y and held_out_y [N, D], got {shapes}")
    x, y, held_out_x, held_out_y = (tensor.double().cpu() for tensor in (x, y, held_out_x, held_out_y))
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    # Coordinates that don't vary leave the system without a single solution: the shortest is taken.
    solution = torch.linalg.lstsq(x - mean_x, y - mean_y, rcond=RELATIVE_CUTOFF, driver="gelsd").solution
    errors = (held_out_x - mean_x) @ solution + mean_y - held_out_y
    spread = (held_out_y - held_out_y.mean(dim=0)).square().sum()
    return (1 - errors.square().sum() / spread).item() if spread > 0 else float("nan")
