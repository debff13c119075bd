# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the HSR loss's second layer, its squared error, their gradients, and sums over parts.

Pooled hidden layers and differences are matrices [K, N * Q] and [D, N * Q] of the input's dtype, where Q is the number
of windows, so that each product here is one over the whole batch and runs on tensor cores.
"""

import triton
import triton.language as tl

from .triton_common import aligned, pick, place, product, unit


@triton.jit
def _tile(program, m, n, BM: tl.constexpr, BN: tl.constexpr, INDEX: tl.constexpr):
    """Rows and columns of a program's tile of [m, n]."""
    tiles = tl.cdiv(m, BM)
    return (program % tiles * BM + tl.arange(0, BM)).to(INDEX), (program // tiles * BN + tl.arange(0, BN)).to(INDEX)


@triton.jit(do_not_specialize=["n"])
def feature_projection_kernel(
    w2, pooled, b2, target, difference, squares, sums, starts, k, d, q, n,
    BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """difference [D, N * Q] = w2 @ pooled + b2 - target; per program its sum of squares, per tile of columns its sums.

    `squares` [programs of a scale] and `sums` [column tiles, D] are added up afterwards, always in the same order.
    """
    scale, program = place(starts)
    k, d, q = aligned(pick(k, scale), ALIGN), pick(d, scale), pick(q, scale)
    columns = aligned(n * q, ALIGN)
    row, column = _tile(program, d, columns, BM, BN, INDEX)
    projected = product(pick(w2, scale), pick(pooled, scale), d, columns, k, row, column, True, True, BC, PRECISION)
    projected += tl.load(pick(b2, scale) + row, mask=row < d, other=0.0).to(tl.float32)[:, None]
    here = (row < d)[:, None] & (column < columns)[None, :]
    to_target = (column // q * d * q + column % q)[None, :] + row[:, None] * q
    goal = tl.load(pick(target, scale) + to_target, mask=here, other=0.0).to(tl.float32)
    error = tl.where(here, projected - goal, 0.0)
    difference = pick(difference, scale)
    tl.store(difference + (row[:, None] * columns + column[None, :]), error.to(difference.dtype.element_ty), mask=here)
    tl.store(pick(squares, scale) + program, tl.sum(error * error))
    tl.store(pick(sums, scale) + program // tl.cdiv(d, BM) * d + row, tl.sum(error, 1), mask=row < d)


@triton.jit(do_not_specialize=["n"])
def feature_projection_bwd_data_kernel(
    w2, difference, dpooled, loss, starts, k, d, q, n,
    BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """dpooled [K, N * Q] = w2^T @ difference times the loss's unit; the rest of the factor comes with the results."""
    scale, program = place(starts)
    k, d, columns = aligned(pick(k, scale), ALIGN), pick(d, scale), aligned(n * pick(q, scale), ALIGN)
    row, column = _tile(program, k, columns, BM, BN, INDEX)
    total = product(pick(w2, scale), pick(difference, scale), k, columns, d, row, column, False, True, BC, PRECISION)
    dpooled = pick(dpooled, scale)
    here = (row < k)[:, None] & (column < columns)[None, :]
    value = (total * unit(loss + scale)).to(dpooled.dtype.element_ty)
    tl.store(dpooled + (row[:, None] * columns + column[None, :]), value, mask=here)


@triton.jit(do_not_specialize=["n"])
def feature_projection_bwd_weight_kernel(
    difference, pooled, dw, dloss, share, starts, k, d, q, n,
    BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """dw2 [D, K] = difference @ pooled^T * dloss * share."""
    scale, program = place(starts)
    k, d, columns = aligned(pick(k, scale), ALIGN), pick(d, scale), aligned(n * pick(q, scale), ALIGN)
    row, column = _tile(program, d, k, BM, BN, INDEX)
    total = product(
        pick(difference, scale), pick(pooled, scale), d, k, columns, row, column, True, False, BC, PRECISION
    )
    dw = pick(dw, scale)
    here = (row < d)[:, None] & (column < k)[None, :]
    value = (total * (tl.load(dloss + scale) * pick(share, scale))).to(dw.dtype.element_ty)
    tl.store(dw + (row[:, None] * k + column[None, :]), value, mask=here)


@triton.jit
def feature_sum_kernel(
    parts, sums, dloss, share, starts, count, size, BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """sums [size] = parts [count, size] added up, times share and, unless it is None, dloss [scale]."""
    entry, program = place(starts)
    parts, count, size = pick(parts, entry), pick(count, entry), pick(size, entry)
    column = program.to(tl.int64) * BN + tl.arange(0, BN)
    total = tl.zeros([BP, BN], tl.float32)
    for first in range(0, count, BP):
        row = first + tl.arange(0, BP)
        here = (row < count)[:, None] & (column < size)[None, :]
        total += tl.load(parts + (row.to(tl.int64)[:, None] * size + column[None, :]), mask=here, other=0.0)
    factor = pick(share, entry)
    if dloss is not None:
        factor *= tl.load(pick(dloss, entry))
    to = pick(sums, entry)
    tl.store(to + column, (tl.sum(total, 0) * factor).to(to.dtype.element_ty), mask=column < size)
