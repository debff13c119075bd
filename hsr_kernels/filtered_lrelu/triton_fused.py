# SPDX-License-Identifier: Apache-2.0
"""The fused Triton kernel of filtered_lrelu, for separable filters and 16-bit images: each filter is two tl.dot.

A program walks down a strip of columns. At each step it upsamples UP_ROWS x UP_COLUMNS pixels, applies the leaky ReLU
or its slopes, filters along the rows, and keeps the result for the next step's filter along the columns:

    u = up_y @ (x @ up_x)              upsampled pixels, which are never in memory
    w = act(u) @ down_x                upsampled rows, downsampled along x
    y = down_y @ w + down_y_before @ w_before

The matrices are bands of taps, the same in all steps: both factors divide UP_ROWS. Sums are float32. Operands are
rounded to the dtype of the images where plain PyTorch rounds too, as the filters apply in the same order, with the gain
in the taps along x.

Not measured, but counted in SASS of sm_90, with 12 taps, 2 up and 2 down: an output pixel takes 217 instructions
forward and 181 backward, a fifth more with what a program of few steps does once, and 1,400 operations of tensor cores.
bias_act and upfirdn2d take 910. They move 72 bytes, this kernel 5. An H200 issues 217 instructions in 7 ps and moves 72
bytes in 15. With 4 taps it is 188 and 230 instructions, 5 and 40 bytes. Products of float32 would run on the ordinary
units, which do them in more time than all of this.
"""

import triton
import triton.language as tl

from .triton_common import activate, limited, packed, slopes, unpacked

# Their values aren't worth a compilation.
DO_NOT_SPECIALIZE = [
    "planes", "channels", "height", "width", "up_height", "up_width", "mask_pitch", "out_height", "out_width",
    "x_row", "x_column", "up_row", "up_column", "pad_up_y", "pad_up_x", "pad_down_y", "pad_down_x",
    "up_taps", "up_offset", "up_stride", "down_taps", "down_offset", "down_stride",
    "planes_per_program", "first_step", "end_step", "tile_columns",
]  # fmt: skip


@triton.jit
def _in_range(i, n):
    return (i >= 0) & (i < n)


@triton.jit
def _band(f, offset, tap, stride, taps, gain, DTYPE: tl.constexpr):
    """Returns a matrix of the taps with these numbers, times gain; 0 where there is no such tap."""
    values = tl.load(f + offset + tap * stride, mask=_in_range(tap, taps), other=0.0)
    return (values.to(tl.float32) * gain).to(DTYPE)


@triton.jit
def _operand(value, DTYPE: tl.constexpr, MAX: tl.constexpr):
    """Returns float32 values as operands of a product; with a MAX none is infinite.

    Infinity times the zeros of a band is NaN, which would spread over the tile.
    """
    if MAX is not None:
        value = limited(value, MAX)
    return value.to(DTYPE)


@triton.jit
def _image_tile(x, offsets, mask, bias, MAX: tl.constexpr):
    """Returns pixels with their bias, rounded to the dtype of x; 0 outside of the image."""
    tile = tl.load(x + offsets, mask=mask, other=0.0)
    if bias is not None or MAX is not None:
        value = tile.to(tl.float32)
        if bias is not None:
            value = tl.where(mask, value + bias, 0.0)
        tile = _operand(value, tile.dtype, MAX)
    return tile


@triton.jit
def _up_bands(
    f, offset, stride, taps, gain, x_row, x_column, u_row, u_column, pad_y, pad_x, UP: tl.constexpr, DTYPE: tl.constexpr
):  # fmt: skip
    """Returns the matrices (up_x, up_y) of the first filter, gain in up_x."""
    tap_x = x_column[:, None] * UP + pad_x - u_column[None, :]
    tap_y = x_row[None, :] * UP + pad_y - u_row[:, None]
    up_x = _band(f, offset, tap_x, stride, taps, gain, DTYPE)
    return up_x, _band(f, offset, tap_y, stride, taps, 1.0, DTYPE)


@triton.jit
def _down_bands(
    f, offset, stride, taps, gain, u_row, u_column, up_width, row, column, pad_y, pad_x, DOWN: tl.constexpr,
    UP_ROWS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Returns the matrices (down_x, down_y, down_y_before) of the second filter, gain in down_x.

    Beyond the columns of the upsampled image down_x is 0, as the filter sees zeros there.
    """
    tap_x = u_column[:, None] + pad_x - column[None, :] * DOWN
    tap_y = u_row[None, :] + pad_y - row[:, None] * DOWN
    tap_x = tl.where(_in_range(u_column, up_width)[:, None], tap_x, -1)
    down_x = _band(f, offset, tap_x, stride, taps, gain, DTYPE)
    down_y = _band(f, offset, tap_y, stride, taps, 1.0, DTYPE)
    return down_x, down_y, _band(f, offset, tap_y - UP_ROWS, stride, taps, 1.0, DTYPE)


@triton.jit
def _codes_layout(up_column, mask_pitch, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Returns (offsets, mask of columns) of the bytes of a step's codes: those of the first `columns`."""
    column = tl.arange(0, COLUMNS // 4) * 4
    offsets = tl.arange(0, ROWS)[:, None] * mask_pitch + ((up_column + column) // 4)[None, :]
    return offsets, (column < columns) & _in_range(up_column + column, mask_pitch * 4)


@triton.jit
def _activate_tile(
    u, codes, codes_mask, gain, gain_below_zero, clamp, READS_MASK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Returns the leaky ReLU of u, whose codes it stores, or with READS_MASK u times the slopes of stored codes."""
    if READS_MASK:
        code = unpacked(tl.load(codes, mask=codes_mask, other=0), ROWS, COLUMNS)
        return u * slopes(code, gain, gain_below_zero)
    else:
        y, code = activate(u, gain, gain_below_zero, clamp)
        if codes is not None:
            tl.store(codes, packed(code, ROWS, COLUMNS), mask=codes_mask)
        return y


@triton.jit(do_not_specialize=DO_NOT_SPECIALIZE)
def filtered_lrelu_kernel(
    x, fu, fd, b, y, mask, sums, planes, channels, height, width, up_height, up_width, mask_pitch, out_height,
    out_width, x_row, x_column, up_row, up_column, pad_up_y, pad_up_x, pad_down_y, pad_down_x, up_taps, up_offset,
    up_stride, up_gain, down_taps, down_offset, down_stride, down_gain, gain, gain_below_zero, clamp,
    planes_per_program, first_step, end_step, tile_columns,
    UP: tl.constexpr, DOWN: tl.constexpr, READS_MASK: tl.constexpr, MAX: tl.constexpr,
    X_ROWS: tl.constexpr, X_COLUMNS: tl.constexpr, UP_ROWS: tl.constexpr, UP_COLUMNS: tl.constexpr,
    OUT_ROWS: tl.constexpr, OUT_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Computes `tile_columns` columns of y [planes, out_height, out_width] for some planes, and their sums.

    Step s computes the output rows from s * ROWS on, ROWS being UP_ROWS / DOWN, and upsamples the rows up to their last
    tap, except for those of the steps before. A mask is written or, with READS_MASK, read.

    Args:
        x_row, x_column, up_row, up_column: The first pixels of x and of the upsampled image in step 0 of tile 0.
        first_step, end_step: A step before 0 only upsamples.
    """
    DTYPE: tl.constexpr = x.dtype.element_ty
    ROWS: tl.constexpr = UP_ROWS // DOWN
    tiles = tl.cdiv(out_width, tile_columns)
    tile, first_plane = tl.program_id(0) % tiles, tl.program_id(0) // tiles * planes_per_program
    up_column += tile * tile_columns * DOWN
    x_row_in_step, u_row_in_step, row_in_step = tl.arange(0, X_ROWS), tl.arange(0, UP_ROWS), tl.arange(0, OUT_ROWS)
    image_column = x_column + tile * tile_columns * DOWN // UP + tl.arange(0, X_COLUMNS)
    column_in_tile = tl.arange(0, OUT_COLUMNS)
    column = tile * tile_columns + column_in_tile
    u_row, u_column = up_row + u_row_in_step, up_column + tl.arange(0, UP_COLUMNS)
    up_x, up_y = _up_bands(
        fu, up_offset, up_stride, up_taps, up_gain, x_row + x_row_in_step, image_column, u_row, u_column, pad_up_y,
        pad_up_x, UP, DTYPE,
    )  # fmt: skip
    down_x, down_y, down_y_before = _down_bands(
        fd, down_offset, down_stride, down_taps, down_gain, u_row, u_column, up_width, row_in_step, column, pad_down_y,
        pad_down_x, DOWN, UP_ROWS, DTYPE,
    )  # fmt: skip

    # Offsets from the first row of a step.
    x_offsets = x_row_in_step[:, None] * width + image_column[None, :]
    y_offsets = row_in_step[:, None] * out_width + column[None, :]
    x_column_mask = _in_range(image_column, width)
    y_column_mask = (column_in_tile < tile_columns) & (column < out_width)
    # The codes of further columns are the next tile's to store, from a whole byte on.
    stored_columns = tl.where(tile == tiles - 1, UP_COLUMNS, tile_columns * DOWN)
    code_columns = UP_COLUMNS if READS_MASK else stored_columns
    codes_offsets, codes_column_mask = _codes_layout(up_column, mask_pitch, code_columns, UP_ROWS, UP_COLUMNS)
    for plane in range(first_plane, tl.minimum(first_plane + planes_per_program, planes)):
        plane_int64 = tl.cast(plane, tl.int64)
        bias = None if b is None else tl.load(b + plane % channels).to(tl.float32)
        w_before = tl.zeros([UP_ROWS, OUT_COLUMNS], DTYPE)
        total = tl.zeros([OUT_COLUMNS], tl.float32)
        for step in range(first_step, end_step):
            first_row = x_row + step * (UP_ROWS // UP)
            x_row_mask = _in_range(first_row + x_row_in_step, height)
            x_tile = _image_tile(
                x + (plane_int64 * height + first_row) * width, x_offsets, x_row_mask[:, None] & x_column_mask[None, :],
                bias, MAX,
            )  # fmt: skip
            u = tl.dot(up_y, _operand(tl.dot(x_tile, up_x), DTYPE, MAX))
            first_row = up_row + step * UP_ROWS
            u_row_mask = _in_range(first_row + u_row_in_step, up_height)
            codes = None if mask is None else mask + (plane_int64 * up_height + first_row) * mask_pitch + codes_offsets
            codes_mask = u_row_mask[:, None] & codes_column_mask[None, :]
            u = _activate_tile(u, codes, codes_mask, gain, gain_below_zero, clamp, READS_MASK, UP_ROWS, UP_COLUMNS)
            w = tl.where(u_row_mask[:, None], tl.dot(u.to(DTYPE), down_x), 0.0).to(DTYPE)
            value = tl.dot(down_y, w, tl.dot(down_y_before, w_before))
            w_before = w
            first_row = step * ROWS
            row_mask = (row_in_step < ROWS) & _in_range(first_row + row_in_step, out_height)
            y_mask = row_mask[:, None] & y_column_mask[None, :]
            y_tile = y + (plane_int64 * out_height + first_row) * out_width + y_offsets
            tl.store(y_tile, value.to(DTYPE), mask=y_mask)
            if sums is not None:
                total += tl.sum(tl.where(y_mask, value, 0.0), 0)
        if sums is not None:
            tl.store(sums + plane_int64 * tiles + tile, tl.sum(total, 0))
