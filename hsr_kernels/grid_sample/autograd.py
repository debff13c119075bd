# SPDX-License-Identifier: Apache-2.0
"""PyTorch's grid_sample with the second derivative that it lacks."""

import torch
import torch.nn.functional as F

from . import reference


def _sample(input, grid):
    return F.grid_sample(input, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class GridSample(torch.autograd.Function):
    """y = sample(input, grid)."""

    @staticmethod
    def forward(ctx, input, grid):
        ctx.save_for_backward(input, grid)
        return _sample(input, grid)

    @staticmethod
    def backward(ctx, dy):
        input, grid = ctx.saved_tensors
        dinput, dgrid = GridSampleBackward.apply(dy, input, grid, ctx.needs_input_grad)
        return dinput, dgrid


class GridSampleBackward(torch.autograd.Function):
    """(dinput, dgrid) from dy; linear in dy."""

    @staticmethod
    def forward(ctx, dy, input, grid, needs):
        ctx.save_for_backward(dy, input, grid)
        ctx.needs = needs
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_(need) for t, need in zip((input, grid), needs, strict=True)]
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            found = iter(torch.autograd.grad(_sample(*leaves), wanted, dy))
        return tuple(next(found) if need else None for need in needs)

    @staticmethod
    def backward(ctx, ddinput, ddgrid):
        dy, input, grid = ctx.saved_tensors
        if not ctx.needs[1] and not ctx.needs_input_grad[2]:
            # dinput doesn't depend on input, and its transpose with respect to dy is sampling itself.
            return GridSample.apply(ddinput, grid), None, None, None
        return (*_second_order(dy, input, grid, ctx.needs, (ddinput, ddgrid)), None)


def _second_order(dy, input, grid, needs, cotangents):
    """Derivatives of GridSampleBackward through the reference, which can be differentiated again."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        args = [dy, input, grid]
        if not create_graph:
            args = [t.detach().requires_grad_() for t in args]
        args = [t if t.requires_grad else t.detach().requires_grad_() for t in args]
        dy, input, grid = args
        wanted = [t for t, need in zip((input, grid), needs, strict=True) if need]
        given = [t for t, need in zip(cotangents, needs, strict=True) if need]
        first = torch.autograd.grad(reference.grid_sample(input, grid), wanted, dy, create_graph=True)
        return torch.autograd.grad(first, args, given, create_graph=create_graph, materialize_grads=True)


grid_sample = GridSample.apply
