# SPDX-License-Identifier: Apache-2.0
"""Launches of the fused Triton kernel of filtered_lrelu, which stands in triton_fused.py.

The kernel takes contiguous images: others are copied, and so is the output of channels_last images. What has no filter
for upsampling goes to triton_one_filter.py.
"""

import math
from typing import NamedTuple

import torch

from .. import _checks, _gpu
from .._tensors import image_format
from .._triton import cdiv, launch_options, on_device_of, power_of_2
from ..upfirdn2d.geometry import filter_taps
from ..upfirdn2d.passes import FirPass
from .geometry import Resamplings, resamplings_of
from .ops import empty_output, mask_shape
from .triton_fused import filtered_lrelu_kernel
from .triton_one_filter import activate_and_filter, filter_and_slope

_THREADS = 128
# By the factor down. Left to itself, ptxas spills registers, so that more programs fit.
_MAX_REGISTERS = {2: 168, 4: 224}
# Upsampled pixels of a step. Chips that need small tiles have fewer columns, and load no step ahead.
_UP_ROWS, _UP_COLUMNS, _UP_COLUMNS_SMALL = 32, 64, 32
# A byte of the mask has the codes of so many columns. Tiles don't share bytes.
_COLUMNS_PER_BYTE = 4
# A program takes at least so many steps, where enough programs are left, as it has to make its matrices first.
_MIN_STEPS = 8
_MIN_PROGRAMS = 2048


class _Axis(NamedTuple):
    """How one axis is tiled.

    Attributes:
        x: First pixel of the image that step or tile 0 reads.
        up: First upsampled pixel of step or tile 0.
        pad_up, pad_down: Padding before the image, and before the upsampled image.
        outputs: Number of output pixels of a step or tile.
        pixels: Number of pixels of the image that a step or tile reads, at most.
    """

    x: int
    up: int
    pad_up: int
    pad_down: int
    outputs: int
    pixels: int


def _axis(resamplings: Resamplings, axis: int, up: int, outputs: int, size: int, taps: int) -> _Axis:
    """Returns the tiling of axis 0 (x) or 1 (y), of `size` upsampled pixels from pixel `up` on."""
    factor = resamplings.up.up[axis]
    pad_up, pad_down = resamplings.up.padding[2 * axis], resamplings.down.padding[2 * axis]
    return _Axis(cdiv(up - pad_up, factor), up, pad_up, pad_down, outputs, (size + taps - 2) // factor + 1)


def _axes(resamplings: Resamplings, up_taps: int, down_taps: int, up_columns: int) -> tuple[_Axis, _Axis]:
    """Returns the tilings (of rows in steps, of columns in tiles of `up_columns` upsampled ones).

    A step's upsampled rows end with the last tap of its last output; the step before has the taps that lie above them.
    A tile has all taps of its outputs, and their number is such that the next tile begins with a byte of the mask.
    """
    down_x, down_y = resamplings.down.down
    up_row = down_taps - down_y - resamplings.down.padding[2]
    rows = _axis(resamplings, 1, up_row, _UP_ROWS // down_y, _UP_ROWS, up_taps)
    pad = resamplings.down.padding[0]
    up_column = -cdiv(pad, _COLUMNS_PER_BYTE) * _COLUMNS_PER_BYTE
    outputs = (up_columns - down_taps + pad + up_column) // down_x + 1
    multiple = _COLUMNS_PER_BYTE // math.gcd(_COLUMNS_PER_BYTE, down_x)
    columns = _axis(resamplings, 0, up_column, outputs // multiple * multiple, up_columns, up_taps)
    return rows, columns


def _launch(x, fu, fd, b, y, mask, needs_sums, resamplings, alpha, gain, clamp, reads_mask, max_number):
    """Runs the kernel on contiguous images x and y; returns the sums of the planes of y, [N, C, parts]."""
    n, c, height, width = x.shape
    (up_height, up_width), (out_height, out_width) = resamplings.sizes(height, width, fu, fd)
    fu, up_offset, up_stride, _ = FirPass(resamplings.up, fu, filter_taps(fu)).filter_args
    fd, down_offset, down_stride, _ = FirPass(resamplings.down, fd, filter_taps(fd)).filter_args
    is_small = _gpu.of(x).needs_small_product_tiles
    up_columns, stages = (_UP_COLUMNS_SMALL, 1) if is_small else (_UP_COLUMNS, None)
    rows, columns = _axes(resamplings, fu.shape[0], fd.shape[0], up_columns)
    tiles, end_step = cdiv(out_width, columns.outputs), cdiv(out_height, rows.outputs)
    sums = x.new_zeros((n, c, tiles), dtype=torch.float32) if needs_sums else None
    if not y.numel():
        return sums
    # Outputs of step 0 may have taps on rows above it.
    first_step = -1 if rows.up > 0 else 0
    planes_per_program = max(min(cdiv(_MIN_STEPS, end_step - first_step), n * c * tiles // _MIN_PROGRAMS), 1)
    up, down = resamplings.up.up[0], resamplings.down.down[0]
    with on_device_of(x):
        filtered_lrelu_kernel[(cdiv(n * c, planes_per_program) * tiles,)](
            x, fu, fd, b, y, mask, sums, n * c, c, height, width, up_height, up_width,
            0 if mask is None else mask.shape[3], out_height, out_width, rows.x, columns.x, rows.up, columns.up,
            rows.pad_up, columns.pad_up, rows.pad_down, columns.pad_down, fu.shape[0], up_offset, up_stride,
            resamplings.up.gain, fd.shape[0], down_offset, down_stride, resamplings.down.gain, gain,
            alpha * gain, math.inf if clamp < 0 else clamp, planes_per_program, first_step, end_step, columns.outputs,
            up, down, reads_mask, max_number, power_of_2(rows.pixels, 16, 64), power_of_2(columns.pixels, 16, 64),
            _UP_ROWS, up_columns, power_of_2(rows.outputs, 16, 32), power_of_2(columns.outputs, 16, 32),
            **launch_options(x, _THREADS, stages, _MAX_REGISTERS[down]),
        )  # fmt: skip
    return sums


def filtered_lrelu(x, fu, fd, b, *args):
    *resampling_args, _, alpha, gain, clamp, needs_mask = args
    resamplings = resamplings_of(*resampling_args)
    if fu is None:
        return activate_and_filter(x, fd, b, resamplings.merged, alpha, gain, clamp, needs_mask)
    y = empty_output(x, resamplings, fu, fd, torch.contiguous_format)
    # Codes of pixels that no output needs aren't written: the slopes that they stand for meet zeros alone.
    mask = x.new_empty(mask_shape(x, resamplings, fu, fd), dtype=torch.uint8) if needs_mask else None
    # A clamp cuts infinite values off. In a backward they stay, so that a gradient scaler sees them.
    max_number = torch.finfo(x.dtype).max if clamp >= 0 else None
    b = None if b is None else b.to(x.dtype).contiguous()
    _launch(x.contiguous(), fu, fd, b, y, mask, False, resamplings, alpha, gain, clamp, False, max_number)
    y = y.contiguous(memory_format=image_format(x))
    return y, x.new_empty(0, dtype=torch.uint8) if mask is None else mask


def filtered_lrelu_bwd(dy, mask, fu, fd, *args):
    *resampling_args, _, alpha, gain, clamp, channels_last, needs_db = args
    resamplings = resamplings_of(*resampling_args)
    if fu is None or fd is None:
        return filter_and_slope(dy, mask, fu, fd, resamplings.merged, alpha, gain, clamp, channels_last, needs_db)
    _checks.shape("mask", mask, mask_shape(dy, resamplings, fu, fd))
    dx = empty_output(dy, resamplings, fu, fd, torch.contiguous_format)
    sums = _launch(
        dy.contiguous(), fu, fd, None, dx, mask.contiguous(), needs_db, resamplings, alpha, gain, clamp, True, None
    )
    db = sums.sum((0, 2)) if needs_db else dy.new_empty(0, dtype=torch.float32)
    return dx.contiguous(memory_format=torch.channels_last) if channels_last else dx, db
