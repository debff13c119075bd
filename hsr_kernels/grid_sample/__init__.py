# SPDX-License-Identifier: Apache-2.0
"""Bilinear sampling at given coordinates, twice differentiable.

reference   the specification, in plain PyTorch
autograd    PyTorch's own kernels with the second derivative that they lack
"""

import torch

from .. import _checks
from .._dispatch import operators
from . import autograd, reference

# The Function adds the missing second derivative to PyTorch's own kernels.
_operator = operators.register_of_pytorch("grid_sample", reference.grid_sample, autograd.grid_sample)


def grid_sample(input: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Samples images bilinearly; zeros outside; align_corners=False.

    Args:
        input: Images [N, C, H, W], float32, float16, bfloat16 or float64.
        grid: Coordinates [N, H', W', 2] as (x, y), the image spanning [-1, 1]; of any of these dtypes. Positions are
            computed in float32 at least, whatever the dtypes. NaN means -1; infinite coordinates are outside.

    Returns:
        [N, C, H', W'] in the dtype of input; under autocast in PyTorch's for this operator: float32 on the CPU, the
        wider of both dtypes on CUDA.

    Raises:
        TypeError, ValueError: An argument of the wrong type, shape, dtype or device.

    Derivatives: every order, with respect to input and grid. Bilinear interpolation has kinks at pixel centres: the
    derivative there is that towards larger x and y.

    Source: torch.nn.functional.grid_sample, whose backward has no derivative.
    """
    _checks.tensor("input", input, ndim=4)
    _checks.tensor("grid", grid, ndim=4)
    _checks.same_device("input", input, grid=grid)
    if grid.shape[0] != input.shape[0] or grid.shape[3] != 2:
        raise ValueError(f"grid must have shape [{input.shape[0]}, H', W', 2], got {list(grid.shape)}")
    if 0 in input.shape[1:]:
        raise ValueError(f"input must have pixels and channels, got shape {list(input.shape)}")
    if _checks.autocast_is_on(input.device):
        min_dtype = torch.float32 if input.device.type == "cpu" else grid.dtype
        input = input.to(torch.promote_types(input.dtype, min_dtype))
    return _operator.run(_operator.choose(input), input.device, input, grid)
