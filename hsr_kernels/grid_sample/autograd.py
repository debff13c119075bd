# SPDX-License-Identifier: Apache-2.0
"""PyTorch's grid_sample with the second derivative that it lacks, and with positions that 16 bits can't hold."""

import torch

from .._dispatch.functions import Function, is_batched
from . import reference

# Of PyTorch's kernels: bilinear, zeros outside, corners not aligned.
_MODE = (0, 0, False)


def _prepared(input: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and grid as PyTorch's kernels take them: in one dtype, of more than 16 bits, which hold no position."""
    dtype = torch.promote_types(torch.promote_types(input.dtype, grid.dtype), torch.float32)
    return _in_front(input.to(dtype)), _in_front(reference.within_reach(grid.to(dtype)))


def _in_front(x: torch.Tensor) -> torch.Tensor:
    """x itself; under vmap with its batch in front, as the kernels' batching rules go wrong where batches differ."""
    return x.view_as(x) if is_batched(x) else x


@Function
class GridSample(torch.autograd.Function):
    """y = sample(input, grid)."""

    @staticmethod
    def forward(input, grid):
        pixels, places = _prepared(input, grid)
        return torch.ops.aten.grid_sampler_2d(pixels, places, *_MODE).to(input.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dy):
        return GridSampleBackward.apply(dy, *ctx.saved_tensors, *ctx.needs_input_grad)


@Function
class GridSampleBackward(torch.autograd.Function):
    """(dinput, dgrid) from dy, each empty unless needed; linear in dy."""

    @staticmethod
    def forward(dy, input, grid, needs_dinput, needs_dgrid):
        pixels, places = _prepared(input, grid)
        # The gradient of the grid always comes along: PyTorch's kernel has no way to leave it out.
        dinput, dgrid = torch.ops.aten.grid_sampler_2d_backward(
            _in_front(dy.to(places.dtype)), pixels, places, *_MODE, (needs_dinput, True)
        )
        dinput = dinput.to(input.dtype) if needs_dinput else input.new_empty(0)
        # NaN is sampled at a place of its own, on which nothing depends.
        return dinput, dgrid.masked_fill(grid.isnan(), 0).to(grid.dtype) if needs_dgrid else grid.new_empty(0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        dy, input, grid, *ctx.needs = inputs
        ctx.save_for_backward(dy, input, grid)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, ddinput, ddgrid):
        dy, input, grid = ctx.saved_tensors
        given = [dd for dd, need in zip((ddinput, ddgrid), ctx.needs, strict=True) if need and dd is not None]
        if not given:
            return (None,) * 5
        if ddgrid is None and not ctx.needs_input_grad[2]:
            # dinput doesn't depend on input, and its transpose with respect to dy is sampling itself.
            return GridSample.apply(ddinput, grid), None, None, None, None
        asked = [i for i, dd in ((1, ddinput), (2, ddgrid)) if dd is not None]

        def first_order(*args: torch.Tensor) -> tuple[torch.Tensor, ...]:
            """Those of (dinput, dgrid) that cotangents are given for, as plain PyTorch."""
            pull = torch.func.vjp(reference.grid_sample, *args[1:])[1]
            found = pull(args[0])
            return tuple(found[i - 1] for i in asked)

        pull = torch.func.vjp(first_order, dy, input, grid)[1]
        return *pull(tuple(given)), None, None


grid_sample = GridSample.apply
