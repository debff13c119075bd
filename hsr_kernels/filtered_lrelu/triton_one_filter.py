# SPDX-License-Identifier: Apache-2.0
"""filtered_lrelu without a filter for upsampling, on channels_last images: leaky ReLU and FIR in one pass.

This is what a discriminator does before each convolution that shrinks its images. The leaky ReLU is computed once for
each tap, of pixels that come from the cache, and its codes are noted for the pixels of x. Backward the FIR comes first,
and the slopes are applied to what it gives.
"""

import math

import torch
import triton
import triton.language as tl

from .. import _checks
from .._triton import cdiv, launch_options, on_device_of
from ..upfirdn2d.geometry import Geometry, filter_taps
from ..upfirdn2d.triton_fir import fir_lanes, fir_taps, fir_tile
from ..upfirdn2d.triton_impl import THREADS, Pass, channels_last_tiling, run_passes
from .triton_common import activate, packed, slopes, unpacked

# Rows of outputs of a lane: leaky ReLUs take the registers of a third one.
_ROWS = 2
# Their values aren't worth a compilation.
DO_NOT_SPECIALIZE = [
    "height", "width", "out_height", "out_width", "pad_x", "pad_y", "f_offset", "f_stride", "pitch", "blocks", "groups",
]  # fmt: skip


@triton.jit(do_not_specialize=DO_NOT_SPECIALIZE)
def filtered_lrelu_one_filter_kernel(
    x, f, b, y, mask, channels, height, width, out_height, out_width, pad_x, pad_y, f_offset, f_stride, pitch,
    blocks, groups, fir_gain, gain, gain_below_zero, clamp,
    TAPS: tl.constexpr, ROWS: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """y = FIR of the leaky ReLU of x + b, which notes its codes in `mask` [N, height, width, pitch], if there is one.

    Lanes, `blocks` of ROWS rows and `groups` columns, are both outputs and pixels of x: enough for the larger image.
    """
    plane, block, first_column, channel = fir_lanes(blocks, groups, channels, 0, True, A, B)
    column = first_column + tl.arange(0, A)[:, None]
    channel_mask = channel < channels
    bias = tl.zeros([1, B], tl.float32)
    if b is not None:
        bias += tl.load(b + channel, mask=channel_mask, other=0.0).to(tl.float32)
    first_row = block * ROWS
    x += plane * height * width * channels
    x_row, x_column = first_row - pad_y, column - pad_x
    taps = fir_taps(f, f_offset, f_stride, f_stride, fir_gain, 1, TAPS, TAPS)
    outputs = fir_tile(
        x + (x_row * width + x_column) * channels + channel, x_row, x_column, channel_mask, height, width,
        width * channels, channels, taps, fir_gain, 1, 1, 1, 1, 0, 0, TAPS, TAPS, 1, ROWS, 1, 0, 1, A, B,
        (bias, gain, gain_below_zero, clamp),
    )  # fmt: skip
    y += (plane * out_height * out_width + first_row * out_width + column) * channels + channel
    for i in tl.static_range(ROWS):
        y_mask = channel_mask & (first_row + i < out_height) & (column < out_width)
        tl.store(y + i * out_width * channels, outputs[i].to(y.dtype.element_ty), mask=y_mask)
        if mask is not None:
            pixel_mask = (first_row + i < height) & (column < width)
            pixel = (first_row + i) * width + column
            value = tl.load(x + pixel * channels + channel, mask=pixel_mask & channel_mask, other=0.0)
            _, code = activate(value.to(tl.float32) + bias, gain, gain_below_zero, clamp)
            byte = tl.program_id(0) % tl.cdiv(channels, B) * (B // 4) + tl.arange(0, B // 4)[None, :]
            codes = mask + plane * height * width * pitch + pixel * pitch + byte
            tl.store(codes, packed(code, A, B), mask=pixel_mask & (byte < pitch))


@triton.jit(do_not_specialize=DO_NOT_SPECIALIZE)
def filtered_lrelu_one_filter_bwd_kernel(
    dy, f, mask, dx, sums, channels, height, width, out_height, out_width, pad_x, pad_y, f_offset, f_stride, pitch,
    blocks, groups, fir_gain, gain, gain_below_zero,
    TAPS: tl.constexpr, FILTER: tl.constexpr, ROWS: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """dx = FIR of dy, times the slopes of the codes in `mask`; each program's sums of dx per channel."""
    plane, block, first_column, channel = fir_lanes(blocks, groups, channels, 0, True, A, B)
    column = first_column + tl.arange(0, A)[:, None]
    channel_mask = channel < channels
    first_row = block * ROWS
    row, dy_column = first_row - pad_y, column - pad_x
    pointers = dy + (plane * height * width + row * width + dy_column) * channels + channel
    taps = fir_taps(f, f_offset, f_stride, f_stride, fir_gain, FILTER, TAPS, TAPS)
    outputs = fir_tile(
        pointers, row, dy_column, channel_mask, height, width, width * channels, channels, taps, fir_gain,
        1, 1, 1, 1, 0, 0, TAPS, TAPS, FILTER, ROWS, 1, 0, 1, A, B,
    )  # fmt: skip
    first_pixel = plane * out_height * out_width
    byte = tl.program_id(0) % tl.cdiv(channels, B) * (B // 4) + tl.arange(0, B // 4)[None, :]
    total = tl.zeros([A, B], tl.float32)
    for i in tl.static_range(ROWS):
        pixel_mask = (first_row + i < out_height) & (column < out_width)
        pixel = first_pixel + (first_row + i) * out_width + column
        codes = tl.load(mask + pixel * pitch + byte, mask=pixel_mask & (byte < pitch), other=0)
        value = outputs[i] * slopes(unpacked(codes, A, B), gain, gain_below_zero)
        tl.store(dx + pixel * channels + channel, value.to(dx.dtype.element_ty), mask=pixel_mask & channel_mask)
        total += tl.where(pixel_mask, value, 0.0)
    if sums is not None:
        program = tl.program_id(0) // tl.cdiv(channels, B)
        sums += program.to(tl.int64) * channels + channel
        tl.store(sums, tl.sum(total, 0)[None, :], mask=channel_mask)


def _lanes(x: torch.Tensor, height: int, width: int, rows: int) -> tuple[int, int, tuple[int, int], int]:
    """Returns (blocks of rows, programs, tile, programs per block of channels) for channels_last images x."""
    n, c = x.shape[:2]
    blocks = cdiv(height, rows)
    programs, *tile = channels_last_tiling(n, blocks, width, c, x.element_size())
    return blocks, programs, (tile[0], tile[1]), programs // cdiv(c, tile[1])


def activate_and_filter(x, f, b, geometry: Geometry, alpha, gain, clamp, needs_mask):
    """Computes (y, mask) of one FIR after the leaky ReLU; see `ops.filtered_lrelu`."""
    x = x.contiguous(memory_format=torch.channels_last)
    n, c, height, width = x.shape
    fir_pass = Pass(geometry, f, filter_taps(f))
    size = geometry.output_size(height, width, fir_pass.taps)
    y = torch.empty((n, c, *size), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    mask = x.new_empty((n, height, width, (c + 3) // 4), dtype=torch.uint8) if needs_mask else None
    groups = max(width, size[1])
    blocks, programs, tile, _ = _lanes(x, max(height, size[0]), groups, _ROWS)
    b = None if b is None else b.to(x.dtype).contiguous()
    f, f_offset, f_stride, _ = fir_pass.filter_args
    if x.numel():
        with on_device_of(x):
            filtered_lrelu_one_filter_kernel[(programs,)](
                x, f, b, y, mask, c, height, width, *size, geometry.padding[0],
                geometry.padding[2], f_offset, f_stride, (c + 3) // 4, blocks, groups, geometry.gain, gain,
                alpha * gain, math.inf if clamp < 0 else clamp, fir_pass.taps[0], _ROWS, *tile,
                **launch_options(x, THREADS),
            )  # fmt: skip
    return y, x.new_empty(0, dtype=torch.uint8) if mask is None else mask


def filter_and_slope(dy, mask, fu, fd, geometry: Geometry, alpha, gain, clamp, channels_last, needs_db):
    """Computes (dx, db) of the transpose, or of the transpose's own, whose FIR `fd` comes after the slopes."""
    dy = dy.contiguous(memory_format=torch.channels_last)
    n, c = dy.shape[:2]
    # The kernel applies the slopes last: the other order takes another pass.
    first = Pass(geometry if fd is None else Geometry(), fu, filter_taps(fu))
    size = first.geometry.output_size(dy.shape[2], dy.shape[3], first.taps)
    _checks.shape("mask", mask, (n, *size, (c + 3) // 4))
    dx = torch.empty((n, c, *size), dtype=dy.dtype, device=dy.device, memory_format=torch.channels_last)
    rows = first.row_groups(False)
    blocks, programs, tile, parts = _lanes(dx, *size, rows)
    sums = dx.new_empty((parts, c), dtype=torch.float32) if needs_db else None
    f, f_offset, f_stride, _ = first.filter_args
    if dx.numel():
        with on_device_of(dx):
            filtered_lrelu_one_filter_bwd_kernel[(programs,)](
                dy, f, mask.contiguous(), dx, sums, c, *dy.shape[2:], *size, first.geometry.padding[0],
                first.geometry.padding[2], f_offset, f_stride, (c + 3) // 4, blocks, size[1], first.geometry.gain,
                gain, alpha * gain, first.taps[0], first.kind.value, rows, *tile,
                **launch_options(dx, THREADS),
            )  # fmt: skip
    db = dx.new_empty(0, dtype=torch.float32) if sums is None else sums.sum(0)
    if fd is not None:
        dx = run_passes(dx, [Pass(geometry, fd, filter_taps(fd))], dx.dtype)
    return dx.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format), db
