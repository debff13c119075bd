# SPDX-License-Identifier: Apache-2.0
"""Native CPU kernels of bias_act: any dense layout, one pass each."""

import math

import torch

from .. import _native
from .._registry import DTYPE_CODES, address, define, laid_out_like


def _dense(x: torch.Tensor) -> torch.Tensor:
    """`x` without gaps or overlaps, in its own order of dimensions; copied only where it has some."""
    model = torch.empty_like(x, device="meta")
    return laid_out_like(x, model)


def _walk(x: torch.Tensor, dim: int) -> tuple[int, int, int]:
    """The dense tensor `x` as [outer, channels, inner] in memory order, channels being dimension `dim`."""
    if x.ndim == 0 or x.numel() == 0:
        return (1, 1, 1) if x.numel() else (0, x.shape[dim] if x.ndim else 1, 1)
    channels = x.shape[dim]
    inner = math.prod(x.shape[dim + 1 :]) if channels == 1 or x.is_contiguous() else x.stride(dim)
    return x.numel() // (channels * inner), channels, inner


def _bias_act(x, b, dim, act, alpha, gain, clamp):
    y = torch.empty_like(x)
    x = _dense(x)
    b = None if b is None else b.to(x.dtype).contiguous()
    _native.cpu().bias_act(
        address(x), address(b), address(y), *_walk(x, dim), DTYPE_CODES[x.dtype],
        (act, alpha, gain, clamp), torch.get_num_threads(),
    )  # fmt: skip
    return y


def _bias_act_bwd(dy, ref, b, dim, from_output, needs_db, act, alpha, gain, clamp):
    dx = torch.empty_like(ref)
    ref, dy = _dense(ref), laid_out_like(dy, dx)
    b = None if b is None else b.to(ref.dtype).contiguous()
    db = torch.zeros(ref.shape[dim] if needs_db else 0, dtype=torch.float64)
    _native.cpu().bias_act_bwd(
        address(dy), address(ref), address(b), address(dx), address(db) if needs_db else 0, *_walk(ref, dim),
        from_output, DTYPE_CODES[ref.dtype], (act, alpha, gain, clamp), torch.get_num_threads(),
    )  # fmt: skip
    return dx, db


def _bias_act_bwd_bwd(ddx, dy, ref, b, dim, from_output, act, alpha, gain, clamp):
    ddy, dref = torch.empty_like(ref), torch.empty_like(ref)
    ref, ddx, dy = _dense(ref), laid_out_like(ddx, ddy), laid_out_like(dy, ddy)
    b = None if b is None else b.to(ref.dtype).contiguous()
    _native.cpu().bias_act_bwd_bwd(
        address(ddx), address(dy), address(ref), address(b), address(ddy), address(dref), *_walk(ref, dim),
        from_output, DTYPE_CODES[ref.dtype], (act, alpha, gain, clamp), torch.get_num_threads(),
    )  # fmt: skip
    return ddy, dref


_ACT = "int act, float alpha, float gain, float clamp"
forward_op = define(
    f"bias_act(Tensor x, Tensor? b, int dim, {_ACT}) -> Tensor",
    cpu=_bias_act,
    fake=lambda x, b, dim, act, alpha, gain, clamp: torch.empty_like(x),
)
backward_op = define(
    f"bias_act_bwd(Tensor dy, Tensor ref, Tensor? b, int dim, bool from_output, bool needs_db, {_ACT})"
    " -> (Tensor, Tensor)",
    cpu=_bias_act_bwd,
    fake=lambda dy, ref, b, dim, from_output, needs_db, act, alpha, gain, clamp: (
        torch.empty_like(ref),
        ref.new_empty(ref.shape[dim] if needs_db else 0, dtype=torch.float64),
    ),
)
second_op = define(
    f"bias_act_bwd_bwd(Tensor ddx, Tensor dy, Tensor ref, Tensor? b, int dim, bool from_output, {_ACT})"
    " -> (Tensor, Tensor)",
    cpu=_bias_act_bwd_bwd,
    fake=lambda ddx, dy, ref, b, dim, from_output, act, alpha, gain, clamp: (
        torch.empty_like(ref),
        torch.empty_like(ref),
    ),
)
