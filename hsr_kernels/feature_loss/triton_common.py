# SPDX-License-Identifier: Apache-2.0
"""What the Triton kernels of the HSR loss share: the scales of one launch, windows of pooling, a matrix product.

A launch covers all scales. What a kernel needs to know of them comes in tuples with one entry per scale, and a program
picks its own: the code is there once, and is compiled once, however many scales there are.
"""

import triton
import triton.language as tl

from .._triton import pick


@triton.jit
def program_number():
    """Returns the program's number, counted from the end: the last scale, the largest in a generator, starts first."""
    return tl.num_programs(0) - 1 - tl.program_id(0)


@triton.jit
def scale_and_program(starts):
    """Returns (scale, program within the scale) of this program; `starts` are the first programs of the scales."""
    scale = 0
    for i in tl.static_range(1, len(starts)):
        scale += (program_number() >= starts[i]).to(tl.int32)
    return scale, program_number() - pick(starts, scale)


@triton.jit
def assume_divisible(size, ALIGNMENT: tl.constexpr):
    """Returns `size`, which ALIGNMENT divides, in a form that shows it to the compiler, which then vectorizes loads."""
    return size // ALIGNMENT * ALIGNMENT


@triton.jit
def window_begin(window, size, out):
    """Returns the first position of a window of adaptive average pooling from `size` to `out`."""
    return window * size // out


@triton.jit
def window_end(window, size, out):
    """Returns the position after the last one of a window of adaptive average pooling from `size` to `out`."""
    return ((window + 1) * size + out - 1) // out


@triton.jit
def unit(loss):
    """Returns a power of 2 that brings errors near 1: in float16 their products neither overflow nor vanish."""
    square = tl.minimum(tl.maximum(tl.load(loss), 1e-36), 1e36)
    return tl.exp2(-tl.floor(tl.log2(square) * 0.5))


@triton.jit
def product(
    a, b, m, n, k, row, column,
    A_ROW_MAJOR: tl.constexpr, B_ROW_MAJOR: tl.constexpr, BC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Returns the given rows and columns of a [m, k] @ b [k, n], each matrix in row-major or column-major order."""
    total = tl.zeros([row.shape[0], column.shape[0]], tl.float32)
    inner_tile = tl.arange(0, BC).to(row.dtype)
    for start in range(0, k, BC):
        inner = start + inner_tile
        a_offsets = row[:, None] * k + inner[None, :] if A_ROW_MAJOR else inner[None, :] * m + row[:, None]
        b_offsets = inner[:, None] * n + column[None, :] if B_ROW_MAJOR else column[None, :] * k + inner[:, None]
        a_tile = tl.load(a + a_offsets, mask=(row < m)[:, None] & (inner < k)[None, :], other=0.0)
        b_tile = tl.load(b + b_offsets, mask=(inner < k)[:, None] & (column < n)[None, :], other=0.0)
        total = tl.dot(a_tile, b_tile, total, input_precision=PRECISION)
    return total
