# SPDX-License-Identifier: Apache-2.0
"""Native CPU kernels of bias_act: any dense layout, one pass each."""

import torch

from .._dispatch import native
from .._tensors import DTYPE_CODES, address, dense, laid_out_like, walk


def bias_act(x, b, dim, act, alpha, gain, clamp):
    y = torch.empty_like(x)
    x = dense(x)
    b = None if b is None else b.to(x.dtype).contiguous()
    native.cpu().bias_act(
        address(x), address(b), address(y), *walk(x, dim), DTYPE_CODES[x.dtype],
        (act, alpha, gain, clamp), torch.get_num_threads(),
    )  # fmt: skip
    return y


def bias_act_bwd(dy, ref, b, dim, from_output, needs_db, act, alpha, gain, clamp):
    dx = torch.empty_like(ref)
    ref, dy = dense(ref), laid_out_like(dy, dx)
    b = None if b is None else b.to(ref.dtype).contiguous()
    db = torch.zeros(ref.shape[dim] if needs_db else 0, dtype=torch.float64)
    native.cpu().bias_act_bwd(
        address(dy), address(ref), address(b), address(dx), address(db) if needs_db else 0, *walk(ref, dim),
        from_output, DTYPE_CODES[ref.dtype], (act, alpha, gain, clamp), torch.get_num_threads(),
    )  # fmt: skip
    return dx, db


def bias_act_bwd_bwd(ddx, dy, ref, b, dim, from_output, act, alpha, gain, clamp):
    ddy, dref = torch.empty_like(ref), torch.empty_like(ref)
    ref, ddx, dy = dense(ref), laid_out_like(ddx, ddy), laid_out_like(dy, ddy)
    b = None if b is None else b.to(ref.dtype).contiguous()
    native.cpu().bias_act_bwd_bwd(
        address(ddx), address(dy), address(ref), address(b), address(ddy), address(dref), *walk(ref, dim),
        from_output, DTYPE_CODES[ref.dtype], (act, alpha, gain, clamp), torch.get_num_threads(),
    )  # fmt: skip
    return ddy, dref
