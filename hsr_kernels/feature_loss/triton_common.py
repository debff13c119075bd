# SPDX-License-Identifier: Apache-2.0
"""What the Triton kernels of the HSR loss share: the scales of one launch, windows of pooling, a matrix product.

A launch covers all scales. What a kernel needs to know of them comes in tuples with one entry per scale, and a program
picks its own: the code is there once, and is compiled once, however many scales there are.
"""

import triton
import triton.language as tl


@triton.jit
def pick(table, scale):
    """table[scale], for pointers and numbers."""
    value = table[0]
    for i in tl.static_range(1, len(table)):
        value = tl.where(scale == i, table[i], value)
    return value


@triton.jit
def number():
    """The program's number, counted so that those of the last scale start first: in a generator it is the largest."""
    return tl.num_programs(0) - 1 - tl.program_id(0)


@triton.jit
def place(starts):
    """(scale, program within it) of this program; `starts` are the first programs of the scales."""
    scale = 0
    for i in tl.static_range(1, len(starts)):
        scale += (number() >= starts[i]).to(tl.int32)
    return scale, number() - pick(starts, scale)


@triton.jit
def aligned(size, ALIGN: tl.constexpr):
    """`size`, which ALIGN divides, in a form in which the compiler sees that it does: loads get wide."""
    return size // ALIGN * ALIGN


@triton.jit
def begin(window, size, out):
    """First position of a window of adaptive average pooling."""
    return window * size // out


@triton.jit
def end(window, size, out):
    """The position after the last of a window of adaptive average pooling."""
    return ((window + 1) * size + out - 1) // out


@triton.jit
def unit(loss):
    """A power of 2 that brings differences near 1: in float16 their products neither overflow nor vanish."""
    square = tl.minimum(tl.maximum(tl.load(loss), 1e-36), 1e36)
    return tl.exp2(-tl.floor(tl.log2(square) * 0.5))


@triton.jit
def product(
    a, b, m, n, k, row, column,
    A_ACROSS: tl.constexpr, B_ACROSS: tl.constexpr, BC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows and columns of a [m, k] @ b [k, n]; neighbours in memory lie along k of a, or along n of b, if ACROSS."""
    total = tl.zeros([row.shape[0], column.shape[0]], tl.float32)
    along = tl.arange(0, BC).to(row.dtype)
    for first in range(0, k, BC):
        at = first + along
        to_a = row[:, None] * k + at[None, :] if A_ACROSS else at[None, :] * m + row[:, None]
        to_b = at[:, None] * n + column[None, :] if B_ACROSS else column[None, :] * k + at[:, None]
        left = tl.load(a + to_a, mask=(row < m)[:, None] & (at < k)[None, :], other=0.0)
        right = tl.load(b + to_b, mask=(at < k)[:, None] & (column < n)[None, :], other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    return total
