# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the HSR loss's hidden layer: GEMM, ReLU, gain and pooling in one, and the transpose.

Neither the hidden layer nor its gradient, [K, H * W] of every sample, is ever in memory: tiles of them live in
registers, next to a GEMM on one side and to the pooling on the other. Adaptive average pooling of one axis averages
[floor(o * in / out), ceil((o + 1) * in / out)) for output o, a window; windows are always numbered row by row.
"""

import triton
import triton.language as tl

from .. import _native

# The interpreter keeps bfloat16 as integers, and multiplies these.
_WIDEN = tl.constexpr(_native.triton_interprets())


@triton.jit
def _dot(a, b, z, PRECISION: tl.constexpr):
    """a @ b + z."""
    if _WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, z, input_precision=PRECISION)


@triton.jit
def _begin(window, size, out):
    """First position of a window of adaptive average pooling."""
    return window * size // out


@triton.jit
def _end(window, size, out):
    """The position after the last of a window of adaptive average pooling."""
    return ((window + 1) * size + out - 1) // out


@triton.jit
def _affine(z, w1, x, pixel, row, k, c, x_c, inside, BC: tl.constexpr, PRECISION: tl.constexpr):
    """z + w1[row] @ x of pixels, `pixel` being their offsets from x."""
    channel = tl.arange(0, BC).to(pixel.dtype)
    for first in range(0, c, BC):
        at = first + channel
        w = tl.load(w1 + row[:, None] * c + at[None, :], mask=(row < k)[:, None] & (at < c)[None, :], other=0.0)
        v = tl.load(x + (at[:, None] * x_c + pixel[None, :]), mask=(at < c)[:, None] & inside[None, :], other=0.0)
        z = _dot(w, v, z, PRECISION)
    return z


@triton.jit
def _pack(flags, ROWS: tl.constexpr, PIXELS: tl.constexpr, BITS: tl.constexpr):
    """Flags [ROWS, PIXELS] as words of BITS bits each, the lowest bit first."""
    bits = tl.reshape(flags.to(tl.int32), [ROWS, PIXELS // BITS, BITS]) << tl.arange(0, BITS)[None, None, :]
    return tl.sum(bits, 2)


@triton.jit
def feature_hidden_kernel(
    x, w1, b1, pooled, mask, c, k, h, w, th, tw, x_n, x_c, x_p, blocks, tiles, span_y, span_x, gain,
    BK: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, BITS: tl.constexpr, PRECISION: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """Any shape: a tile's columns are windows, whose pixels (at most span_y x span_x) are visited one after another.

    A pixel is computed once for every window that it belongs to. Where windows are pixels (th = h, tw = w) that is
    once, and only there may `mask` be given; without `pooled` only the mask is written.
    """
    block = tl.program_id(0) % blocks
    tile = tl.program_id(0) // blocks % tiles
    n = (tl.program_id(0) // blocks // tiles).to(tl.int64)
    row = (block * BK + tl.arange(0, BK)).to(INDEX)
    window = tile * BP + tl.arange(0, BP)
    top, left = _begin(window // tw, h, th), _begin(window % tw, w, tw)
    bottom, right = _end(window // tw, h, th), _end(window % tw, w, tw)
    bias = tl.load(b1 + row, mask=row < k, other=0.0).to(tl.float32)[:, None]
    total = tl.zeros([BK, BP], tl.float32)
    for step in range(span_y * span_x):
        py, px = top + step // span_x, left + step % span_x
        inside = (window < th * tw) & (py < bottom) & (px < right)
        at = (py * w + px).to(INDEX) * x_p
        z = tl.zeros([BK, BP], tl.float32) + bias
        z = _affine(z, w1, x + n * x_n, at, row, k, c, x_c, inside, BC, PRECISION)
        z = tl.where(inside[None, :] & (z > 0), z, 0.0)
        total += z
        if mask is not None:
            words = (h * w + 7) // 8 * 8 // BITS
            word = tile * (BP // BITS) + tl.arange(0, BP // BITS)
            packed = _pack(z > 0, BK, BP, BITS).to(mask.dtype.element_ty)
            to = mask + n * k * words + (row[:, None] * words + word[None, :])
            tl.store(to, packed, mask=(row < k)[:, None] & (word < words)[None, :])
    if pooled is not None:
        scale = gain / ((bottom - top) * (right - left)).to(tl.float32)
        to = pooled + n * k * (th * tw) + (row[:, None] * (th * tw) + window[None, :])
        tl.store(to, total * scale[None, :], mask=(row < k)[:, None] & (window < th * tw)[None, :])


@triton.jit
def feature_hidden_rows_kernel(
    x, w1, b1, pooled, mask, n, c, k, h, w, th, tw, x_n, x_c, x_p,
    blocks, parts, part_rows, sides, side_columns, gain,
    BK: tl.constexpr, BC: tl.constexpr, SAMPLES: tl.constexpr, WIDTH: tl.constexpr, WINDOWS: tl.constexpr,
    BITS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """th <= h, tw <= w: a tile is a row (or one of its `sides`) of SAMPLES images, and the program walks down the rows.

    A row ends at most one window and at most it is shared with the next one, so one running sum over rows is enough:
    columns are pooled by a second, small GEMM where a window ends. `part_rows` windows down and `side_columns` windows
    across belong to a program.
    """
    block = tl.program_id(0) % blocks
    side = tl.program_id(0) // blocks % sides
    part = tl.program_id(0) // blocks // sides % parts
    first_sample = tl.program_id(0) // blocks // sides // parts * SAMPLES
    row = block * BK + tl.arange(0, BK)
    first_column = _begin(side * side_columns, w, tw) // BITS * BITS
    last_column = _begin((side + 1) * side_columns, w, tw) // BITS * BITS if side + 1 < sides else w
    pixel = tl.arange(0, SAMPLES * WIDTH)
    sample, column = first_sample + pixel // WIDTH, first_column + pixel % WIDTH
    inside = (sample < n) & (column < w)
    x += first_sample.to(tl.int64) * x_n
    mask += first_sample.to(tl.int64) * k * (h * w // BITS)
    pooled += first_sample.to(tl.int64) * k * (th * tw)
    at = pixel // WIDTH * x_n + column * x_p
    word = tl.arange(0, SAMPLES * WIDTH // BITS)
    word_sample, word_column = word // (WIDTH // BITS), first_column + word % (WIDTH // BITS) * BITS
    words = (word_sample[None, :] * k + row[:, None]) * (h * w // BITS) + word_column[None, :] // BITS
    keeps = (row < k)[:, None] & ((first_sample + word_sample < n) & (word_column < last_column))[None, :]
    bias = tl.load(b1 + row, mask=row < k, other=0.0).to(tl.float32)[:, None]

    window = part * part_rows
    last = tl.minimum(window + part_rows, th)
    last_row = _begin(last, h, th)  # the next part's mask begins there
    total = tl.zeros([BK, SAMPLES * WIDTH], tl.float32)
    for y in range(_begin(window, h, th), _end(last - 1, h, th)):
        z = tl.zeros([BK, SAMPLES * WIDTH], tl.float32) + bias
        z = _affine(z, w1, x + y * w * x_p, at, row, k, c, x_c, inside, BC, PRECISION)
        packed = _pack(z > 0, BK, SAMPLES * WIDTH, BITS).to(mask.dtype.element_ty)
        if y < last_row:
            tl.store(mask + y * (w // BITS) + words, packed, mask=keeps)
        z = tl.where(z > 0, z, 0.0)
        total += z
        if y + 1 == _end(window, h, th):
            # The mean over rows before it is rounded, so that it is in range wherever the hidden layer is.
            mean = (total * (gain / (y + 1 - _begin(window, h, th)))).to(x.dtype.element_ty)
            _store_columns(
                pooled, mean, n, k, row, first_sample, window, first_column,
                side * side_columns, tl.minimum((side + 1) * side_columns, tw), w, th, tw,
                SAMPLES, WIDTH, WINDOWS, PRECISION,
            )  # fmt: skip
            window += 1
            total = tl.where(_begin(window, h, th) <= y, z, 0.0)


@triton.jit
def _store_columns(
    pooled, mean, n, k, row, first_sample, window, first_column, first, last, w, th, tw,
    SAMPLES: tl.constexpr, WIDTH: tl.constexpr, WINDOWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Pools `mean` [BK, SAMPLES * WIDTH], over rows already, over columns: windows [first, last) of row `window`."""
    index, pixel = tl.arange(0, SAMPLES * WINDOWS), tl.arange(0, SAMPLES * WIDTH)
    sample, across = index // WINDOWS, first + index % WINDOWS
    left, right = _begin(across, w, tw), _end(across, w, tw)
    column = (first_column + pixel % WIDTH)[:, None]
    belongs = (column >= left[None, :]) & (column < right[None, :]) & ((pixel // WIDTH)[:, None] == sample[None, :])
    zero = tl.zeros([mean.shape[0], SAMPLES * WINDOWS], tl.float32)
    sums = _dot(mean, belongs.to(tl.float32).to(mean.dtype), zero, PRECISION) / (right - left).to(tl.float32)[None, :]
    # The window's number is added to columns, not to the sum, so that no two-dimensional part of this is invariant and
    # occupies registers all the way down the image.
    to = sample * k * (th * tw) + window * tw + across
    here = (row < k)[:, None] & ((across < last) & (first_sample + sample < n))[None, :]
    tl.store(pooled + (row[:, None] * (th * tw) + to[None, :]), sums, mask=here)


@triton.jit
def _spread(
    spread, share, factor, first, y, x, row, k, h, w, th, tw,
    DTYPE: tl.constexpr, BQ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """spread + the transposed pooling of BQ windows' gradients from `first` on, for pixels (y, x), [BK, BP]."""
    window = first + tl.arange(0, BQ)
    top, left = _begin(window // tw, h, th), _begin(window % tw, w, tw)
    bottom, right = _end(window // tw, h, th), _end(window % tw, w, tw)
    here = (row < k)[:, None] & (window < th * tw)[None, :]
    value = tl.load(share + (row[:, None] * (th * tw) + window[None, :]), mask=here, other=0.0)
    value *= (factor / ((bottom - top) * (right - left)).to(tl.float32))[None, :]
    belongs = (y >= top[:, None]) & (y < bottom[:, None]) & (x >= left[:, None]) & (x < right[:, None])
    return _dot(value.to(DTYPE), belongs.to(tl.float32).to(DTYPE), spread, PRECISION)


@triton.jit
def _hidden_gradient(
    dpooled, unit, mask, n, row, tile, k, h, w, th, tw, gain, DTYPE: tl.constexpr,
    BK: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, CHUNKS: tl.constexpr, BITS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile [BK, BP] of the pre-activations' gradient, times *unit, in float32; BQ = 0: windows are pixels."""
    pixel = tile * BP + tl.arange(0, BP)
    factor = gain if unit is None else gain * tl.load(unit)
    share = dpooled + n * k * (th * tw)
    if BQ == 0:
        here = (row < k)[:, None] & (pixel < h * w)[None, :]
        spread = tl.load(share + (row[:, None] * (h * w) + pixel[None, :]), mask=here, other=0.0) * factor
    else:
        y, x = (pixel // w)[None, :], (pixel % w)[None, :]
        first = tile * BP // w * th // h * tw  # the first window of the first row of windows that the tile touches
        spread = tl.zeros([BK, BP], tl.float32)
        if CHUNKS == 1:  # no loop: what doesn't depend on `row` is then computed once, outside of the caller's loop
            spread = _spread(spread, share, factor, first, y, x, row, k, h, w, th, tw, DTYPE, BQ, PRECISION)
        else:
            for chunk in range(CHUNKS):
                at = first + chunk * BQ
                spread = _spread(spread, share, factor, at, y, x, row, k, h, w, th, tw, DTYPE, BQ, PRECISION)
    words = (h * w + 7) // 8 * 8 // BITS
    word = tile * (BP // BITS) + tl.arange(0, BP // BITS)
    here = (row < k)[:, None] & (word < words)[None, :]
    packed = tl.load(mask + n * k * words + (row[:, None] * words + word[None, :]), mask=here, other=0)
    bits = (packed.to(tl.int32)[:, :, None] >> tl.arange(0, BITS)[None, None, :]) & 1
    return tl.where(tl.reshape(bits, [BK, BP]) != 0, spread, 0.0)


@triton.jit
def feature_hidden_bwd_data_kernel(
    dpooled, unit, mask, w1, dx, c, k, h, w, th, tw, blocks, tiles, gain,
    BK: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, CHUNKS: tl.constexpr,
    BITS: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """dx = w1^T @ dz: a program owns a tile of pixels and a block of channels."""
    channel = (tl.program_id(0) % blocks * BC + tl.arange(0, BC)).to(INDEX)
    tile = tl.program_id(0) // blocks % tiles
    n = (tl.program_id(0) // blocks // tiles).to(tl.int64)
    total = tl.zeros([BC, BP], tl.float32)
    for first in range(0, k, BK):
        row = (first + tl.arange(0, BK)).to(INDEX)
        dz = _hidden_gradient(
            dpooled, unit, mask, n, row, tile, k, h, w, th, tw, gain, w1.dtype.element_ty,
            BK, BP, BQ, CHUNKS, BITS, PRECISION,
        )  # fmt: skip
        here = (row < k)[None, :] & (channel < c)[:, None]
        weights = tl.load(w1 + row[None, :] * c + channel[:, None], mask=here, other=0.0)
        total = _dot(weights, dz.to(weights.dtype), total, PRECISION)
    if unit is not None:
        total /= tl.load(unit)
    pixel = tile * BP + tl.arange(0, BP)
    to = dx + n * c * (h * w) + (channel[:, None] * (h * w) + pixel[None, :])
    tl.store(to, total.to(dx.dtype.element_ty), mask=(channel < c)[:, None] & (pixel < h * w)[None, :])


@triton.jit
def feature_hidden_bwd_weight_kernel(
    dpooled, unit, mask, x, dw, db, n, c, k, h, w, th, tw, x_n, x_c, x_p, rows, blocks, tiles, steps, gain,
    BK: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, CHUNKS: tl.constexpr,
    BITS: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """dw [parts, K, C] = dz @ x^T (None: not asked for) and db [parts, K] = sums of dz, over `steps` tiles a part."""
    row = (tl.program_id(0) % rows * BK + tl.arange(0, BK)).to(INDEX)
    block = tl.program_id(0) // rows % blocks
    part = (tl.program_id(0) // rows // blocks).to(tl.int64)
    channel = (block * BC + tl.arange(0, BC)).to(INDEX)
    total = tl.zeros([BK, BC], tl.float32)
    sums = tl.zeros([BK], tl.float32)
    for step in range(part * steps, tl.minimum((part + 1) * steps, tiles * n)):
        tile = (step % tiles).to(tl.int32)
        dz = _hidden_gradient(
            dpooled, unit, mask, step // tiles, row, tile, k, h, w, th, tw, gain, x.dtype.element_ty,
            BK, BP, BQ, CHUNKS, BITS, PRECISION,
        )  # fmt: skip
        sums += tl.sum(dz, 1)
        if dw is not None:
            pixel = tile * BP + tl.arange(0, BP)
            here = (pixel < h * w)[:, None] & (channel < c)[None, :]
            at = x + step // tiles * x_n + (pixel.to(INDEX)[:, None] * x_p + channel[None, :] * x_c)
            v = tl.load(at, mask=here, other=0.0)
            total = _dot(dz.to(v.dtype), v, total, PRECISION)
    factor = 1.0 if unit is None else 1.0 / tl.load(unit)
    if block == 0:
        tl.store(db + part * k + row, sums * factor, mask=row < k)
    if dw is not None:
        to = dw + part * k * c + (row[:, None] * c + channel[None, :])
        tl.store(to, total * factor, mask=(row < k)[:, None] & (channel < c)[None, :])
