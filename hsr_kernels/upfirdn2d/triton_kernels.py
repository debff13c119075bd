# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of upfirdn2d: the unrolled ones are polyphase and keep their sums in registers.

Images are [planes, height, width, channels] in memory: planes are N * C and channels 1 where they are contiguous,
planes are N where they are channels_last. Lanes are a tile [A, B]: of lines and columns in the first case, of columns
and channels in the second, so that consecutive lanes touch consecutive memory. A lane has GROUPS groups of UP_Y rows
of outputs, one below the other, and ACROSS groups of UP_X columns, one beside the other.

Contiguous rows whose length 16 divides are read and written in vectors: a lane's outputs of a row are the 16 bytes
that it stores, its pixels come in aligned vectors, neighbours' from the cache, and are told apart in registers.

Not measured, but counted in SASS of sm_90: an H200 can issue about 55 instructions per output of a same-size float32
filter in the time that it copies one, 28 in 16 bits; 34 and 17 going up by 2, 138 and 69 going down. With [4, 4] taps,
rows take 30 and 25, 23 and 15, 62 and 48; channels_last 48 and 41 (so 16 bits wait for arithmetic there), 14 and 11, 63
and 53. 12 taps along each axis take rows 74 and 83, 30 and 23, 115 and 102: arithmetic in 16 bits, but one pass.
"""

import triton
import triton.language as tl


@triton.jit
def fir_place(lines, columns, channels, fold, LAST: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    """This program's lanes, where planes have `lines` lines: (plane, line, first column, channel).

    A tile of lines has 2^fold of each of A / 2^fold planes. Only planes are counted in 64 bits; all programs are on the
    grid's first axis, whose limit is 2^31 - 1.
    """
    program = tl.program_id(0)
    if LAST:
        tiles = tl.cdiv(channels, B)
        channel = program % tiles * B + tl.arange(0, B)[None, :]
        tile = program // tiles
        tiles = tl.cdiv(columns, A)
        line = tile // tiles + tl.zeros([1, 1], tl.int32)  # a tile: the interpreter can't mask with scalars
        return (line // lines).to(tl.int64), line % lines, tile % tiles * A, channel
    else:
        tiles, blocks = tl.cdiv(columns, B), tl.cdiv(lines, 1 << fold)
        lane = tl.arange(0, A)[:, None]
        block = program // tiles
        plane = (block // blocks).to(tl.int64) * (A >> fold) + (lane >> fold)
        line = (block % blocks << fold) + (lane & ((1 << fold) - 1))
        return plane, line, program % tiles * B, tl.zeros([1, 1], tl.int32)


@triton.jit
def _along(first, LAST: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    """Columns of lanes [A, B], counted from `first`."""
    if LAST:  # noqa: SIM108 - shapes differ, so Triton must not see both
        columns = first + tl.arange(0, A)[:, None]
    else:
        columns = first + tl.arange(0, B)[None, :]
    return columns


@triton.jit
def _within(i, n):
    return (i >= 0) & (i < n)


@triton.jit
def fir_taps(
    f, start, step_y, step_x, gain, FILTER: tl.constexpr, TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr
):  # fmt: skip
    """The taps as a correlation: a tuple of scalars, row by row and times gain, or one axis' and without."""
    taps = ()
    if FILTER == 1:
        for x in tl.static_range(TAPS_X):
            taps += (tl.load(f + start + x * step_x).to(tl.float32),)
    elif FILTER == 0:
        taps += (gain,)
    else:
        for y in tl.static_range(TAPS_Y):
            for x in tl.static_range(TAPS_X):
                taps += (tl.load(f + start + y * step_y + x * step_x).to(tl.float32) * gain,)
    return taps


@triton.jit
def _apart(tile, A: tl.constexpr, B: tl.constexpr, VECTOR: tl.constexpr):
    """The columns of a tile [A, B, VECTOR], each [A, B], which stay in their thread."""
    parts = (tile,)
    for i in tl.static_range(4):
        if (2 << i) <= VECTOR:
            evens, odds = (), ()
            for j in tl.static_range(1 << i):
                even, odd = tl.split(tl.reshape(parts[j], [A, B, VECTOR >> (i + 1), 2]))
                evens += (even,)
                odds += (odd,)
            parts = evens + odds
    columns = ()
    for j in tl.static_range(VECTOR):
        columns += (tl.reshape(parts[j], [A, B]),)
    return columns


@triton.jit
def _together(columns, FIRST: tl.constexpr, A: tl.constexpr, B: tl.constexpr, VECTOR: tl.constexpr):
    """VECTOR of `columns` from FIRST on as one tile [A, B, VECTOR]: the inverse of `_apart`."""
    parts = ()
    for j in tl.static_range(VECTOR):
        parts += (tl.reshape(columns[FIRST + j], [A, B, 1]),)
    for i in tl.static_range(4):
        if (2 << i) <= VECTOR:
            joined = ()
            for j in tl.static_range(VECTOR >> (i + 1)):
                pair = tl.join(parts[j], parts[j + (VECTOR >> (i + 1))])
                joined += (tl.reshape(pair, [A, B, 2 << i]),)
            parts = joined
    return parts[0]


@triton.jit
def _pixels(
    x, column, readable, width, step,
    NEED: tl.constexpr, SKIP: tl.constexpr, VECTOR: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """NEED pixels of a row for each lane, float32: a tuple of [A, B]."""
    pixels = ()
    if VECTOR == 1:
        for d in tl.static_range(NEED):
            pixel = tl.load(x + d * step, mask=readable & _within(column + d, width), other=0.0)
            pixels += (pixel.to(tl.float32),)
    else:
        read = ()
        for k in tl.static_range((SKIP + NEED - 1) // VECTOR + 1):
            vector = tl.load(x + k * VECTOR, mask=readable & _within(column + k * VECTOR, width), other=0.0)
            read += _apart(vector.to(tl.float32), A, B, VECTOR)
        for d in tl.static_range(NEED):
            pixels += (read[SKIP + d],)
    return pixels


@triton.jit
def _row(
    total, pixels, taps, FIRST: tl.constexpr, NEAR: tl.constexpr, TAP: tl.constexpr, UP: tl.constexpr,
    START: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """total + NEAR pixels from FIRST on, times taps TAP, TAP + UP, ... as far as a row of TAPS from START has them."""
    for d in tl.static_range(NEAR):
        if TAP + d * UP >= 0 and TAP + d * UP < TAPS:
            total += pixels[FIRST + d] * taps[START + TAP + d * UP]
    return total


@triton.jit
def _rows(
    total, pixels, taps, START: tl.constexpr, TAPS_X: tl.constexpr, NEAR_X: tl.constexpr, PHASE_X: tl.constexpr,
    UP_X: tl.constexpr, DOWN_X: tl.constexpr, FIRST: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """N of `total` from FIRST on, each with `_row` of its pixels and of a row of taps added: a tuple."""
    sums = ()
    for o in tl.static_range(N):
        sums += (
            _row(total[FIRST + o], pixels, taps, o // UP_X * DOWN_X, NEAR_X, PHASE_X - o % UP_X, UP_X, START, TAPS_X),
        )  # fmt: skip
    return sums


@triton.jit
def _scaled(total, pixels, tap, FIRST: tl.constexpr, N: tl.constexpr):
    """N of `total` from FIRST on, plus N pixels times one tap: a tuple."""
    sums = ()
    for o in tl.static_range(N):
        sums += (total[FIRST + o] + pixels[o] * tap,)
    return sums


@triton.jit
def _kept(total, FIRST: tl.constexpr, N: tl.constexpr):
    """N of `total` from FIRST on."""
    kept = ()
    for o in tl.static_range(N):
        kept += (total[FIRST + o],)
    return kept


@triton.constexpr_function
def _meets(d, near, up, shift, taps):
    """Whether the d-th of `near` pixels has a tap."""
    return 0 <= d < near and 0 <= d * up + shift < taps


@triton.jit
def fir_tile(
    x, row, column, inside, height, width, row_stride, column_stride, taps, gain,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr, PHASE_X: tl.constexpr,
    PHASE_Y: tl.constexpr, TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr, FILTER: tl.constexpr, GROUPS: tl.constexpr,
    ACROSS: tl.constexpr, SKIP: tl.constexpr, VECTOR: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """GROUPS * UP_Y rows of ACROSS * UP_X outputs for each lane, float32: a tuple of [A, B], row by row.

    A group starts `DOWN` pixels after the one before it. With phase = padding mod up, its output r weighs the pixel at
    distance d from the group's first pixel with tap up * d + phase - r. Rows of pixels are used up as they come: what
    is held is the sums.

    Args:
        x: Pointers to the pixels at (row, column) of an image (height, width): each lane's first or, with a VECTOR,
            the vector of it, whose pixel SKIP is the lane's first.
        inside: Lanes that have a plane and a channel.
        taps: Of `fir_taps`.
    """
    NEAR_X: tl.constexpr = (TAPS_X + UP_X - 2 - PHASE_X) // UP_X + 1
    NEAR_Y: tl.constexpr = (TAPS_Y + UP_Y - 2 - PHASE_Y) // UP_Y + 1
    N: tl.constexpr = ACROSS * UP_X
    zeros = ()
    for _ in tl.static_range(GROUPS * UP_Y * N):
        zeros += (tl.zeros([A, B], tl.float32),)
    results = zeros
    for i in tl.static_range((GROUPS - 1) * DOWN_Y + NEAR_Y):
        readable = inside & _within(row + i, height)
        pixels = _pixels(x, column, readable, width, column_stride, (ACROSS - 1) * DOWN_X + NEAR_X, SKIP, VECTOR, A, B)
        x += row_stride
        if FILTER == 1:  # along the row once, for all rows of outputs
            pixels = _rows(zeros, pixels, taps, 0, TAPS_X, NEAR_X, PHASE_X, UP_X, DOWN_X, 0, N)
        updated = ()
        for r in tl.static_range(GROUPS * UP_Y):
            # Row i is the (i - r // UP_Y * DOWN_Y)-th of those near, if it is one of them.
            if _meets(i - r // UP_Y * DOWN_Y, NEAR_Y, UP_Y, PHASE_Y - r % UP_Y, TAPS_Y):
                if FILTER == 1:
                    updated += _scaled(
                        results, pixels, taps[(i - r // UP_Y * DOWN_Y) * UP_Y + PHASE_Y - r % UP_Y], r * N, N
                    )
                else:
                    updated += _rows(
                        results, pixels, taps, ((i - r // UP_Y * DOWN_Y) * UP_Y + PHASE_Y - r % UP_Y) * TAPS_X, TAPS_X,
                        NEAR_X, PHASE_X, UP_X, DOWN_X, r * N, N,
                    )  # fmt: skip
            else:
                updated += _kept(results, r * N, N)
        results = updated
    if FILTER == 1:
        results = _scaled(zeros, results, gain, 0, GROUPS * UP_Y * N)
    return results


_SIZES = ["planes", "height", "width", "out_height", "out_width", "fold"]  # not worth a compilation for their values
_STEPS = ["pad_x", "pad_y", "f_start", "f_step_y", "f_step_x"]


@triton.jit(do_not_specialize=_SIZES + _STEPS)
def upfirdn2d_kernel(
    x, f, y, planes, channels, height, width, out_height, out_width, fold, pad_x, pad_y, f_start, f_step_y, f_step_x,
    gain,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr, PHASE_X: tl.constexpr,
    PHASE_Y: tl.constexpr, TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr, FILTER: tl.constexpr, GROUPS: tl.constexpr,
    LAST: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Unrolled, a group of columns to a lane; pad is in pixels of x. up=2 weaves its phases to store complete lines."""
    groups = tl.cdiv(out_width, UP_X)
    blocks = tl.cdiv(out_height, UP_Y * GROUPS)
    plane, block, first, channel = fir_place(blocks, groups, channels, fold, LAST, A, B)
    group = _along(first, LAST, A, B)
    inside = (plane < planes) & (block < blocks) & (channel < channels)
    row, column = block * (GROUPS * DOWN_Y) - pad_y, group * DOWN_X - pad_x
    at = x + (plane * height + row) * width * channels + (column * channels + channel)
    taps = fir_taps(f, f_start, f_step_y, f_step_x, gain, FILTER, TAPS_X, TAPS_Y)
    results = fir_tile(
        at, row, column, inside, height, width, width * channels, channels, taps, gain,
        UP_X, UP_Y, DOWN_X, DOWN_Y, PHASE_X, PHASE_Y, TAPS_X, TAPS_Y, FILTER, GROUPS, 1, 0, 1, A, B,
    )  # fmt: skip
    out_row = block * (GROUPS * UP_Y)
    y += (plane * out_height + out_row) * out_width * channels + channel
    for i in tl.static_range(GROUPS * UP_Y):
        writable = inside & (out_row + i < out_height)
        if UP_X == 2 and not LAST:
            out_column = first * 2 + tl.arange(0, 2 * B)[None, :]
            value = tl.interleave(results[2 * i], results[2 * i + 1])
            tl.store(y + out_column, value.to(y.dtype.element_ty), mask=writable & (out_column < out_width))
        else:
            for r in tl.static_range(UP_X):
                out_column = group * UP_X + r
                value = results[i * UP_X + r].to(y.dtype.element_ty)
                tl.store(y + out_column * channels, value, mask=writable & (out_column < out_width))
        y += out_width * channels


@triton.jit(do_not_specialize=_SIZES + _STEPS)
def upfirdn2d_rows_kernel(
    x, f, y, planes, height, width, out_height, out_width, fold, pad_x, pad_y, f_start, f_step_y, f_step_x, gain,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr, PHASE_X: tl.constexpr,
    PHASE_Y: tl.constexpr, TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr, FILTER: tl.constexpr, GROUPS: tl.constexpr,
    ACROSS: tl.constexpr, SKIP: tl.constexpr, VECTOR: tl.constexpr, STORED: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Unrolled, for contiguous rows of multiples of 16: VECTOR pixels to a load, STORED to a store.

    pad_x is in vectors of x, rounded up, and SKIP is by how many pixels.
    """
    width, out_width = width // 16 * 16, out_width // 16 * 16  # as they are; what follows is known to be aligned
    blocks = tl.cdiv(out_height, UP_Y * GROUPS)
    plane, block, first, _ = fir_place(blocks, out_width // STORED, 1, fold, False, A, B)
    plane, block, lane = plane[:, :, None], block[:, :, None], (first + tl.arange(0, B))[None, :, None]
    inside = (plane < planes) & (block < blocks)
    row = block * (GROUPS * DOWN_Y) - pad_y
    column = lane * (ACROSS * DOWN_X) - pad_x * VECTOR + tl.arange(0, VECTOR)[None, None, :]
    at = x + (plane * height + row) * width + column
    taps = fir_taps(f, f_start, f_step_y, f_step_x, gain, FILTER, TAPS_X, TAPS_Y)
    results = fir_tile(
        at, row, column, inside, height, width, width, 1, taps, gain, UP_X, UP_Y, DOWN_X, DOWN_Y, PHASE_X, PHASE_Y,
        TAPS_X, TAPS_Y, FILTER, GROUPS, ACROSS, SKIP, VECTOR, A, B,
    )  # fmt: skip
    out_row, out_column = block * (GROUPS * UP_Y), lane * STORED + tl.arange(0, STORED)[None, None, :]
    y += (plane * out_height + out_row) * out_width + out_column
    writable = inside & (out_column < out_width)
    for i in tl.static_range(GROUPS * UP_Y):
        value = _together(results, i * STORED, A, B, STORED).to(y.dtype.element_ty)
        tl.store(y, value, mask=writable & (out_row + i < out_height))
        y += out_width


@triton.jit
def _first_tap(out, up, down, shift):
    """(first tap that meets a pixel, that pixel) for outputs of an axis, padding being a multiple of up less shift."""
    position = out * down + shift
    first = (up - position % up) % up
    return first, (position + first) // up


@triton.jit(
    do_not_specialize=[
        *_SIZES, *_STEPS, "up_x", "up_y", "down_x", "down_y", "shift_x", "shift_y", "taps_x", "taps_y"
    ]
)  # fmt: skip
def upfirdn2d_looped_kernel(
    x, f, y, planes, channels, height, width, out_height, out_width, fold, up_x, up_y, down_x, down_y,
    pad_x, pad_y, shift_x, shift_y, taps_x, taps_y, f_start, f_step_y, f_step_x, gain,
    LAST: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Any factors and number of taps; pad is in pixels of x."""
    plane, out_row, first, channel = fir_place(out_height, out_width, channels, fold, LAST, A, B)
    out_column = _along(first, LAST, A, B)
    inside = (plane < planes) & (out_row < out_height) & (channel < channels) & (out_column < out_width)
    tap_x, column = _first_tap(out_column, up_x, down_x, shift_x)
    tap_y, row = _first_tap(out_row, up_y, down_y, shift_y)
    column -= pad_x
    row -= pad_y
    at = x + (plane * height + row) * width * channels + (column * channels + channel)
    f += f_start + tap_y * f_step_y + tap_x * f_step_x
    total = tl.zeros([A, B], tl.float32)
    for j in range(tl.cdiv(taps_y, up_y)):
        meets = (tap_y + j * up_y < taps_y) & _within(row + j, height)
        for i in range(tl.cdiv(taps_x, up_x)):
            live = meets & (tap_x + i * up_x < taps_x) & _within(column + i, width)
            tap = tl.load(f + i * up_x * f_step_x, mask=live, other=0.0).to(tl.float32) * gain
            total += tl.load(at + i * channels, mask=live & inside, other=0.0).to(tl.float32) * tap
        f += up_y * f_step_y
        at += width * channels
    y += (plane * out_height + out_row) * out_width * channels + (out_column * channels + channel)
    tl.store(y, total.to(y.dtype.element_ty), mask=inside)
