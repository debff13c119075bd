# SPDX-License-Identifier: Apache-2.0
"""The Triton kernel of a FIR with the epilogue of a modulated layer in its stores."""

import triton
import triton.language as tl

from ..upfirdn2d.triton_fir import fir_lanes, fir_taps, fir_tile
from .triton_common import leaky_relu

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
