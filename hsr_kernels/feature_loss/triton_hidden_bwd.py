# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the gradient of the HSR loss's hidden layer.

A tile of the pre-activations' gradient is made where it is used: the windows' gradients, spread over pixels by a small
GEMM and masked by the ReLU. The mask comes from the forward's own kernel, which runs again. The scales differ in how
many windows a tile touches, which decides on the tensor-core instructions: each has its own code in the one kernel.
"""

import triton
import triton.language as tl

from .triton_common import assume_divisible, program_number, unit, window_begin, window_end


@triton.jit
def _spread_windows(
    total, dpooled, gain, first_window, y, x, row, k, h, w, th, tw, stride,
    DTYPE: tl.constexpr, BQ: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Returns total + the transposed pooling of BQ windows' gradients, at pixels (y, x): [BK, BP]."""
    window = first_window + tl.arange(0, BQ)
    begin_y, begin_x = window_begin(window // tw, h, th), window_begin(window % tw, w, tw)
    end_y, end_x = window_end(window // tw, h, th), window_end(window % tw, w, tw)
    mask = (row < k)[:, None] & (window < th * tw)[None, :]
    value = tl.load(dpooled + (row[:, None] * stride + window[None, :]), mask=mask, other=0.0).to(tl.float32)
    value *= (gain / ((end_y - begin_y) * (end_x - begin_x)).to(tl.float32))[None, :]
    membership = (y >= begin_y[:, None]) & (y < end_y[:, None]) & (x >= begin_x[:, None]) & (x < end_x[:, None])
    return tl.dot(value.to(DTYPE), membership.to(tl.float32).to(DTYPE), total, input_precision=PRECISION)


@triton.jit
def _hidden_gradient(
    dpooled, relu_mask, n, sample, row, first_row, tile, k, h, w, th, tw, gain, DTYPE: tl.constexpr,
    BK: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, CHUNKS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Returns a tile [BK, BP] of the pre-activations' gradient, in float32.

    The windows that the tile touches come in CHUNKS of BQ windows each; BQ = 0 means that windows are pixels.
    """
    pixel = tile * BP + tl.arange(0, BP)
    dpooled += sample * (th * tw)
    stride = n * th * tw
    if BQ == 0:
        mask = (row < k)[:, None] & (pixel < h * w)[None, :]
        offsets = row[:, None] * stride + pixel[None, :]
        total = tl.load(dpooled + offsets, mask=mask, other=0.0).to(tl.float32) * gain
    else:
        y, x = (pixel // w)[None, :], (pixel % w)[None, :]
        # The first window of the first row of windows that the tile touches.
        first = tile * BP // w * th // h * tw
        total = tl.zeros([BK, BP], tl.float32)
        # Without a loop, what doesn't depend on `row` is computed once, outside of the caller's loop.
        if CHUNKS == 1:
            total = _spread_windows(
                total, dpooled, gain, first, y, x, row, k, h, w, th, tw, stride, DTYPE, BQ, PRECISION
            )
        else:
            for chunk in range(CHUNKS):
                total = _spread_windows(
                    total, dpooled, gain, first + chunk * BQ, y, x, row, k, h, w, th, tw, stride, DTYPE, BQ, PRECISION
                )
    words = tl.cdiv(k, 32)
    word = (first_row // 32 + tl.arange(0, BK // 32)).to(row.dtype)
    mask = (word < words)[:, None] & (pixel < h * w)[None, :]
    pointers = relu_mask + sample * words * (h * w) + (word[:, None] * (h * w) + pixel[None, :])
    packed = tl.load(pointers, mask=mask, other=0)
    bits = (packed[:, None, :] >> tl.arange(0, 32)[None, :, None]) & 1
    return tl.where(tl.reshape(bits, [BK, BP]) != 0, total, 0.0)


@triton.jit(do_not_specialize=["n"])
def feature_hidden_bwd_data_kernel(
    dpooled, relu_mask, w1, dx, loss, dloss, mean_factors, starts, c, k, h, w, th, tw, n, gain,
    BK: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, CHUNKS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ALIGNMENT: tl.constexpr, PRECISION: tl.constexpr, OFFSET_DTYPE: tl.constexpr,
):  # fmt: skip
    """Computes dx = w1^T @ dz: a program owns a tile of pixels and a block of channels."""
    for i in tl.static_range(len(dx)):
        program = program_number() - starts[i]
        if program >= 0 and program < starts[i + 1] - starts[i]:
            _bwd_data(
                program, dpooled[i], relu_mask[i], w1[i], dx[i], unit(loss + i), tl.load(dloss + i) * mean_factors[i],
                assume_divisible(c[i], ALIGNMENT), k[i], h[i], assume_divisible(w[i], ALIGNMENT), th[i], tw[i], n,
                gain, BK, BC, BP, BQ[i], CHUNKS[i], CHANNELS_LAST, PRECISION, OFFSET_DTYPE,
            )  # fmt: skip


@triton.jit
def _bwd_data(
    program, dpooled, relu_mask, w1, dx, unit, factor, c, k, h, w, th, tw, n, gain,
    BK: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, CHUNKS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, PRECISION: tl.constexpr, OFFSET_DTYPE: tl.constexpr,
):  # fmt: skip
    blocks, tiles = tl.cdiv(c, BC), tl.cdiv(h * w, BP)
    channel = program % blocks * BC + tl.arange(0, BC)
    tile = program // blocks % tiles
    sample = (program // blocks // tiles).to(tl.int64)
    total = tl.zeros([BC, BP], tl.float32)
    for first_row in range(0, k, BK):
        row = (first_row + tl.arange(0, BK)).to(OFFSET_DTYPE)
        dz = _hidden_gradient(
            dpooled, relu_mask, n, sample, row, first_row, tile, k, h, w, th, tw, gain, w1.dtype.element_ty,
            BK, BP, BQ, CHUNKS, PRECISION,
        )  # fmt: skip
        mask = (row < k)[None, :] & (channel < c)[:, None]
        weights = tl.load(w1 + (row[None, :] * c + channel[:, None]), mask=mask, other=0.0)
        total = tl.dot(weights, dz.to(weights.dtype), total, input_precision=PRECISION)
    total *= factor / unit
    pixel = tile * BP + tl.arange(0, BP)
    if CHANNELS_LAST:
        offsets = pixel.to(OFFSET_DTYPE)[None, :] * c + channel[:, None]
    else:
        offsets = channel.to(OFFSET_DTYPE)[:, None] * (h * w) + pixel[None, :]
    mask = (channel < c)[:, None] & (pixel < h * w)[None, :]
    tl.store(dx + sample * c * (h * w) + offsets, total.to(dx.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n", "tiles_per_part"])
def feature_hidden_bwd_weight_kernel(
    dpooled, relu_mask, x, dw, db, loss, starts, c, k, h, w, th, tw, tiles_per_part, n, gain,
    BK: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, CHUNKS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ALIGNMENT: tl.constexpr, PRECISION: tl.constexpr, OFFSET_DTYPE: tl.constexpr,
):  # fmt: skip
    """Computes parts of sums: dw [parts, K, C] of dz @ x^T and db [parts, K] of dz."""
    for i in tl.static_range(len(x)):
        program = program_number() - starts[i]
        if program >= 0 and program < starts[i + 1] - starts[i]:
            _bwd_weight(
                program, dpooled[i], relu_mask[i], x[i], dw[i], db[i], 1 / unit(loss + i),
                assume_divisible(c[i], ALIGNMENT), k[i], h[i], assume_divisible(w[i], ALIGNMENT), th[i], tw[i],
                tiles_per_part, n, gain, BK, BC, BP, BQ[i], CHUNKS[i], CHANNELS_LAST, PRECISION, OFFSET_DTYPE,
            )  # fmt: skip


@triton.jit
def _bwd_weight(
    program, dpooled, relu_mask, x, dw, db, factor, c, k, h, w, th, tw, tiles_per_part, n, gain,
    BK: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, CHUNKS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, PRECISION: tl.constexpr, OFFSET_DTYPE: tl.constexpr,
):  # fmt: skip
    row_blocks, channel_blocks, tiles = tl.cdiv(k, BK), tl.cdiv(c, BC), tl.cdiv(h * w, BP)
    first_row = program % row_blocks * BK
    row = (first_row + tl.arange(0, BK)).to(OFFSET_DTYPE)
    block = program // row_blocks % channel_blocks
    part = (program // row_blocks // channel_blocks).to(tl.int64)
    channel = block * BC + tl.arange(0, BC)
    total = tl.zeros([BK, BC], tl.float32)
    sums = tl.zeros([BK], tl.float32)
    # Tiles are numbered over the whole batch.
    for batch_tile in range(part * tiles_per_part, tl.minimum((part + 1) * tiles_per_part, tiles * n)):
        tile = (batch_tile % tiles).to(tl.int32)
        sample = batch_tile // tiles
        dz = _hidden_gradient(
            dpooled, relu_mask, n, sample, row, first_row, tile, k, h, w, th, tw, gain, x.dtype.element_ty,
            BK, BP, BQ, CHUNKS, PRECISION,
        )  # fmt: skip
        sums += tl.sum(dz, 1)
        pixel = tile * BP + tl.arange(0, BP)
        if CHANNELS_LAST:
            offsets = pixel.to(OFFSET_DTYPE)[:, None] * c + channel[None, :]
        else:
            offsets = channel.to(OFFSET_DTYPE)[None, :] * (h * w) + pixel[:, None]
        mask = (pixel < h * w)[:, None] & (channel < c)[None, :]
        x_tile = tl.load(x + sample * c * (h * w) + offsets, mask=mask, other=0.0)
        total = tl.dot(dz.to(x_tile.dtype), x_tile, total, input_precision=PRECISION)
    if block == 0:
        tl.store(db + part * k + row, sums * factor, mask=row < k)
    pointers = dw + part * k * c + (row[:, None] * c + channel[None, :])
    tl.store(pointers, total * factor, mask=(row < k)[:, None] & (channel < c)[None, :])
