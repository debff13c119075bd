# SPDX-License-Identifier: Apache-2.0
"""PyTorch's grid_sample with the second derivative that it lacks, and with positions in more than 16 bits."""

import torch

from .._dispatch.functions import Function, is_batched
from . import reference

# Arguments of PyTorch's kernels: bilinear interpolation, zeros outside, corners not aligned.
_MODE = (0, 0, False)


def _cast(input: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns images and grid as PyTorch's kernels take them: in one dtype, which has more than 16 bits.

    16 bits are too few for a position in an image.
    """
    dtype = torch.promote_types(torch.promote_types(input.dtype, grid.dtype), torch.float32)
    return _move_batch_to_front(input.to(dtype)), _move_batch_to_front(reference.limit_coordinates(grid.to(dtype)))


def _move_batch_to_front(x: torch.Tensor) -> torch.Tensor:
    """Returns x, under vmap with its batch in front: the kernels' batching rules are wrong where batches differ."""
    return x.view_as(x) if is_batched(x) else x


@Function
class GridSample(torch.autograd.Function):
    """y = sample(input, grid)."""

    @staticmethod
    def forward(input, grid):
        pixels, coordinates = _cast(input, grid)
        return torch.ops.aten.grid_sampler_2d(pixels, coordinates, *_MODE).to(input.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dy):
        gradients = GridSampleBackward.apply(dy, *ctx.saved_tensors, *ctx.needs_input_grad)
        return tuple(g if need else None for g, need in zip(gradients, ctx.needs_input_grad, strict=True))


@Function
class GridSampleBackward(torch.autograd.Function):
    """(dinput, dgrid) from dy, each empty unless needed; linear in dy."""

    @staticmethod
    def forward(dy, input, grid, needs_dinput, needs_dgrid):
        pixels, coordinates = _cast(input, grid)
        # The gradient of the grid always comes along: PyTorch's kernel has no way to leave it out.
        dinput, dgrid = torch.ops.aten.grid_sampler_2d_backward(
            _move_batch_to_front(dy.to(coordinates.dtype)), pixels, coordinates, *_MODE, (needs_dinput, True)
        )
        dinput = dinput.to(input.dtype) if needs_dinput else input.new_empty(0)
        # NaN is sampled at a constant coordinate.
        return dinput, dgrid.masked_fill(grid.isnan(), 0).to(grid.dtype) if needs_dgrid else grid.new_empty(0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        dy, input, grid, *ctx.needs = inputs
        ctx.save_for_backward(dy, input, grid)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, ddinput, ddgrid):
        dy, input, grid = ctx.saved_tensors
        cotangents = [dd for dd, need in zip((ddinput, ddgrid), ctx.needs, strict=True) if need and dd is not None]
        if not cotangents:
            return (None,) * 5
        if ddgrid is None and not ctx.needs_input_grad[2]:
            # dinput doesn't depend on input, and its transpose with respect to dy is sampling itself.
            return GridSample.apply(ddinput, grid), None, None, None, None
        indices = [i for i, dd in enumerate((ddinput, ddgrid)) if dd is not None]

        def first_order(*args: torch.Tensor) -> tuple[torch.Tensor, ...]:
            """Returns those of (dinput, dgrid) that have cotangents, computed in plain PyTorch."""
            vjp = torch.func.vjp(reference.grid_sample, *args[1:])[1]
            gradients = vjp(args[0])
            return tuple(gradients[i] for i in indices)

        vjp = torch.func.vjp(first_order, dy, input, grid)[1]
        return *vjp(tuple(cotangents)), None, None


grid_sample = GridSample.apply
