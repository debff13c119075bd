# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of a FIR with the epilogue of a modulated layer in its stores, and of the transpose of both."""

import triton
import triton.language as tl

from ..upfirdn2d.triton_fir import fir_lanes, fir_taps, fir_tile
from .triton_common import channel_vector, leaky_relu

# Their values aren't worth a compilation.
DO_NOT_SPECIALIZE = [
    "height", "width", "out_height", "pad_x", "pad_y", "f_offset", "f_stride_y", "f_stride_x", "noise_stride",
]  # fmt: skip


@triton.jit(do_not_specialize=DO_NOT_SPECIALIZE)
def modulated_conv2d_fir_epilogue_kernel(
    x, f, d, noise, b, y, channels, height, width, out_height, out_width, pad_x, pad_y, f_offset, f_stride_y,
    f_stride_x, noise_stride, fir_gain, alpha, gain, clamp,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr,
    PHASE_X: tl.constexpr, PHASE_Y: tl.constexpr, TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr, FILTER: tl.constexpr,
    ROW_GROUPS: tl.constexpr, CHANNELS_LAST: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """y = clamp(act(FIR of x * d + noise + b) * gain) from a channels_last x; y is so too or contiguous."""
    groups = tl.cdiv(out_width, UP_X)
    blocks = tl.cdiv(out_height, UP_Y * ROW_GROUPS)
    plane, block, first_group, channel = fir_lanes(blocks, groups, channels, 0, True, A, B)
    group = first_group + tl.arange(0, A)[:, None]
    channel_mask = channel < channels
    row, column = block * (ROW_GROUPS * DOWN_Y) - pad_y, group * DOWN_X - pad_x
    pointers = x + (plane * height + row) * width * channels + (column * channels + channel)
    taps = fir_taps(f, f_offset, f_stride_y, f_stride_x, fir_gain, FILTER, TAPS_X, TAPS_Y)
    outputs = fir_tile(
        pointers, row, column, channel_mask, height, width, width * channels, channels, taps, fir_gain,
        UP_X, UP_Y, DOWN_X, DOWN_Y, PHASE_X, PHASE_Y, TAPS_X, TAPS_Y, FILTER, ROW_GROUPS, 1, 0, 1, A, B,
    )  # fmt: skip
    scale = 1.0
    bias = 0.0
    if d is not None:
        scale = tl.load(d + plane * channels + channel, mask=channel_mask, other=0.0)
    if b is not None:
        bias = tl.load(b + channel, mask=channel_mask, other=0.0)
    out_row = block * (ROW_GROUPS * UP_Y)
    if CHANNELS_LAST:
        y += (plane * out_height + out_row) * out_width * channels + channel
    else:
        y += ((plane * channels + channel) * out_height + out_row) * out_width
    for i in tl.static_range(ROW_GROUPS * UP_Y):
        for r in tl.static_range(UP_X):
            out_column = group * UP_X + r
            pixel_mask = (out_row + i < out_height) & (out_column < out_width)
            value = outputs[i * UP_X + r] * scale
            if noise is not None:
                noise_pointers = noise + plane * noise_stride + (out_row + i) * out_width + out_column
                value += tl.load(noise_pointers, mask=pixel_mask, other=0.0) + bias
            else:
                value += bias
            value = leaky_relu(value, alpha) * gain
            # Written so that NaN stays NaN.
            value = tl.where(value > clamp, clamp, tl.where(value < -clamp, -clamp, value))
            column_stride = channels if CHANNELS_LAST else 1
            tl.store(y + out_column * column_stride, value.to(y.dtype.element_ty), mask=channel_mask & pixel_mask)
        y += out_width * channels if CHANNELS_LAST else out_width


@triton.jit(do_not_specialize=[*DO_NOT_SPECIALIZE, "n", "out_width", "parts", "blocks", "groups"])
def modulated_conv2d_fir_epilogue_bwd_kernel(
    dy, y, f, d, noise, b, dx, sums, dnoise, n, channels, height, width, out_height, out_width, pad_x, pad_y, f_offset,
    f_stride, noise_stride, parts, blocks, groups, fir_gain, alpha, inv_alpha, gain, inv_gain, clamp,
    TAPS: tl.constexpr, ROWS: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """dx = FIR of dpre, times d, with dpre = dy * dy/dpre, all channels_last; sums: dd and db; dnoise: as before a FIR.

    Lanes, `blocks` of ROWS rows and `groups` columns, are both outputs and pixels of y: enough for the larger image.
    """
    plane, block, first_column, channel = fir_lanes(blocks, groups, channels, 0, True, A, B)
    column, channel_mask = first_column + tl.arange(0, A)[:, None], channel < channels
    scale = channel_vector(d, plane * channels + channel, channel_mask, 1.0)
    bias = channel_vector(b, channel, channel_mask, 0.0)
    first_row = block * ROWS
    image = plane * height * width * channels
    dy += image
    y += image
    row, dy_column = first_row - pad_y, column - pad_x
    offsets = (row * width + dy_column) * channels + channel
    taps = fir_taps(f, f_offset, f_stride, f_stride, fir_gain, 1, TAPS, TAPS)
    outputs = fir_tile(
        dy + offsets, row, dy_column, channel_mask, height, width, width * channels, channels, taps, fir_gain,
        1, 1, 1, 1, 0, 0, TAPS, TAPS, 1, ROWS, 1, 0, 1, A, B, (inv_gain, gain, gain * alpha, clamp), y + offsets,
    )  # fmt: skip
    dx += (plane * out_height * out_width + first_row * out_width + column) * channels + channel
    dd, db = tl.zeros([A, B], tl.float32), tl.zeros([A, B], tl.float32)
    for i in tl.static_range(ROWS):
        mask = channel_mask & (first_row + i < out_height) & (column < out_width)
        tl.store(dx + i * out_width * channels, (outputs[i] * scale).to(dx.dtype.element_ty), mask=mask)
        pixel, pixel_mask = (first_row + i) * width + column, (first_row + i < height) & (column < width)
        y_tile = tl.load(y + pixel * channels + channel, mask=pixel_mask & channel_mask, other=0.0).to(tl.float32)
        dpre = tl.load(dy + pixel * channels + channel, mask=pixel_mask & channel_mask, other=0.0).to(tl.float32)
        t = y_tile * inv_gain
        dpre *= tl.where(tl.abs(y_tile) < clamp, tl.where(t > 0, gain, gain * alpha), 0.0)
        pre = t * tl.where(t > 0, 1.0, inv_alpha) - bias
        if noise is not None:
            pre -= tl.load(noise + plane * noise_stride + pixel, mask=pixel_mask, other=0.0)
        dd += dpre * pre
        db += dpre
        if dnoise is not None:
            map_offset = (tl.program_id(0) % tl.cdiv(channels, B) * n + plane) * height * width
            tl.store(dnoise + map_offset + pixel, tl.sum(dpre, 1)[:, None], mask=pixel_mask)
    # A program's tile of pixels is its row of sums: those of a sample follow each other.
    sum_offsets = (tl.program_id(0) // tl.cdiv(channels, B)).to(tl.int64) * channels + channel
    tl.store(sums + sum_offsets, tl.sum(dd, 0)[None, :] / scale, mask=channel_mask)
    tl.store(sums + parts * n * channels + sum_offsets, tl.sum(db, 0)[None, :], mask=channel_mask)
