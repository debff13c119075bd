# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the HSR loss's hidden layer: GEMM, ReLU, gain and pooling in one, and the transpose.

Neither the hidden layer nor its gradient, [K, H * W] of every sample, is ever in memory: tiles of them live in
registers, next to a GEMM on one side and to the pooling on the other. Adaptive average pooling of one axis averages
[floor(o * in / out), ceil((o + 1) * in / out)) for output o, a window; windows are always numbered row by row. Pooled
layers are matrices [K, N * th * tw], so that the second layer is one matrix product for the whole batch.
"""

import triton
import triton.language as tl

from .triton_common import aligned, begin, end, pick, place, unit


@triton.jit(do_not_specialize=["n"])
def feature_hidden_kernel(
    x, w1, b1, pooled, mask, starts, c, k, h, w, th, tw, sides, widths, samples, parts, n, gain,
    BK: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, LAST: tl.constexpr, ALIGN: tl.constexpr,
    PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """A tile is `widths` pixels of a row, of `samples` images at a time; the program walks down the rows.

    A row ends some windows (one at most, where the image shrinks), and what it shares with later ones is itself at
    most: one running sum over rows is enough. Columns are pooled by a second, small GEMM where a window ends. Of all
    windows, `parts` share those down an image and `sides` those across. `mask` (None: not asked for) gets one bit per
    element of the hidden layer, saying where the ReLU passed: words [N, K / 32, H * W].
    """
    scale, program = place(starts)
    x, w1, b1, pooled = pick(x, scale), pick(w1, scale), pick(b1, scale), pick(pooled, scale)
    c, w = aligned(pick(c, scale), ALIGN), aligned(pick(w, scale), ALIGN)
    k, h, th, tw = pick(k, scale), pick(h, scale), pick(th, scale), pick(tw, scale)
    sides, parts, samples = pick(sides, scale), pick(parts, scale), pick(samples, scale)
    width = aligned(pick(widths, scale), 8)
    blocks = tl.cdiv(k, BK)
    row = program % blocks * BK + tl.arange(0, BK)
    side = program // blocks % sides
    part = program // blocks // sides % parts
    first_sample = program // blocks // sides // parts * samples
    x += first_sample.to(tl.int64) * (c * h * w)
    pooled += first_sample.to(tl.int64) * (th * tw)
    x_c, x_p = h * w, 1
    if LAST:
        x_c, x_p = 1, c

    across, down = tl.cdiv(tw, sides), tl.cdiv(th, parts)
    first, last = side * across, tl.minimum(side * across + across, tw)
    top, bottom = part * down, tl.minimum(part * down + down, th)
    pixel = tl.arange(0, BP)
    sample = pixel // width
    bias = tl.load(b1 + row, mask=row < k, other=0.0).to(tl.float32)[:, None]
    leftmost = begin(first, w, tw) // 8 * 8
    for left in range(leftmost, end(last - 1, w, tw), width):  # more than once only where a window exceeds a tile
        column = left + pixel % width
        inside = (sample < samples) & (first_sample + sample < n) & (column < w)
        at = sample.to(INDEX) * (c * h * w) + column * x_p
        total = tl.zeros([BK, BP], tl.float32)
        for y in range(begin(top, h, th), end(bottom - 1, h, th)):
            z = tl.zeros([BK, BP], tl.float32) + bias
            channel = tl.arange(0, BC)
            for at_channel in range(0, c, BC):
                u = at_channel + channel
                to_w, to_x = row[:, None] * c + u[None, :], u[:, None] * x_c + (at + y * w * x_p)[None, :]
                weights = tl.load(w1 + to_w, mask=(row < k)[:, None] & (u < c)[None, :], other=0.0)
                values = tl.load(x + to_x, mask=(u < c)[:, None] & inside[None, :], other=0.0)
                z = tl.dot(weights, values, z, input_precision=PRECISION)
            if mask is not None:
                to = pick(mask, scale)
                _store_bits(to, z > 0, row, first_sample + sample, y * w + column, inside, k, h * w, BK, BP)
            z = tl.where(z > 0, z, 0.0)
            total += z
            for window in range(tl.maximum(y * th // h, top), tl.minimum((y + 1) * th // h, bottom)):
                # The mean over rows before it is rounded, so that it is in range wherever the hidden layer is.
                mean = (total * (gain / (y + 1 - begin(window, h, th)))).to(x.dtype.element_ty)
                _store_columns(
                    pooled, mean, n, first_sample, samples, row, window, sample, column, left > leftmost, first, last,
                    across, k, w, th, tw, PRECISION, INDEX,
                )  # fmt: skip
                total = tl.where(begin(window + 1, h, th) <= y, z, 0.0)
        tl.debug_barrier()  # another thread may read what one has stored


@triton.jit
def _store_bits(mask, passed, row, sample, pixel, inside, k, pixels, BK: tl.constexpr, BP: tl.constexpr):
    """Packs 32 neighbours along K to a word: no alignment of rows of pixels matters."""
    bits = tl.reshape(passed.to(tl.int32), [BK // 32, 32, BP]) << tl.arange(0, 32)[None, :, None]
    words = tl.cdiv(k, 32)
    word = tl.min(row, 0) // 32 + tl.arange(0, BK // 32)
    to = mask + (sample.to(tl.int64) * words * pixels + pixel)[None, :] + word[:, None] * pixels
    tl.store(to, tl.sum(bits, 1), mask=(word < words)[:, None] & inside[None, :])


@triton.jit
def _store_columns(
    pooled, mean, n, first_sample, samples, row, window, sample, column, adds, first, last, across, k, w, th, tw,
    PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Pools `mean` [BK, BP], over rows already, over columns: windows [first, last) of row `window` of the windows."""
    index = tl.arange(0, mean.shape[1])
    own, place = index // across, first + index % across
    left, right = begin(place, w, tw), end(place, w, tw)
    belongs = (column[:, None] >= left[None, :]) & (column[:, None] < right[None, :]) & (sample[:, None] == own[None, :])
    zero = tl.zeros([mean.shape[0], mean.shape[1]], tl.float32)
    sums = tl.dot(mean, belongs.to(tl.float32).to(mean.dtype), zero, input_precision=PRECISION)
    sums /= (right - left).to(tl.float32)[None, :]
    to = pooled + row.to(INDEX)[:, None] * (n * th * tw) + (own * th * tw + window * tw + place)[None, :]
    here = (row < k)[:, None] & ((place < last) & (own < samples) & (first_sample + own < n))[None, :]
    if adds:
        sums += tl.load(to, mask=here, other=0.0).to(tl.float32)
    tl.store(to, sums.to(pooled.dtype.element_ty), mask=here)
