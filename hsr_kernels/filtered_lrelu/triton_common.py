# SPDX-License-Identifier: Apache-2.0
"""What the Triton kernels of filtered_lrelu share: the leaky ReLU, the codes of its slopes, and bytes of four codes."""

import triton
import triton.language as tl


@triton.jit
def limited(value, limit):
    """Returns value limited to [-limit, limit]; NaN stays NaN."""
    return tl.clamp(value, -limit, limit, tl.PropagateNan.ALL)


@triton.jit
def activate(u, gain, gain_below_zero, clamp):
    """Returns (y, codes) of u: bit 0 of a code says that u isn't above 0, bit 1 that y is clamped."""
    y = u * tl.where(u > 0, gain, gain_below_zero)
    code = tl.where(u > 0, 0, 1) + tl.where(tl.abs(y) >= clamp, 2, 0)
    return limited(y, clamp), code


@triton.jit
def slopes(code, gain, gain_below_zero):
    """Returns the derivative of the leaky ReLU where it noted these codes."""
    return tl.where((code & 2) != 0, 0.0, tl.where((code & 1) != 0, gain_below_zero, gain))


@triton.jit
def packed(code, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Returns bytes [ROWS, COLUMNS / 4] of codes [ROWS, COLUMNS]: the first of four stands in the lowest bits."""
    shift = tl.arange(0, 4)[None, None, :] * 2
    return tl.sum(tl.reshape(code, [ROWS, COLUMNS // 4, 4]) << shift, 2).to(tl.uint8)


@triton.jit
def unpacked(codes, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Returns the inverse of `packed`; further bits are set too."""
    shift = tl.arange(0, 4)[None, None, :] * 2
    return tl.reshape(codes.to(tl.int32)[:, :, None] >> shift, [ROWS, COLUMNS])
