# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the HSR loss's hidden layer: GEMM, ReLU, gain and pooling in one, and the transpose.

Neither the hidden layer nor its gradient, [K, H * W] of every sample, is ever in memory: tiles of them live in
registers, next to a GEMM on one side and to the pooling on the other. Adaptive average pooling of one axis averages
[floor(o * in / out), ceil((o + 1) * in / out)) for output o, a window; windows are always numbered row by row. Pooled
layers are matrices [K, N * th * tw], so that the second layer is one matrix product for the whole batch.
"""

import triton
import triton.language as tl

from .triton_common import aligned, begin, end, pick, place


@triton.jit(do_not_specialize=["n"])
def feature_hidden_kernel(
    x, w1, b1, pooled, mask, starts, c, k, h, w, th, tw, sides, widths, samples, parts, n, gain,
    BK: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
    LAST: tl.constexpr, ALIGN: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """A tile is `widths` pixels of a row, of `samples` images at a time; the program walks down the rows.

    A row ends some windows (one at most, where the image shrinks), and what it shares with later ones is itself at
    most: one running sum over rows is enough. Columns are pooled by a second, small GEMM where a window ends. Of all
    windows, `parts` share those down an image and `sides` those across. `mask` (None: not asked for) gets one bit per
    element of the hidden layer, saying where the ReLU passed: words [N, K / 32, H * W].
    """
    scale, program = place(starts)
    x, w1, b1, pooled = pick(x, scale), pick(w1, scale), pick(b1, scale), pick(pooled, scale)
    c, w = aligned(pick(c, scale), ALIGN).to(INDEX), aligned(pick(w, scale), ALIGN)
    k, h, th, tw = pick(k, scale), pick(h, scale), pick(th, scale), pick(tw, scale)
    sides, parts, samples = pick(sides, scale), pick(parts, scale), pick(samples, scale)
    width = aligned(pick(widths, scale), 8)
    blocks = tl.cdiv(k, BK)
    first_row = program % blocks * BK
    row = first_row + tl.arange(0, BK)
    side = program // blocks % sides
    part = program // blocks // sides % parts
    first_sample = program // blocks // sides // parts * samples
    x += first_sample.to(tl.int64) * (c * (h * w))
    pooled += first_sample.to(tl.int64) * (th * tw)
    x_c, x_p = (h * w).to(INDEX), 1
    if LAST:
        x_c, x_p = 1, c

    across, down = tl.cdiv(tw, sides), tl.cdiv(th, parts)
    first, last = side * across, tl.minimum(side * across + across, tw)
    top, bottom = part * down, tl.minimum(part * down + down, th)
    pixel = tl.arange(0, BP)
    sample, pitch = pixel // width, w + BP
    bias = tl.load(b1 + row, mask=row < k, other=0.0).to(tl.float32)[:, None]
    leftmost = begin(first, w, tw) // 8 * 8
    for left in range(leftmost, end(last - 1, w, tw), width):  # more than once only where a window exceeds a tile
        column = left + pixel % width
        inside = (sample < samples) & (first_sample + sample < n) & (column < w)
        at = sample * (c * (h * w)) + column * x_p
        total = tl.zeros([BK, BP], tl.float32)
        for y in range(begin(top, h, th), end(bottom - 1, h, th), ROWS):
            z0 = tl.zeros([BK, BP], tl.float32) + bias
            z1 = z0
            for first_channel in range(0, c, BC):
                u = first_channel + tl.arange(0, BC)
                here = (u < c)[:, None] & inside[None, :]
                to_w, to_x = row[:, None] * c + u[None, :], u[:, None] * x_c + (at + y * w * x_p)[None, :]
                weights = tl.load(w1 + to_w, mask=(row < k)[:, None] & (u < c)[None, :], other=0.0)
                v0 = tl.load(x + to_x, mask=here, other=0.0)
                z0 = tl.dot(weights, v0, z0, input_precision=PRECISION)
                if ROWS == 2:
                    v1 = tl.load(x + w * x_p + to_x, mask=here & (y + 1 < h), other=0.0)
                    z1 = tl.dot(weights, v1, z1, input_precision=PRECISION)
            for below in tl.static_range(ROWS):
                z = z0 if below == 0 else z1
                if mask is not None:
                    to = pick(mask, scale)
                    there = inside & (y + below < h)
                    pixels = (y + below) * w + column
                    _store_bits(to, z > 0, first_row, first_sample + sample, pixels, there, k, h * w, BK, BP, INDEX)
                total = _pool_row(
                    total, z, y + below, pooled, gain, n, first_sample, samples, first_row, sample * pitch + column,
                    pitch, left > leftmost, top, bottom, first, last, across, k, h, w, th, tw, x.dtype.element_ty,
                    COLUMNS, WIDE, PRECISION, INDEX,
                )  # fmt: skip
        if WIDE:
            tl.debug_barrier()  # another thread may read what one has stored


@triton.jit
def _pool_row(
    total, z, y, pooled, gain, n, first_sample, samples, first_row, place, pitch, adds, top, bottom, first, last,
    across, k, h, w, th, tw, DTYPE: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """total + relu(z), once the windows that end with row `y` are stored: what is left for those that don't."""
    z = tl.where(z > 0, z, 0.0)
    total += z
    for window in range(tl.maximum(y * th // h, top), tl.minimum((y + 1) * th // h, bottom)):
        # The mean over rows before it is rounded, so that it is in range wherever the hidden layer is.
        mean = (total * (gain / (y + 1 - begin(window, h, th)))).to(DTYPE)
        _store_columns(
            pooled, mean, n, first_sample, samples, first_row, window, place, pitch, adds, first, last, across,
            k, w, th, tw, COLUMNS, WIDE, PRECISION, INDEX,
        )  # fmt: skip
        total = tl.where(begin(window + 1, h, th) <= y, z, 0.0)
    return total


@triton.jit
def _store_bits(
    mask, passed, first_row, sample, pixel, inside, k, pixels,
    BK: tl.constexpr, BP: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Packs 32 neighbours along K to a word: no alignment of rows of pixels matters."""
    bits = tl.reshape(passed.to(tl.int32), [BK // 32, 32, BP]) << tl.arange(0, 32)[None, :, None]
    words = tl.cdiv(k, 32)
    word = first_row // 32 + tl.arange(0, BK // 32)
    to = mask + (sample.to(tl.int64) * words * pixels + pixel)[None, :] + word.to(INDEX)[:, None] * pixels
    tl.store(to, tl.sum(bits, 1), mask=(word < words)[:, None] & inside[None, :])


@triton.jit
def _store_columns(
    pooled, mean, n, first_sample, samples, first_row, window, place, pitch, adds, first, last, across, k, w, th, tw,
    COLUMNS: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Pools `mean` [BK, BP], over rows already, over columns: windows [first, last) of row `window` of the windows.

    Pixels lie at `place` = sample * pitch + column.
    """
    for at in range(0, samples * across, COLUMNS):  # a few at a time: registers are scarce
        # In a form that depends on `at`: what doesn't occupies registers all the way down the image.
        row = first_row + tl.minimum(at, 0) + tl.arange(0, mean.shape[0])
        index = at + tl.arange(0, COLUMNS)
        own, column = index // across, first + index % across
        left, right = begin(column, w, tw), end(column, w, tw)
        belongs = (place[:, None] >= (own * pitch + left)[None, :]) & (place[:, None] < (own * pitch + right)[None, :])
        sums = tl.zeros([mean.shape[0], COLUMNS], tl.float32)
        sums = tl.dot(mean, belongs.to(tl.float32).to(mean.dtype), sums, input_precision=PRECISION)
        sums /= (right - left).to(tl.float32)[None, :]
        to = row.to(INDEX)[:, None] * (n * th * tw) + (own * th * tw + window * tw + column)[None, :]
        here = (row < k)[:, None] & ((column < last) & (own < samples) & (first_sample + own < n))[None, :]
        if WIDE:
            sums += tl.load(pooled + to, mask=here & adds, other=0.0).to(tl.float32)
        tl.store(pooled + to, sums.to(pooled.dtype.element_ty), mask=here)
