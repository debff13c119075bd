# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the HSR loss's hidden layer: GEMM, ReLU, gain and pooling in one, and the transpose.

Neither the hidden layer nor its gradient, [K, H * W] of every sample, is ever in memory: tiles of them live in
registers, next to a GEMM on one side and to the pooling on the other. Adaptive average pooling of one axis averages
[floor(o * in / out), ceil((o + 1) * in / out)) for output o, a window; windows are always numbered row by row. Pooled
layers are matrices [K, N * th * tw], so that the second layer is one matrix product for the whole batch.
"""

import triton
import triton.language as tl

from .._triton import pick
from .triton_common import assume_divisible, scale_and_program, window_begin, window_end


@triton.jit(do_not_specialize=["n"])
def feature_hidden_kernel(
    x, w1, b1, pooled, relu_mask, starts, c, k, h, w, th, tw, programs_across, tile_widths, tile_samples,
    programs_down, n, gain,
    BK: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    WINDOWS_EXCEED_TILES: tl.constexpr, CHANNELS_LAST: tl.constexpr, ALIGNMENT: tl.constexpr, PRECISION: tl.constexpr,
    OFFSET_DTYPE: tl.constexpr,
):  # fmt: skip
    """Pools the hidden layer, and stores where its ReLU passed if `relu_mask` isn't None.

    A tile is `tile_widths` pixels of a row, of `tile_samples` images at a time; the program walks down the rows. A row
    ends some windows (one at most, where the image shrinks), and what it shares with later ones is itself at most: one
    running sum over rows is enough. Columns are pooled by a second, small GEMM where a window ends. Of all windows,
    `programs_down` programs share those down an image and `programs_across` those across. `relu_mask` gets one bit per
    element of the hidden layer: words [N, K / 32, H * W].
    """
    scale, program = scale_and_program(starts)
    x, w1, b1, pooled = pick(x, scale), pick(w1, scale), pick(b1, scale), pick(pooled, scale)
    c = assume_divisible(pick(c, scale), ALIGNMENT).to(OFFSET_DTYPE)
    w = assume_divisible(pick(w, scale), ALIGNMENT)
    k, h, th, tw = pick(k, scale), pick(h, scale), pick(th, scale), pick(tw, scale)
    programs_across, programs_down = pick(programs_across, scale), pick(programs_down, scale)
    samples = pick(tile_samples, scale)
    width = assume_divisible(pick(tile_widths, scale), 8)
    blocks = tl.cdiv(k, BK)
    first_row = program % blocks * BK
    row = first_row + tl.arange(0, BK)
    program_x = program // blocks % programs_across
    program_y = program // blocks // programs_across % programs_down
    first_sample = program // blocks // programs_across // programs_down * samples
    x += first_sample.to(tl.int64) * (c * (h * w))
    pooled += first_sample.to(tl.int64) * (th * tw)
    channel_stride, pixel_stride = (h * w).to(OFFSET_DTYPE), 1
    if CHANNELS_LAST:
        channel_stride, pixel_stride = 1, c

    windows_across, windows_down = tl.cdiv(tw, programs_across), tl.cdiv(th, programs_down)
    first_x, end_x = program_x * windows_across, tl.minimum(program_x * windows_across + windows_across, tw)
    first_y, end_y = program_y * windows_down, tl.minimum(program_y * windows_down + windows_down, th)
    pixel = tl.arange(0, BP)
    sample, pitch = pixel // width, w + BP
    # The product's columns: one row of the tile after another.
    column = tl.arange(0, ROWS * BP)
    column_row, column_sample = column // BP, tl.max_constancy(column % BP // width, 8)
    bias = tl.load(b1 + row, mask=row < k, other=0.0).to(tl.float32)[:, None]
    first_tile_x = window_begin(first_x, w, tw) // 8 * 8
    # This is more than one tile only where a window exceeds a tile.
    for tile_x in range(first_tile_x, window_end(end_x - 1, w, tw), width):
        pixel_x = tile_x + pixel % width
        # Triton doesn't see that widths are multiples of 8 here.
        column_x = tl.max_contiguous(tl.multiple_of(tile_x + column % BP % width, 8), 8)
        pixel_mask = (sample < samples) & (first_sample + sample < n) & (pixel_x < w)
        column_mask = (column_sample < samples) & (first_sample + column_sample < n) & (column_x < w)
        column_offsets = column_sample * (c * (h * w)) + (column_row * w + column_x) * pixel_stride
        total = tl.zeros([BK, BP], tl.float32)
        for y in range(window_begin(first_y, h, th), window_end(end_y - 1, h, th), ROWS):
            product = tl.zeros([BK, ROWS * BP], tl.float32) + bias
            row_mask = column_mask & (y + column_row < h)
            for first_channel in range(0, c, BC):
                channel = first_channel + tl.arange(0, BC)
                w_offsets = row[:, None] * c + channel[None, :]
                x_offsets = channel[:, None] * channel_stride + (column_offsets + y * w * pixel_stride)[None, :]
                weights = tl.load(w1 + w_offsets, mask=(row < k)[:, None] & (channel < c)[None, :], other=0.0)
                x_tile = tl.load(x + x_offsets, mask=(channel < c)[:, None] & row_mask[None, :], other=0.0)
                product = tl.dot(weights, x_tile, product, input_precision=PRECISION)
            rows = _split_rows(product, ROWS)
            for tile_y in tl.static_range(ROWS):
                z = rows[tile_y]
                if relu_mask is not None:
                    bits_mask = pixel_mask & (y + tile_y < h)
                    pixels = (y + tile_y) * w + pixel_x
                    _store_bits(
                        pick(relu_mask, scale), _passes(z), first_row, first_sample + sample, pixels, bits_mask, k,
                        h * w, BK, BP, OFFSET_DTYPE,
                    )  # fmt: skip
                total = _pool_row(
                    total, z, y + tile_y, pooled, gain, n, first_sample, samples, first_row, sample * pitch + pixel_x,
                    pitch, tile_x > first_tile_x, first_y, end_y, first_x, end_x, windows_across, k, h, w, th, tw,
                    x.dtype.element_ty, COLUMNS, WINDOWS_EXCEED_TILES, PRECISION, OFFSET_DTYPE,
                )  # fmt: skip
        # The next tile adds to what this one stored, which another thread may then read.
        if WINDOWS_EXCEED_TILES:
            tl.debug_barrier()


@triton.jit
def _split_rows(product, ROWS: tl.constexpr):
    """Returns the rows of a tile, a tuple of [BK, BP], from [BK, ROWS * BP]."""
    BK: tl.constexpr = product.shape[0]
    HALF: tl.constexpr = product.shape[1] // 2
    if ROWS == 1:
        return (product,)
    else:
        upper, lower = tl.split(tl.permute(tl.reshape(product, [BK, 2, HALF]), (0, 2, 1)))
        return _split_rows(upper, ROWS // 2) + _split_rows(lower, ROWS // 2)


@triton.jit
def _pool_row(
    total, z, y, pooled, gain, n, first_sample, samples, first_row, position, pitch, accumulates, first_y, end_y,
    first_x, end_x, windows_across, k, h, w, th, tw, DTYPE: tl.constexpr, COLUMNS: tl.constexpr,
    WINDOWS_EXCEED_TILES: tl.constexpr, PRECISION: tl.constexpr, OFFSET_DTYPE: tl.constexpr,
):  # fmt: skip
    """Returns total + relu(z) less the windows that end with row `y`, which are stored."""
    z = tl.where(_passes(z), z, 0.0)
    total += z
    for window_y in range(tl.maximum(y * th // h, first_y), tl.minimum((y + 1) * th // h, end_y)):
        # The mean over rows before it is rounded, so that it is in range wherever the hidden layer is.
        mean = (total * (gain / (y + 1 - window_begin(window_y, h, th)))).to(DTYPE)
        _store_columns(
            pooled, mean, n, first_sample, samples, first_row, window_y, position, pitch, accumulates, first_x, end_x,
            windows_across, k, w, th, tw, COLUMNS, WINDOWS_EXCEED_TILES, PRECISION, OFFSET_DTYPE,
        )  # fmt: skip
        total = tl.where(window_begin(window_y + 1, h, th) <= y, z, 0.0)
    return total


@triton.jit
def _passes(z):
    """Whether the ReLU passes each element: NaN, which isn't <= 0, passes as in PyTorch's."""
    return ~(z <= 0)


@triton.jit
def _store_bits(
    relu_mask, passed, first_row, sample, pixel, mask, k, pixels,
    BK: tl.constexpr, BP: tl.constexpr, OFFSET_DTYPE: tl.constexpr,
):  # fmt: skip
    """Packs 32 neighbours along K into a word: no alignment of rows of pixels matters."""
    bits = tl.reshape(passed.to(tl.int32), [BK // 32, 32, BP]) << tl.arange(0, 32)[None, :, None]
    words = tl.cdiv(k, 32)
    word = first_row // 32 + tl.arange(0, BK // 32)
    sample_offsets = (sample.to(tl.int64) * words * pixels + pixel)[None, :]
    pointers = relu_mask + sample_offsets + word.to(OFFSET_DTYPE)[:, None] * pixels
    tl.store(pointers, tl.sum(bits, 1), mask=(word < words)[:, None] & mask[None, :])


@triton.jit
def _store_columns(
    pooled, mean, n, first_sample, samples, first_row, window_y, position, pitch, accumulates, first_x, end_x,
    windows_across, k, w, th, tw, COLUMNS: tl.constexpr, WINDOWS_EXCEED_TILES: tl.constexpr, PRECISION: tl.constexpr,
    OFFSET_DTYPE: tl.constexpr,
):  # fmt: skip
    """Pools `mean` [BK, BP], already pooled over rows, over columns: windows [first_x, end_x) of row `window_y`.

    Pixels have the `position` sample * pitch + x. Where it `accumulates`, an earlier tile began the windows' sums.
    """
    # Only COLUMNS windows at a time: registers are scarce.
    for start in range(0, samples * windows_across, COLUMNS):
        # In a form that depends on `start`: what doesn't occupies registers all the way down the image.
        row = first_row + tl.minimum(start, 0) + tl.arange(0, mean.shape[0])
        index = start + tl.arange(0, COLUMNS)
        sample, window_x = index // windows_across, first_x + index % windows_across
        begin, end = window_begin(window_x, w, tw), window_end(window_x, w, tw)
        after_begin = position[:, None] >= (sample * pitch + begin)[None, :]
        membership = after_begin & (position[:, None] < (sample * pitch + end)[None, :])
        sums = tl.zeros([mean.shape[0], COLUMNS], tl.float32)
        sums = tl.dot(mean, membership.to(tl.float32).to(mean.dtype), sums, input_precision=PRECISION)
        sums /= (end - begin).to(tl.float32)[None, :]
        columns = (sample * th * tw + window_y * tw + window_x)[None, :]
        offsets = row.to(OFFSET_DTYPE)[:, None] * (n * th * tw) + columns
        mask = (row < k)[:, None] & ((window_x < end_x) & (sample < samples) & (first_sample + sample < n))[None, :]
        if WINDOWS_EXCEED_TILES:
            sums += tl.load(pooled + offsets, mask=mask & accumulates, other=0.0).to(tl.float32)
        tl.store(pooled + offsets, sums.to(pooled.dtype.element_ty), mask=mask)
