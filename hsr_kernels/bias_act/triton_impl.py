# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of bias_act: any dense layout, one pass each.

A dense tensor is walked as a matrix in memory order. Where the bias runs along an outer dimension (NCHW) a row is one
channel of one sample and the bias belongs to rows; where channels are innermost (channels_last) it belongs to columns.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .._tensors import dense, laid_out_like, walk
from .._triton import cdiv, launch_options, on_device_of
from .activations import NAMES

_TILE_ELEMENTS = 4096
# Columns of a tile.
_COLUMNS_SMALL, _COLUMNS_MEDIUM, _COLUMNS_LARGE = 64, 256, 1024
# With fewer, masks in 64 bits and three tensors spill registers.
_THREADS = 256
# Programs that fill a GPU. At most four times as many store parts of a sum.
_PROGRAMS = 1024
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

# Kernels know activations by their names in ACTIVATIONS. Codes would have to be module-level constants here, and in
# Triton 3.6 the key of a kernel's compiled code depends on whether helpers that use such were hashed before the kernel.


@triton.jit
def _logistic(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _raw(x, alpha, ACT: tl.constexpr):
    """Returns act(x), before gain and clamp; NaN for NaN."""
    if ACT == "relu":
        return tl.where(x <= 0, 0.0, x)
    elif ACT == "lrelu":
        return tl.where(x > 0, x, x * alpha)
    elif ACT == "tanh":
        decay = tl.exp(-2.0 * tl.abs(x))
        t = (1.0 - decay) / (1.0 + decay)
        return tl.where(x > 0, t, -t)
    elif ACT == "sigmoid":
        return _logistic(x)
    elif ACT == "elu":
        return tl.where(x > 0, x, alpha * (tl.exp(x) - 1.0))
    elif ACT == "softplus":
        # Beyond 20 PyTorch's softplus is the identity.
        return tl.where(x > 20.0, x, tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x))))
    # Only swish is left.
    else:
        return x * _logistic(x)


@triton.jit
def _raw_slope(t, alpha, ACT: tl.constexpr):
    """Returns act'(x) recovered from t = act(x), which is impossible for swish."""
    if ACT == "lrelu":
        return tl.where(t > 0, 1.0, alpha)
    elif ACT == "tanh":
        return 1.0 - t * t
    elif ACT == "sigmoid":
        return t * (1.0 - t)
    elif ACT == "elu":
        return tl.where(t > 0, 1.0, t + alpha)
    # Only softplus is left.
    else:
        return tl.where(t > 20.0, 1.0, 1.0 - tl.exp(-t))


@triton.jit
def _raw_curvature(t, ACT: tl.constexpr):
    """Returns the derivative of _raw_slope with respect to t, of a curved activation."""
    if ACT == "tanh":
        return -2.0 * t
    elif ACT == "sigmoid":
        return 1.0 - 2.0 * t
    elif ACT == "elu":
        return tl.where(t > 0, 0.0, 1.0)
    # Only softplus is left.
    else:
        return tl.where(t > 20.0, 0.0, tl.exp(-t))


@triton.jit
def _slope(ref, alpha, gain, clamp, ACT: tl.constexpr, FROM_OUTPUT: tl.constexpr):
    """Returns dy/dx, 0 at the clamp's magnitude.

    `ref` is the output y or, for swish and lrelu with a negative alpha, the input.
    """
    if FROM_OUTPUT:
        slope = gain * _raw_slope(ref / gain, alpha, ACT)
        y = ref
    elif ACT == "swish":
        s = _logistic(ref)
        y = ref * (gain * s)
        slope = gain * s + y * (1.0 - s)
    else:
        slope = gain * tl.where(ref > 0, 1.0, alpha)
        y = ref * slope
    return tl.where(tl.abs(y) < clamp, slope, 0.0)


@triton.jit
def _curvature(ref, gain, clamp, ACT: tl.constexpr):
    """Returns the derivative of _slope with respect to ref, of a curved activation."""
    if ACT == "swish":
        s = _logistic(ref)
        curvature = gain * s * (1.0 - s) * (2.0 + ref * (1.0 - 2.0 * s))
        y = ref * s * gain
    else:
        curvature = _raw_curvature(ref / gain, ACT)
        y = ref
    return tl.where(tl.abs(y) < clamp, curvature, 0.0)


@triton.jit
def _tile(program, n_columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Returns (first row, columns) of a program's tile.

    All programs are on the grid's first axis, as it alone can have up to 2^31 - 1 of them.
    """
    tiles_across = tl.cdiv(n_columns, COLUMNS).to(tl.int64)
    return program // tiles_across * ROWS, program % tiles_across * COLUMNS + tl.arange(0, COLUMNS)


@triton.jit
def _bias(b, first_row, column, channels, n_columns, BIAS: tl.constexpr, ROWS: tl.constexpr):
    """Returns the bias of a tile: along rows (1), along columns (2 or, where 16 divides `channels`, 3), or none (0).

    That 16 divides them is worth a compilation only along columns, where the bias is then read in vectors.
    """
    if BIAS == 1:
        row = (first_row % channels).to(tl.int32) + tl.arange(0, ROWS)
        return tl.load(b + row % channels)[:, None].to(tl.float32)
    elif BIAS >= 2:
        # The same number, in a form that shows the compiler its divisor.
        if BIAS == 3:
            channels = channels // 16 * 16
        return tl.load(b + column.to(tl.int32) % channels, mask=column < n_columns, other=0.0)[None, :].to(tl.float32)
    else:
        return 0.0


@triton.jit(do_not_specialize=["n_rows", "channels"])
def bias_act_kernel(
    x, b, y, n_rows, n_columns, channels, alpha, gain, clamp,
    ACT: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Computes y = clamp(act(x + b) * gain)."""
    first_row, column = _tile(tl.program_id(0).to(tl.int64), n_columns, ROWS, COLUMNS)
    row = first_row + tl.arange(0, ROWS)
    offsets = row[:, None] * n_columns + column[None, :]
    mask = (row < n_rows)[:, None] & (column < n_columns)[None, :]
    value = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    value += _bias(b, first_row, column, channels, n_columns, BIAS, ROWS)
    value = _raw(value, alpha, ACT) * gain
    # This leaves NaN as it is.
    value = tl.where(value > clamp, clamp, tl.where(value < -clamp, -clamp, value))
    tl.store(y + offsets, value.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n_rows", "channels", "tiles"])
def bias_act_bwd_kernel(
    dy, ref, b, dx, db_parts, n_rows, n_columns, channels, tiles, alpha, gain, clamp,
    ACT: tl.constexpr, FROM_OUTPUT: tl.constexpr, BIAS: tl.constexpr, SUMS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Computes dx = dy * slope and, as SUMS says, its sums over the columns (1) or rows (2) of a program's `tiles`."""
    start_row, column = _tile(tl.program_id(0).to(tl.int64), n_columns, ROWS, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    for tile in range(tiles):
        first_row = start_row * tiles + tile * ROWS
        row = first_row + tl.arange(0, ROWS)
        offsets = row[:, None] * n_columns + column[None, :]
        mask = (row < n_rows)[:, None] & (column < n_columns)[None, :]
        ref_tile = tl.load(ref + offsets, mask=mask, other=0.0).to(tl.float32)
        if not FROM_OUTPUT:
            ref_tile += _bias(b, first_row, column, channels, n_columns, BIAS, ROWS)
        dy_tile = tl.load(dy + offsets, mask=mask, other=0.0).to(tl.float32)
        dx_tile = dy_tile * _slope(ref_tile, alpha, gain, clamp, ACT, FROM_OUTPUT)
        tl.store(dx + offsets, dx_tile.to(dx.dtype.element_ty), mask=mask)
        if SUMS == 1:
            tile_column = tl.program_id(0) % tl.cdiv(n_columns, COLUMNS)
            tl.store(db_parts + tile_column.to(tl.int64) * n_rows + row, tl.sum(dx_tile, 1), mask=row < n_rows)
        if SUMS == 2:
            total += tl.sum(dx_tile, 0)
    if SUMS == 2:
        tl.store(db_parts + start_row // ROWS * n_columns + column, total, mask=column < n_columns)


@triton.jit(do_not_specialize=["n_rows", "channels"])
def bias_act_bwd_bwd_kernel(
    ddx, dy, ref, b, ddy, dref, n_rows, n_columns, channels, alpha, gain, clamp,
    ACT: tl.constexpr, FROM_OUTPUT: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Computes ddy = ddx * slope and dref = ddx * dy * curvature."""
    first_row, column = _tile(tl.program_id(0).to(tl.int64), n_columns, ROWS, COLUMNS)
    row = first_row + tl.arange(0, ROWS)
    offsets = row[:, None] * n_columns + column[None, :]
    mask = (row < n_rows)[:, None] & (column < n_columns)[None, :]
    ref_tile = tl.load(ref + offsets, mask=mask, other=0.0).to(tl.float32)
    if not FROM_OUTPUT:
        ref_tile += _bias(b, first_row, column, channels, n_columns, BIAS, ROWS)
    ddx_tile = tl.load(ddx + offsets, mask=mask, other=0.0).to(tl.float32)
    dy_tile = tl.load(dy + offsets, mask=mask, other=0.0).to(tl.float32)
    slope = _slope(ref_tile, alpha, gain, clamp, ACT, FROM_OUTPUT)
    tl.store(ddy + offsets, (ddx_tile * slope).to(ddy.dtype.element_ty), mask=mask)
    curvature = _curvature(ref_tile, gain, clamp, ACT)
    tl.store(dref + offsets, (ddx_tile * dy_tile * curvature).to(dref.dtype.element_ty), mask=mask)


@dataclass(frozen=True)
class _Matrix:
    """A dense tensor as the kernels walk it.

    Attributes:
        channels: Length of the bias.
        rows, columns: Of the matrix.
        bias_axis: What the bias belongs to: 1 rows, 2 columns, 0 nothing.
        tiling: (rows, columns) of a tile.
    """

    channels: int
    rows: int
    columns: int
    bias_axis: int
    tiling: tuple[int, int]

    @property
    def bias(self) -> int:
        """BIAS of the kernels, if there is a bias."""
        return 3 if self.bias_axis == 2 and self.channels % 16 == 0 else self.bias_axis

    @property
    def tiles_down(self) -> int:
        return cdiv(self.rows, self.tiling[0])

    @property
    def tiles_across(self) -> int:
        return cdiv(self.columns, self.tiling[1])

    @property
    def grid(self) -> tuple[int]:
        return (self.tiles_down * self.tiles_across,)

    @property
    def tiles_per_program(self) -> int:
        """Of a program that sums over rows: those of 64 rows if enough programs are left, so that parts are few."""
        tiles = min(64 // self.tiling[0], self.tiles_down * self.tiles_across // _PROGRAMS)
        return max(1, tiles, cdiv(self.tiles_down, 4 * _PROGRAMS))


def _matrix(x: torch.Tensor, dim: int, per_channel: bool) -> _Matrix:
    """Returns how to walk the dense tensor `x`; only a walk per channel keeps channels apart.

    Tilings are few, as each is a compilation. Where channels are innermost, a row is the channels of several pixels.
    """
    outer, channels, inner = walk(x, dim)
    if not per_channel:
        # Rows as long as a tile, where they are possible, have a length that fits 32 bits.
        columns = x.numel() if x.numel() % _TILE_ELEMENTS else _TILE_ELEMENTS
        return _Matrix(1, x.numel() // max(columns, 1), columns, 0, (1, _TILE_ELEMENTS))
    if inner == 1:
        max_pixels = max(_COLUMNS_MEDIUM // max(channels, 1), 1)
        pixels = math.gcd(outer, 1 << max_pixels.bit_length() - 1)
        rows, columns = outer // pixels, channels * pixels
        tile_columns = _COLUMNS_MEDIUM if columns > _COLUMNS_SMALL else _COLUMNS_SMALL
    else:
        rows, columns = outer * channels, inner
        tile_columns = _COLUMNS_LARGE if columns >= _COLUMNS_LARGE else _COLUMNS_SMALL
    return _Matrix(channels, rows, columns, 2 if inner == 1 else 1, (_TILE_ELEMENTS // tile_columns, tile_columns))


def _parameters(act: int, alpha: float, gain: float, clamp: float) -> tuple[str, float, float, float]:
    """Returns act, alpha, gain and clamp as the kernels take them: in fewer activations, no clamp as infinity."""
    name = NAMES[act]
    if name == "linear":
        name, alpha = "lrelu", 1.0
    elif name == "elu":
        alpha = 1.0
    elif name == "selu":
        name, alpha, gain = "elu", _SELU_ALPHA, gain * _SELU_SCALE
    return name, alpha, gain, math.inf if clamp < 0 else clamp


def _slope_parameters(act: int, alpha: float, gain: float, clamp: float) -> tuple[str, float, float, float]:
    """Returns them for slopes, where relu can be a lrelu too: no slope multiplies 0 by an infinite x."""
    name, alpha, gain, clamp = _parameters(act, alpha, gain, clamp)
    return ("lrelu", 0.0, gain, clamp) if name == "relu" else (name, alpha, gain, clamp)


def bias_act(x, b, dim, act, alpha, gain, clamp):
    y = torch.empty_like(x)
    x = dense(x)
    m = _matrix(x, dim, b is not None)
    act, *parameters = _parameters(act, alpha, gain, clamp)
    if x.numel():
        with on_device_of(x):
            bias_act_kernel[m.grid](
                x, None if b is None else b.to(x.dtype).contiguous(), y, m.rows, m.columns, m.channels, *parameters,
                act, m.bias, *m.tiling, **launch_options(x, _THREADS),
            )  # fmt: skip
    return y


def bias_act_bwd(dy, ref, b, dim, from_output, needs_db, act, alpha, gain, clamp):
    dx = torch.empty_like(ref)
    ref, dy = dense(ref), laid_out_like(dy, dx)
    m = _matrix(ref, dim, b is not None or needs_db)
    sums_rows = needs_db and m.bias_axis == 2
    tiles = m.tiles_per_program if sums_rows else 1
    programs_down = cdiv(m.tiles_down, tiles)
    parts_shape = (0, 0) if not needs_db else (programs_down, m.columns) if sums_rows else (m.tiles_across, m.rows)
    db_parts = dx.new_empty(parts_shape, dtype=torch.float32)
    act, *parameters = _slope_parameters(act, alpha, gain, clamp)
    if ref.numel():
        with on_device_of(ref):
            bias_act_bwd_kernel[(programs_down * m.tiles_across,)](
                dy, ref, None if b is None else b.to(ref.dtype).contiguous(), dx, db_parts, m.rows, m.columns,
                m.channels, tiles, *parameters, act, from_output, 0 if b is None else m.bias,
                m.bias_axis if needs_db else 0, *m.tiling, **launch_options(ref, _THREADS),
            )  # fmt: skip
    elif needs_db:
        db_parts = db_parts.new_zeros(1, ref.shape[dim])
    return dx, db_parts.view(-1, m.channels).sum(0) if needs_db else db_parts.view(0)


def bias_act_bwd_bwd(ddx, dy, ref, b, dim, from_output, act, alpha, gain, clamp):
    ddy, dref = torch.empty_like(ref), torch.empty_like(ref)
    ref, ddx, dy = dense(ref), laid_out_like(ddx, ddy), laid_out_like(dy, ddy)
    m = _matrix(ref, dim, b is not None)
    act, *parameters = _parameters(act, alpha, gain, clamp)
    if ref.numel():
        with on_device_of(ref):
            bias_act_bwd_bwd_kernel[m.grid](
                ddx, dy, ref, None if b is None else b.to(ref.dtype).contiguous(), ddy, dref, m.rows, m.columns,
                m.channels, *parameters, act, from_output, m.bias, *m.tiling, **launch_options(ref, _THREADS),
            )  # fmt: skip
    return ddy, dref
