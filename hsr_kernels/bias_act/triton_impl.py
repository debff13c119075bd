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
from .._triton import cdiv, on_device_of
from .activations import NAMES

_TILE = 4096  # elements of a tile
_WARPS = 8  # with fewer, masks in 64 bits and three tensors spill registers
_NARROW, _WIDE, _WIDEST = 64, 256, 1024  # columns of a tile
_PROGRAMS = 1024  # enough to fill a GPU; four times as many at most keep a partial sum per column each

# Kernels know activations by name. By numbers they would know them from module-level constants, and in Triton 3.6 the
# key of a kernel's compiled code depends on whether helpers that use such constants were hashed before the kernel.
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


@triton.jit
def _logistic(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _raw(x, alpha, ACT: tl.constexpr):
    """act(x), before gain and clamp; of NaN it is NaN."""
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
    else:  # swish
        return x * _logistic(x)


@triton.jit
def _raw_slope(t, alpha, ACT: tl.constexpr):
    """act'(x) told from t = act(x); swish's can't be."""
    if ACT == "lrelu":
        return tl.where(t > 0, 1.0, alpha)
    elif ACT == "tanh":
        return 1.0 - t * t
    elif ACT == "sigmoid":
        return t * (1.0 - t)
    elif ACT == "elu":
        return tl.where(t > 0, 1.0, t + alpha)
    else:  # softplus
        return tl.where(t > 20.0, 1.0, 1.0 - tl.exp(-t))


@triton.jit
def _raw_curvature(t, ACT: tl.constexpr):
    """Derivative of _raw_slope by t, of a curved activation."""
    if ACT == "tanh":
        return -2.0 * t
    elif ACT == "sigmoid":
        return 1.0 - 2.0 * t
    elif ACT == "elu":
        return tl.where(t > 0, 0.0, 1.0)
    else:  # softplus
        return tl.where(t > 20.0, 0.0, tl.exp(-t))


@triton.jit
def _slope(ref, alpha, gain, clamp, ACT: tl.constexpr, FROM_OUTPUT: tl.constexpr):
    """dy/dx from the output y or, of swish and a falling lrelu, from the input; 0 at the clamp's magnitude."""
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
    """Derivative of _slope by ref, of a curved activation."""
    if ACT == "swish":
        s = _logistic(ref)
        curvature = gain * s * (1.0 - s) * (2.0 + ref * (1.0 - 2.0 * s))
        y = ref * s * gain
    else:
        curvature = _raw_curvature(ref / gain, ACT)
        y = ref
    return tl.where(tl.abs(y) < clamp, curvature, 0.0)


@triton.jit
def _place(program, n_columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """(first row, columns) of a tile; all programs are on the grid's first axis, whose limit is 2^31 - 1."""
    across = tl.cdiv(n_columns, COLUMNS).to(tl.int64)
    return program // across * ROWS, program % across * COLUMNS + tl.arange(0, COLUMNS)


@triton.jit
def _bias(b, first, column, channels, n_columns, BIAS: tl.constexpr, ROWS: tl.constexpr):
    """The bias as it is added to a tile: along rows (1), columns (2 or, where 16 divides `channels`, 3), or none (0).

    That 16 divides them is worth a compilation along columns only, which then read the bias in vectors.
    """
    if BIAS == 1:
        row = (first % channels).to(tl.int32) + tl.arange(0, ROWS)
        return tl.load(b + row % channels)[:, None].to(tl.float32)
    elif BIAS >= 2:
        if BIAS == 3:
            channels = channels // 16 * 16  # as it is, and now known
        return tl.load(b + column.to(tl.int32) % channels, mask=column < n_columns, other=0.0)[None, :].to(tl.float32)
    else:
        return 0.0


@triton.jit(do_not_specialize=["n_rows", "channels"])
def bias_act_kernel(
    x, b, y, n_rows, n_columns, channels, alpha, gain, clamp,
    ACT: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    first, column = _place(tl.program_id(0).to(tl.int64), n_columns, ROWS, COLUMNS)
    row = first + tl.arange(0, ROWS)
    at = row[:, None] * n_columns + column[None, :]
    inside = (row < n_rows)[:, None] & (column < n_columns)[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    value += _bias(b, first, column, channels, n_columns, BIAS, ROWS)
    value = _raw(value, alpha, ACT) * gain
    value = tl.where(value > clamp, clamp, tl.where(value < -clamp, -clamp, value))  # NaN stays NaN
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n_rows", "channels", "tiles"])
def bias_act_bwd_kernel(
    dy, ref, b, dx, sums, n_rows, n_columns, channels, tiles, alpha, gain, clamp,
    ACT: tl.constexpr, FROM_OUTPUT: tl.constexpr, BIAS: tl.constexpr, SUMS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """dx = dy * slope; SUMS: its sums over each tile's columns (1), or over the rows of `tiles` tiles (2)."""
    start, column = _place(tl.program_id(0).to(tl.int64), n_columns, ROWS, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    for tile in range(tiles):
        first = start * tiles + tile * ROWS
        row = first + tl.arange(0, ROWS)
        at = row[:, None] * n_columns + column[None, :]
        inside = (row < n_rows)[:, None] & (column < n_columns)[None, :]
        r = tl.load(ref + at, mask=inside, other=0.0).to(tl.float32)
        if not FROM_OUTPUT:
            r += _bias(b, first, column, channels, n_columns, BIAS, ROWS)
        g = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32) * _slope(r, alpha, gain, clamp, ACT, FROM_OUTPUT)
        tl.store(dx + at, g.to(dx.dtype.element_ty), mask=inside)
        if SUMS == 1:
            across = tl.program_id(0) % tl.cdiv(n_columns, COLUMNS)
            tl.store(sums + across.to(tl.int64) * n_rows + row, tl.sum(g, 1), mask=row < n_rows)
        if SUMS == 2:
            total += tl.sum(g, 0)
    if SUMS == 2:
        tl.store(sums + start // ROWS * n_columns + column, total, mask=column < n_columns)


@triton.jit(do_not_specialize=["n_rows", "channels"])
def bias_act_bwd_bwd_kernel(
    ddx, dy, ref, b, ddy, dref, n_rows, n_columns, channels, alpha, gain, clamp,
    ACT: tl.constexpr, FROM_OUTPUT: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    first, column = _place(tl.program_id(0).to(tl.int64), n_columns, ROWS, COLUMNS)
    row = first + tl.arange(0, ROWS)
    at = row[:, None] * n_columns + column[None, :]
    inside = (row < n_rows)[:, None] & (column < n_columns)[None, :]
    r = tl.load(ref + at, mask=inside, other=0.0).to(tl.float32)
    if not FROM_OUTPUT:
        r += _bias(b, first, column, channels, n_columns, BIAS, ROWS)
    g = tl.load(ddx + at, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
    slope = _slope(r, alpha, gain, clamp, ACT, FROM_OUTPUT)
    tl.store(ddy + at, (g * slope).to(ddy.dtype.element_ty), mask=inside)
    curvature = _curvature(r, gain, clamp, ACT)
    tl.store(dref + at, (g * d * curvature).to(dref.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class _Matrix:
    """A dense tensor as the kernels walk it."""

    channels: int
    rows: int
    columns: int
    along: int  # what the bias belongs to: 1 rows, 2 columns, 0 nothing
    tile: tuple[int, int]

    @property
    def bias(self) -> int:
        """BIAS of the kernels, given one."""
        return 3 if self.along == 2 and self.channels % 16 == 0 else self.along

    @property
    def down(self) -> int:
        """Tiles, from top to bottom."""
        return cdiv(self.rows, self.tile[0])

    @property
    def across(self) -> int:
        return cdiv(self.columns, self.tile[1])

    @property
    def grid(self) -> tuple[int]:
        return (self.down * self.across,)

    def tiles(self) -> int:
        """Tiles to a program that sums over rows: for 64 rows, if many programs are left, so that sums are few."""
        return max(1, min(64 // self.tile[0], self.down * self.across // _PROGRAMS), cdiv(self.down, 4 * _PROGRAMS))


def _matrix(x: torch.Tensor, dim: int, per_channel: bool) -> _Matrix:
    """How to walk the dense tensor `x`; only a walk per channel keeps channels apart.

    Tiles have few shapes, as each is a compilation. Where channels are innermost, a row is those of several pixels.
    """
    outer, channels, inner = walk(x, dim)
    if not per_channel:
        columns = x.numel() if x.numel() % _TILE else _TILE  # the latter fits 32 bits
        return _Matrix(1, x.numel() // max(columns, 1), columns, 0, (1, _TILE))
    if inner == 1:
        most = max(_WIDE // max(channels, 1), 1)
        pixels = math.gcd(outer, 1 << most.bit_length() - 1)
        rows, columns, width = outer // pixels, channels * pixels, _WIDE if channels * pixels > _NARROW else _NARROW
    else:
        rows, columns, width = outer * channels, inner, _WIDEST if inner >= _WIDEST else _NARROW
    return _Matrix(channels, rows, columns, 2 if inner == 1 else 1, (_TILE // width, width))


def _form(act: int, alpha: float, gain: float, clamp: float) -> tuple[str, float, float, float]:
    """act, alpha, gain and clamp as the kernels take them: fewer activations by more numbers; no clamp is infinity."""
    name = NAMES[act]
    if name == "linear":
        name, alpha = "lrelu", 1.0
    elif name == "elu":
        alpha = 1.0
    elif name == "selu":
        name, alpha, gain = "elu", _SELU_ALPHA, gain * _SELU_SCALE
    return name, alpha, gain, math.inf if clamp < 0 else clamp


def _slope_form(act: int, alpha: float, gain: float, clamp: float) -> tuple[str, float, float, float]:
    """The same for slopes: relu is a lrelu too, whose product of 0 and infinity isn't met here."""
    name, alpha, gain, clamp = _form(act, alpha, gain, clamp)
    return ("lrelu", 0.0, gain, clamp) if name == "relu" else (name, alpha, gain, clamp)


def bias_act(x, b, dim, act, alpha, gain, clamp):
    y = torch.empty_like(x)
    x = dense(x)
    m = _matrix(x, dim, b is not None)
    act, *numbers = _form(act, alpha, gain, clamp)
    if x.numel():
        with on_device_of(x):
            bias_act_kernel[m.grid](
                x, None if b is None else b.to(x.dtype).contiguous(), y, m.rows, m.columns, m.channels, *numbers,
                act, m.bias, *m.tile, num_warps=_WARPS,
            )  # fmt: skip
    return y


def bias_act_bwd(dy, ref, b, dim, from_output, needs_db, act, alpha, gain, clamp):
    dx = torch.empty_like(ref)
    ref, dy = dense(ref), laid_out_like(dy, dx)
    m = _matrix(ref, dim, b is not None or needs_db)
    tiles = m.tiles() if needs_db and m.along == 2 else 1
    down = cdiv(m.down, tiles)
    partial = (0, 0) if not needs_db else (down, m.columns) if m.along == 2 else (m.across, m.rows)
    sums = dx.new_empty(partial, dtype=torch.float32)
    act, *numbers = _slope_form(act, alpha, gain, clamp)
    if ref.numel():
        with on_device_of(ref):
            bias_act_bwd_kernel[(down * m.across,)](
                dy, ref, None if b is None else b.to(ref.dtype).contiguous(), dx, sums, m.rows, m.columns, m.channels,
                tiles, *numbers, act, from_output, 0 if b is None else m.bias, m.along if needs_db else 0, *m.tile,
                num_warps=_WARPS,
            )  # fmt: skip
    elif needs_db:
        sums = sums.new_zeros(1, ref.shape[dim])
    return dx, (sums.view(-1, m.channels) if needs_db else sums).sum(0, dtype=torch.float64)


def bias_act_bwd_bwd(ddx, dy, ref, b, dim, from_output, act, alpha, gain, clamp):
    ddy, dref = torch.empty_like(ref), torch.empty_like(ref)
    ref, ddx, dy = dense(ref), laid_out_like(ddx, ddy), laid_out_like(dy, ddy)
    m = _matrix(ref, dim, b is not None)
    act, *numbers = _form(act, alpha, gain, clamp)
    if ref.numel():
        with on_device_of(ref):
            bias_act_bwd_bwd_kernel[m.grid](
                ddx, dy, ref, None if b is None else b.to(ref.dtype).contiguous(), ddy, dref, m.rows, m.columns,
                m.channels, *numbers, act, from_output, m.bias, *m.tile, num_warps=_WARPS,
            )  # fmt: skip
    return ddy, dref
