# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the HSR loss's second layer, its squared error, their gradients, and sums over parts.

Pooled hidden layers and errors are matrices [K, N * Q] and [D, N * Q] of the input's dtype, where Q is the number of
windows, so that each product here is one over the whole batch and runs on tensor cores.
"""

import triton
import triton.language as tl

from .._triton import pick
from .triton_common import assume_divisible, product, scale_and_program, unit


@triton.jit
def _tile(program, m, n, BM: tl.constexpr, BN: tl.constexpr, OFFSET_DTYPE: tl.constexpr):
    """Returns (rows, columns) of a program's tile of a matrix [m, n]."""
    tiles = tl.cdiv(m, BM)
    row, column = program % tiles * BM + tl.arange(0, BM), program // tiles * BN + tl.arange(0, BN)
    return row.to(OFFSET_DTYPE), column.to(OFFSET_DTYPE)


@triton.jit(do_not_specialize=["n"])
def feature_projection_kernel(
    w2, pooled, b2, target, errors, square_parts, error_parts, starts, k, d, q, n,
    BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, ALIGNMENT: tl.constexpr, PRECISION: tl.constexpr,
    OFFSET_DTYPE: tl.constexpr,
):  # fmt: skip
    """Computes errors [D, N * Q] = w2 @ pooled + b2 - target, and parts of the sums of them and of their squares.

    `square_parts` [programs of a scale] and `error_parts` [tiles of columns, D] are added up afterwards, always in the
    same order.
    """
    scale, program = scale_and_program(starts)
    k, d, q = assume_divisible(pick(k, scale), ALIGNMENT), pick(d, scale), pick(q, scale)
    columns = assume_divisible(n * q, ALIGNMENT)
    row, column = _tile(program, d, columns, BM, BN, OFFSET_DTYPE)
    projected = product(pick(w2, scale), pick(pooled, scale), d, columns, k, row, column, True, True, BC, PRECISION)
    projected += tl.load(pick(b2, scale) + row, mask=row < d, other=0.0).to(tl.float32)[:, None]
    mask = (row < d)[:, None] & (column < columns)[None, :]
    target_offsets = (column // q * d * q + column % q)[None, :] + row[:, None] * q
    target_tile = tl.load(pick(target, scale) + target_offsets, mask=mask, other=0.0).to(tl.float32)
    error = tl.where(mask, projected - target_tile, 0.0)
    errors = pick(errors, scale)
    tl.store(errors + (row[:, None] * columns + column[None, :]), error.to(errors.dtype.element_ty), mask=mask)
    tl.store(pick(square_parts, scale) + program, tl.sum(error * error))
    tl.store(pick(error_parts, scale) + program // tl.cdiv(d, BM) * d + row, tl.sum(error, 1), mask=row < d)


@triton.jit(do_not_specialize=["n"])
def feature_projection_bwd_data_kernel(
    w2, errors, dpooled, loss, starts, k, d, q, n,
    BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, ALIGNMENT: tl.constexpr, PRECISION: tl.constexpr,
    OFFSET_DTYPE: tl.constexpr,
):  # fmt: skip
    """Computes dpooled [K, N * Q] = w2^T @ errors * the loss's unit; later results contain the rest of the factor."""
    scale, program = scale_and_program(starts)
    k, d = assume_divisible(pick(k, scale), ALIGNMENT), pick(d, scale)
    columns = assume_divisible(n * pick(q, scale), ALIGNMENT)
    row, column = _tile(program, k, columns, BM, BN, OFFSET_DTYPE)
    total = product(pick(w2, scale), pick(errors, scale), k, columns, d, row, column, False, True, BC, PRECISION)
    dpooled = pick(dpooled, scale)
    mask = (row < k)[:, None] & (column < columns)[None, :]
    value = (total * unit(loss + scale)).to(dpooled.dtype.element_ty)
    tl.store(dpooled + (row[:, None] * columns + column[None, :]), value, mask=mask)


@triton.jit(do_not_specialize=["n"])
def feature_projection_bwd_weight_kernel(
    errors, pooled, dw, dloss, mean_factors, starts, k, d, q, n,
    BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, ALIGNMENT: tl.constexpr, PRECISION: tl.constexpr,
    OFFSET_DTYPE: tl.constexpr,
):  # fmt: skip
    """Computes dw2 [D, K] = errors @ pooled^T * dloss * mean_factors."""
    scale, program = scale_and_program(starts)
    k, d = assume_divisible(pick(k, scale), ALIGNMENT), pick(d, scale)
    columns = assume_divisible(n * pick(q, scale), ALIGNMENT)
    row, column = _tile(program, d, k, BM, BN, OFFSET_DTYPE)
    total = product(pick(errors, scale), pick(pooled, scale), d, k, columns, row, column, True, False, BC, PRECISION)
    dw = pick(dw, scale)
    mask = (row < d)[:, None] & (column < k)[None, :]
    value = (total * (tl.load(dloss + scale) * pick(mean_factors, scale))).to(dw.dtype.element_ty)
    tl.store(dw + (row[:, None] * k + column[None, :]), value, mask=mask)


@triton.jit
def feature_sum_kernel(
    parts, sums, dloss, factors, starts, count, size, BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Computes sums [size] = parts [count, size] added up, times a factor and, unless it is None, dloss [scale]."""
    entry, program = scale_and_program(starts)
    parts, count, size = pick(parts, entry), pick(count, entry), pick(size, entry)
    column = program.to(tl.int64) * BN + tl.arange(0, BN)
    total = tl.zeros([BP, BN], tl.float32)
    for start in range(0, count, BP):
        row = start + tl.arange(0, BP)
        mask = (row < count)[:, None] & (column < size)[None, :]
        total += tl.load(parts + (row.to(tl.int64)[:, None] * size + column[None, :]), mask=mask, other=0.0)
    factor = pick(factors, entry)
    if dloss is not None:
        factor *= tl.load(pick(dloss, entry))
    sums = pick(sums, entry)
    tl.store(sums + column, (tl.sum(total, 0) * factor).to(sums.dtype.element_ty), mask=column < size)
