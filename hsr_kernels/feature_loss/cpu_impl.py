# SPDX-License-Identifier: Apache-2.0
"""The hidden layer of the HSR loss on the CPU: GEMM, ReLU, gain and pooling a block of rows at a time.

The block stays in cache, so the hidden layer (K x H x W) never exists; one bit per element, saying where the ReLU
passed, is all that the backward needs of it.
"""

import torch

from .. import _native
from .._registry import DTYPE_CODES, address, wide

_BLOCK = 1 << 20  # elements of the hidden layer at a time


def _matrices(x: torch.Tensor) -> list[torch.Tensor]:
    """Each sample as a matrix [C, H * W] in the accumulation dtype; a view where x already has it."""
    n, c, h, w = x.shape
    x = x.to(wide(x.dtype))
    if x.stride(1) == 1 and c > 1 and not x.is_contiguous():
        return [t.reshape(h * w, c).t() for t in x.permute(0, 2, 3, 1)]
    return list(x.reshape(n, c, h * w))


def _blocks(k: int, hw: int) -> list[tuple[int, int]]:
    step = max(min(_BLOCK // max(hw, 1), k), 16)
    return [(first, min(first + step, k)) for first in range(0, k, step)]


def feature_hidden(x, w1, b1, th, tw, gain):
    n, _, h, w = x.shape
    k = w1.shape[0]
    w1, b1 = w1.to(wide(x.dtype)), b1.to(wide(x.dtype)).contiguous()
    pooled = w1.new_empty((n, k, th * tw))
    mask = torch.empty((n, k, (h * w + 7) // 8), dtype=torch.uint8)
    blocks = _blocks(k, h * w)
    z = w1.new_empty((blocks[0][1] if blocks else 0, h * w))
    for i, matrix in enumerate(_matrices(x)):
        for first, last in blocks:
            part = torch.mm(w1[first:last], matrix, out=z[: last - first])
            _native.cpu().feature_pool(
                address(part), address(b1[first:]), address(pooled[i, first:]), address(mask[i, first:]),
                (last - first, h, w, th, tw), gain, DTYPE_CODES[w1.dtype], torch.get_num_threads(),
            )  # fmt: skip
    return pooled, mask


def feature_hidden_bwd(dpooled, mask, x, w1, th, tw, gain, needs_dx, needs_dw):
    n, c, h, w = x.shape
    k = w1.shape[0]
    w1, dpooled = w1.to(wide(x.dtype)), dpooled.contiguous()
    dx = w1.new_zeros((n, c, h, w) if needs_dx else 0)
    dw = torch.zeros_like(w1, memory_format=torch.contiguous_format) if needs_dw else w1.new_zeros(0)
    db = torch.zeros(k, dtype=torch.float64)
    blocks = _blocks(k, h * w)
    z = w1.new_empty((blocks[0][1] if blocks else 0, h * w))
    for i, matrix in enumerate(_matrices(x)):
        for first, last in blocks:
            dz = z[: last - first]
            _native.cpu().feature_pool_bwd(
                address(dz), address(dpooled[i, first:]), address(mask[i, first:]), address(db[first:]),
                (last - first, h, w, th, tw), gain, DTYPE_CODES[w1.dtype], torch.get_num_threads(),
            )  # fmt: skip
            if needs_dw:
                dw[first:last].addmm_(dz, matrix.t())
            if needs_dx:
                dx[i].view(c, h * w).addmm_(w1[first:last].t(), dz)
    return dx.to(x.dtype), dw, db.to(w1.dtype)
