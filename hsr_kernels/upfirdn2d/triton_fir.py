# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of upfirdn2d: the unrolled ones are polyphase and keep their sums in registers.

Images are [planes, height, width, channels] in memory: planes are N * C and channels 1 where they are contiguous,
planes are N where they are channels_last. Lanes are a tile [A, B]: of lines and columns in the first case, of columns
and channels in the second, so that consecutive lanes touch consecutive memory. A lane has ROW_GROUPS groups of UP_Y
rows of outputs, one below the other, and COLUMN_GROUPS groups of UP_X columns, one beside the other. FILTER is the
value of a `passes.FilterKind`.

Contiguous rows whose length 16 divides are read and written in vectors: a lane's outputs of a row are the 16 bytes
that it stores; its pixels come in aligned vectors, neighbours' from the cache, and are separated in registers.

Not measured, but counted in SASS of sm_90: an H200 can issue about 55 instructions per output of a same-size float32
filter in the time that it copies one, 28 in 16 bits; 34 and 17 going up by 2, 138 and 69 going down. With [4, 4] taps,
rows take 30 and 25, 23 and 15, 62 and 48; channels_last 48 and 41 (so 16 bits wait for arithmetic there), 14 and 11, 63
and 53. 12 taps along each axis take rows 74 and 83, 30 and 23, 115 and 102: in 16 bits they are compute-bound, but one
pass.
"""

import triton
import triton.language as tl


@triton.jit
def fir_lanes(lines, columns, channels, lines_log2, CHANNELS_LAST: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    """Returns (plane, line, first column, channel) of this program's lanes, where planes have `lines` lines.

    A tile of lines has 2^lines_log2 of each of A / 2^lines_log2 planes. Only planes are counted in 64 bits; all
    programs are on the grid's first axis, whose limit is 2^31 - 1.
    """
    program = tl.program_id(0)
    if CHANNELS_LAST:
        tiles = tl.cdiv(channels, B)
        channel = program % tiles * B + tl.arange(0, B)[None, :]
        tile = program // tiles
        tiles = tl.cdiv(columns, A)
        # A tile, because the interpreter can't mask with scalars.
        line = tile // tiles + tl.zeros([1, 1], tl.int32)
        return (line // lines).to(tl.int64), line % lines, tile % tiles * A, channel
    else:
        tiles, blocks = tl.cdiv(columns, B), tl.cdiv(lines, 1 << lines_log2)
        lane = tl.arange(0, A)[:, None]
        block = program // tiles
        plane = (block // blocks).to(tl.int64) * (A >> lines_log2) + (lane >> lines_log2)
        line = (block % blocks << lines_log2) + (lane & ((1 << lines_log2) - 1))
        return plane, line, program % tiles * B, tl.zeros([1, 1], tl.int32)


@triton.jit
def _lane_columns(first_column, CHANNELS_LAST: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    """Returns the columns of lanes [A, B], counted from the first."""
    if CHANNELS_LAST:  # noqa: SIM108 - shapes differ, so Triton must not see both
        columns = first_column + tl.arange(0, A)[:, None]
    else:
        columns = first_column + tl.arange(0, B)[None, :]
    return columns


@triton.jit
def _in_range(i, n):
    return (i >= 0) & (i < n)


@triton.jit
def fir_taps(
    f, offset, stride_y, stride_x, gain, FILTER: tl.constexpr, TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr
):  # fmt: skip
    """Returns the taps as a correlation: a tuple of scalars, row by row and times gain, or one axis' and without."""
    taps = ()
    if FILTER == 1:
        for x in tl.static_range(TAPS_X):
            taps += (tl.load(f + offset + x * stride_x).to(tl.float32),)
    elif FILTER == 0:
        taps += (gain,)
    else:
        for y in tl.static_range(TAPS_Y):
            for x in tl.static_range(TAPS_X):
                taps += (tl.load(f + offset + y * stride_y + x * stride_x).to(tl.float32) * gain,)
    return taps


@triton.jit
def _split_vectors(tile, A: tl.constexpr, B: tl.constexpr, VECTOR: tl.constexpr):
    """Returns the columns of a tile [A, B, VECTOR], each [A, B], which stay in their thread."""
    if VECTOR == 1:
        columns = (tl.reshape(tile, [A, B]),)
    else:
        columns = (tile,)
        # No operation that isn't needed: Triton looks, from each access to memory, at what is before and after each
        # operation, so the time to compile grows with the square of their number.
        for i in tl.static_range(4):
            if (2 << i) <= VECTOR:
                evens, odds = (), ()
                for j in tl.static_range(1 << i):
                    pairs = columns[j]
                    if (2 << i) < VECTOR:
                        pairs = tl.reshape(pairs, [A, B, VECTOR >> (i + 1), 2])
                    even, odd = tl.split(pairs)
                    evens += (even,)
                    odds += (odd,)
                columns = evens + odds
    return columns


@triton.jit
def _join_vectors(columns, START: tl.constexpr, A: tl.constexpr, B: tl.constexpr, VECTOR: tl.constexpr):
    """Returns VECTOR of `columns` from START on as one tile [A, B, VECTOR]: the inverse of `_split_vectors`."""
    parts = _slice(columns, START, VECTOR)
    if VECTOR == 1:
        parts = (tl.reshape(parts[0], [A, B, 1]),)
    for i in tl.static_range(4):
        if (2 << i) <= VECTOR:
            pairs = ()
            for j in tl.static_range(VECTOR >> (i + 1)):
                pair = tl.join(parts[j], parts[j + (VECTOR >> (i + 1))])
                if i > 0:
                    pair = tl.reshape(pair, [A, B, 2 << i])
                pairs += (pair,)
            parts = pairs
    return parts[0]


@triton.jit
def _activated(pixel, mask, activation):
    """Returns the leaky ReLU of pixels, 0 where there are none; see `fir_tile`."""
    bias, gain, gain_below_zero, clamp = activation
    value = pixel + bias
    value *= tl.where(value > 0, gain, gain_below_zero)
    value = tl.clamp(value, -clamp, clamp, tl.PropagateNan.ALL)
    return tl.where(mask, value, 0.0)


@triton.jit
def _times_slopes(pixel, y, activation):
    """Returns pixels times the derivative of a leaky ReLU, recovered from its output y; see `fir_tile`."""
    inv_gain, gain, gain_below_zero, clamp = activation
    slope = tl.where(y * inv_gain > 0, gain, gain_below_zero)
    return pixel * tl.where(tl.abs(y) < clamp, slope, 0.0)


@triton.jit
def _load_pixels(
    x, y, column, row_mask, width, column_stride, activation,
    PIXELS: tl.constexpr, FIRST_PIXEL: tl.constexpr, VECTOR: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Returns PIXELS pixels of a row for each lane, float32: a tuple of [A, B]."""
    pixels = ()
    if VECTOR == 1:
        for i in tl.static_range(PIXELS):
            mask = row_mask & _in_range(column + i, width)
            pixel = tl.load(x + i * column_stride, mask=mask, other=0.0).to(tl.float32)
            if y is not None:
                of_pixel = tl.load(y + i * column_stride, mask=mask, other=0.0).to(tl.float32)
                pixel = _times_slopes(pixel, of_pixel, activation)
            elif activation is not None:
                pixel = _activated(pixel, mask, activation)
            pixels += (pixel,)
    else:
        columns = ()
        for k in tl.static_range((FIRST_PIXEL + PIXELS - 1) // VECTOR + 1):
            vectors = tl.load(x + k * VECTOR, mask=row_mask & _in_range(column + k * VECTOR, width), other=0.0)
            columns += _split_vectors(vectors.to(tl.float32), A, B, VECTOR)
        for i in tl.static_range(PIXELS):
            pixels += (columns[FIRST_PIXEL + i],)
    return pixels


@triton.jit
def _add_window(
    total, pixels, taps, PIXEL: tl.constexpr, WINDOW: tl.constexpr, TAP: tl.constexpr, UP: tl.constexpr,
    ROW_START: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Returns `total` plus WINDOW pixels from PIXEL on, times taps TAP, TAP + UP, ... of a row of TAPS at ROW_START.

    A pixel whose tap isn't in the row adds nothing.
    """
    for i in tl.static_range(WINDOW):
        if TAP + i * UP >= 0 and TAP + i * UP < TAPS:
            total += pixels[PIXEL + i] * taps[ROW_START + TAP + i * UP]
    return total


@triton.jit
def _add_windows(
    totals, pixels, taps, ROW_START: tl.constexpr, TAPS_X: tl.constexpr, WINDOW_X: tl.constexpr,
    PHASE_X: tl.constexpr, UP_X: tl.constexpr, DOWN_X: tl.constexpr, START: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Returns N of `totals` from START on, each after `_add_window` of its pixels and of one row of taps: a tuple."""
    sums = ()
    for o in tl.static_range(N):
        sums += (
            _add_window(
                totals[START + o], pixels, taps, o // UP_X * DOWN_X, WINDOW_X, PHASE_X - o % UP_X, UP_X, ROW_START,
                TAPS_X,
            ),
        )  # fmt: skip
    return sums


@triton.jit
def _add_scaled(totals, pixels, tap, START: tl.constexpr, N: tl.constexpr):
    """Returns N of `totals` from START on, plus N pixels times one tap: a tuple."""
    sums = ()
    for o in tl.static_range(N):
        sums += (totals[START + o] + pixels[o] * tap,)
    return sums


@triton.jit
def _slice(totals, START: tl.constexpr, N: tl.constexpr):
    """Returns N of `totals` from START on."""
    items = ()
    for o in tl.static_range(N):
        items += (totals[START + o],)
    return items


@triton.constexpr_function
def _has_tap(i, window, up, phase, taps):
    """Returns whether a tap falls on the i-th pixel of a window."""
    return 0 <= i < window and 0 <= i * up + phase < taps


@triton.jit
def _next_row(pointers, first_row, stride, ROW: tl.constexpr, VECTOR: tl.constexpr):
    """Returns the pointers to ROW from those to the row before it and to the first one."""
    if VECTOR == 1 and ROW % 8 == 0:
        # Without vectors the time that Triton takes for AMD's chips grows exponentially with the additions in a chain.
        return first_row + ROW * stride
    else:
        return pointers + stride


@triton.jit
def fir_tile(
    x, row, column, lane_mask, height, width, row_stride, column_stride, taps, gain,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr, PHASE_X: tl.constexpr,
    PHASE_Y: tl.constexpr, TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr, FILTER: tl.constexpr, ROW_GROUPS: tl.constexpr,
    COLUMN_GROUPS: tl.constexpr, FIRST_PIXEL: tl.constexpr, VECTOR: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
    activation=None, y=None,
):  # fmt: skip
    """Returns ROW_GROUPS * UP_Y rows of COLUMN_GROUPS * UP_X outputs for each lane: a tuple of [A, B], row by row.

    A group starts `DOWN` pixels after the one before it. With phase = padding mod up, its output r weighs the pixel at
    distance d from the group's first pixel with tap up * d + phase - r; its window is the pixels that a tap of any of
    its outputs falls on. Rows of pixels are used up as they come: only the sums, float32, are kept.

    Args:
        x: Pointers to the pixels at (row, column) of an image (height, width): each lane's first or, with a VECTOR,
            the vector of it, whose pixel FIRST_PIXEL is the lane's first.
        lane_mask: Lanes that have a plane and a channel.
        taps: As `fir_taps` returns them.
        activation: (bias, gain, gain below zero, clamp) of a leaky ReLU that pixels go through first; needs a VECTOR
            of 1. With y it is (1 / gain, gain, gain below zero, clamp), and pixels are multiplied by its derivative.
        y: Pointers like x to the leaky ReLU's output, or None.
    """
    WINDOW_X: tl.constexpr = (TAPS_X + UP_X - 2 - PHASE_X) // UP_X + 1
    WINDOW_Y: tl.constexpr = (TAPS_Y + UP_Y - 2 - PHASE_Y) // UP_Y + 1
    N: tl.constexpr = COLUMN_GROUPS * UP_X
    zeros = ()
    for _ in tl.static_range(ROW_GROUPS * UP_Y * N):
        zeros += (tl.zeros([A, B], tl.float32),)
    totals = zeros
    first_x, first_y = x, y
    for i in tl.static_range((ROW_GROUPS - 1) * DOWN_Y + WINDOW_Y):
        row_mask = lane_mask & _in_range(row + i, height)
        pixels = _load_pixels(
            x, y, column, row_mask, width, column_stride, activation, (COLUMN_GROUPS - 1) * DOWN_X + WINDOW_X,
            FIRST_PIXEL, VECTOR, A, B,
        )  # fmt: skip
        x = _next_row(x, first_x, row_stride, i + 1, VECTOR)
        if y is not None:
            y = _next_row(y, first_y, row_stride, i + 1, VECTOR)
        # An outer product is applied along a row of pixels once, for all rows of outputs.
        if FILTER == 1:
            pixels = _add_windows(zeros, pixels, taps, 0, TAPS_X, WINDOW_X, PHASE_X, UP_X, DOWN_X, 0, N)
        sums = ()
        for r in tl.static_range(ROW_GROUPS * UP_Y):
            # Row i is the (i - r // UP_Y * DOWN_Y)-th of the window of output row r, if it is one of them.
            if _has_tap(i - r // UP_Y * DOWN_Y, WINDOW_Y, UP_Y, PHASE_Y - r % UP_Y, TAPS_Y):
                if FILTER == 1:
                    sums += _add_scaled(
                        totals, pixels, taps[(i - r // UP_Y * DOWN_Y) * UP_Y + PHASE_Y - r % UP_Y], r * N, N
                    )
                else:
                    sums += _add_windows(
                        totals, pixels, taps, ((i - r // UP_Y * DOWN_Y) * UP_Y + PHASE_Y - r % UP_Y) * TAPS_X, TAPS_X,
                        WINDOW_X, PHASE_X, UP_X, DOWN_X, r * N, N,
                    )  # fmt: skip
            else:
                sums += _slice(totals, r * N, N)
        totals = sums
    if FILTER == 1:
        totals = _add_scaled(zeros, totals, gain, 0, ROW_GROUPS * UP_Y * N)
    return totals


# Their values aren't worth a compilation.
DO_NOT_SPECIALIZE = [
    "planes", "height", "width", "out_height", "out_width", "lines_log2", "pad_x", "pad_y",
    "f_offset", "f_stride_y", "f_stride_x",
]  # fmt: skip


@triton.jit(do_not_specialize=DO_NOT_SPECIALIZE)
def upfirdn2d_kernel(
    x, f, y, planes, channels, height, width, out_height, out_width, lines_log2, pad_x, pad_y,
    f_offset, f_stride_y, f_stride_x, gain,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr, PHASE_X: tl.constexpr,
    PHASE_Y: tl.constexpr, TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr, FILTER: tl.constexpr, ROW_GROUPS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Resamples by unrolled factors and taps, a group of columns to a lane; pad is in pixels of x.

    With UP_X = 2 it interleaves the outputs of both phases, so as to store complete lines.
    """
    groups = tl.cdiv(out_width, UP_X)
    blocks = tl.cdiv(out_height, UP_Y * ROW_GROUPS)
    plane, block, first_group, channel = fir_lanes(blocks, groups, channels, lines_log2, CHANNELS_LAST, A, B)
    group = _lane_columns(first_group, CHANNELS_LAST, A, B)
    lane_mask = (plane < planes) & (block < blocks) & (channel < channels)
    row, column = block * (ROW_GROUPS * DOWN_Y) - pad_y, group * DOWN_X - pad_x
    pointers = x + (plane * height + row) * width * channels + (column * channels + channel)
    taps = fir_taps(f, f_offset, f_stride_y, f_stride_x, gain, FILTER, TAPS_X, TAPS_Y)
    outputs = fir_tile(
        pointers, row, column, lane_mask, height, width, width * channels, channels, taps, gain,
        UP_X, UP_Y, DOWN_X, DOWN_Y, PHASE_X, PHASE_Y, TAPS_X, TAPS_Y, FILTER, ROW_GROUPS, 1, 0, 1, A, B,
    )  # fmt: skip
    out_row = block * (ROW_GROUPS * UP_Y)
    y += (plane * out_height + out_row) * out_width * channels + channel
    for i in tl.static_range(ROW_GROUPS * UP_Y):
        row_mask = lane_mask & (out_row + i < out_height)
        if UP_X == 2 and not CHANNELS_LAST:
            out_column = first_group * 2 + tl.arange(0, 2 * B)[None, :]
            value = tl.interleave(outputs[2 * i], outputs[2 * i + 1])
            tl.store(y + out_column, value.to(y.dtype.element_ty), mask=row_mask & (out_column < out_width))
        else:
            for r in tl.static_range(UP_X):
                out_column = group * UP_X + r
                value = outputs[i * UP_X + r].to(y.dtype.element_ty)
                tl.store(y + out_column * channels, value, mask=row_mask & (out_column < out_width))
        y += out_width * channels


@triton.jit(do_not_specialize=DO_NOT_SPECIALIZE)
def upfirdn2d_rows_kernel(
    x, f, y, planes, height, width, out_height, out_width, lines_log2, pad_x, pad_y, f_offset, f_stride_y, f_stride_x,
    gain,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr, PHASE_X: tl.constexpr,
    PHASE_Y: tl.constexpr, TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr, FILTER: tl.constexpr, ROW_GROUPS: tl.constexpr,
    COLUMN_GROUPS: tl.constexpr, FIRST_PIXEL: tl.constexpr, LOAD_VECTOR: tl.constexpr, STORE_VECTOR: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Resamples by unrolled factors and taps contiguous rows whose lengths 16 divides.

    A load is LOAD_VECTOR pixels, a store STORE_VECTOR. pad_x is in vectors of x and rounded up; FIRST_PIXEL is what
    rounding added, in pixels.
    """
    # Their values stay the same, but this form shows the compiler that 16 divides them.
    width, out_width = width // 16 * 16, out_width // 16 * 16
    blocks = tl.cdiv(out_height, UP_Y * ROW_GROUPS)
    plane, block, first_lane, _ = fir_lanes(blocks, out_width // STORE_VECTOR, 1, lines_log2, False, A, B)
    plane, block, lane = plane[:, :, None], block[:, :, None], (first_lane + tl.arange(0, B))[None, :, None]
    lane_mask = (plane < planes) & (block < blocks)
    row = block * (ROW_GROUPS * DOWN_Y) - pad_y
    column = lane * (COLUMN_GROUPS * DOWN_X) - pad_x * LOAD_VECTOR + tl.arange(0, LOAD_VECTOR)[None, None, :]
    pointers = x + (plane * height + row) * width + column
    taps = fir_taps(f, f_offset, f_stride_y, f_stride_x, gain, FILTER, TAPS_X, TAPS_Y)
    outputs = fir_tile(
        pointers, row, column, lane_mask, height, width, width, 1, taps, gain, UP_X, UP_Y, DOWN_X, DOWN_Y,
        PHASE_X, PHASE_Y, TAPS_X, TAPS_Y, FILTER, ROW_GROUPS, COLUMN_GROUPS, FIRST_PIXEL, LOAD_VECTOR, A, B,
    )  # fmt: skip
    out_row, out_column = block * (ROW_GROUPS * UP_Y), lane * STORE_VECTOR + tl.arange(0, STORE_VECTOR)[None, None, :]
    y += (plane * out_height + out_row) * out_width + out_column
    mask = lane_mask & (out_column < out_width)
    for i in tl.static_range(ROW_GROUPS * UP_Y):
        value = _join_vectors(outputs, i * STORE_VECTOR, A, B, STORE_VECTOR).to(y.dtype.element_ty)
        tl.store(y, value, mask=mask & (out_row + i < out_height))
        y += out_width


@triton.jit
def _first_tap(output, up, down, shift):
    """Returns (first tap that falls on a pixel, that pixel) for outputs of an axis.

    Padding is a multiple of `up`, less `shift`.
    """
    position = output * down + shift
    tap = (up - position % up) % up
    return tap, (position + tap) // up


@triton.jit(
    do_not_specialize=[
        *DO_NOT_SPECIALIZE, "up_x", "up_y", "down_x", "down_y", "shift_x", "shift_y", "taps_x", "taps_y",
    ]
)  # fmt: skip
def upfirdn2d_looped_kernel(
    x, f, y, planes, channels, height, width, out_height, out_width, lines_log2, up_x, up_y, down_x, down_y,
    pad_x, pad_y, shift_x, shift_y, taps_x, taps_y, f_offset, f_stride_y, f_stride_x, gain,
    CHANNELS_LAST: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Resamples by any factors and number of taps; pad is in pixels of x."""
    plane, out_row, first_column, channel = fir_lanes(out_height, out_width, channels, lines_log2, CHANNELS_LAST, A, B)
    out_column = _lane_columns(first_column, CHANNELS_LAST, A, B)
    lane_mask = (plane < planes) & (out_row < out_height) & (channel < channels) & (out_column < out_width)
    tap_x, column = _first_tap(out_column, up_x, down_x, shift_x)
    tap_y, row = _first_tap(out_row, up_y, down_y, shift_y)
    column -= pad_x
    row -= pad_y
    pointers = x + (plane * height + row) * width * channels + (column * channels + channel)
    f += f_offset + tap_y * f_stride_y + tap_x * f_stride_x
    total = tl.zeros([A, B], tl.float32)
    for j in range(tl.cdiv(taps_y, up_y)):
        row_mask = (tap_y + j * up_y < taps_y) & _in_range(row + j, height)
        for i in range(tl.cdiv(taps_x, up_x)):
            tap_mask = row_mask & (tap_x + i * up_x < taps_x) & _in_range(column + i, width)
            tap = tl.load(f + i * up_x * f_stride_x, mask=tap_mask, other=0.0).to(tl.float32) * gain
            total += tl.load(pointers + i * channels, mask=tap_mask & lane_mask, other=0.0).to(tl.float32) * tap
        f += up_y * f_stride_y
        pointers += width * channels
    y += (plane * out_height + out_row) * out_width * channels + (out_column * channels + channel)
    tl.store(y, total.to(y.dtype.element_ty), mask=lane_mask)
