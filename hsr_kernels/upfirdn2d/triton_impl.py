# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of upfirdn2d: polyphase, contiguous or channels_last.

A short filter whose axes each go up or down, not both, has a kernel unrolled for it: a lane reads each pixel that its
outputs touch once and keeps them in registers. Everything else takes a kernel that loops over taps. Filters given as
one axis of many taps run as two passes, with a float32 image between them.

Images are [planes, height, width, channels] in memory: planes are N * C and channels 1 where they are contiguous,
planes are N where they are channels_last. Lanes are a tile [A, B]: of lines and columns in the first case, of columns
and channels in the second, so that consecutive lanes touch consecutive memory.
"""

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl

from .._registry import NHWC, dense_image, image_format
from .._triton import cdiv, on_device_of, power_of_2
from .geometry import Geometry, filter_taps, geometry_of

WARPS = 4
_UNROLLED_TAPS = 36
_UNROLLED_FACTOR = 4
_NO_FILTER, _OUTER, _PLAIN = 0, 1, 2  # of one tap; the outer product of a row with itself; [height, width]


@triton.jit
def _along(first, LAST: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    """Columns of lanes [A, B], counted from `first`."""
    if LAST:
        return first + tl.arange(0, A)[:, None]
    else:
        return first + tl.arange(0, B)[None, :]


@triton.jit
def fir_place(lines, columns, channels, LAST: tl.constexpr, LINES: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    """This program's lanes, where planes have `lines` lines: (plane, line, first column, channel).

    A tile of lines has LINES of each of A / LINES planes. Only planes are counted in 64 bits; all programs are on the
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
        tiles, blocks = tl.cdiv(columns, B), tl.cdiv(lines, LINES)
        lane = tl.arange(0, A)[:, None]
        block = program // tiles
        plane = (block // blocks).to(tl.int64) * (A // LINES) + lane // LINES
        return plane, block % blocks * LINES + lane % LINES, program % tiles * B, tl.zeros([1, 1], tl.int32)


@triton.jit
def _within(i, n):
    return (i >= 0) & (i < n)


@triton.jit
def fir_taps(
    f, start, step_y, step_x, gain, FILTER: tl.constexpr, TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr
):  # fmt: skip
    """The taps as a correlation, times gain: a tuple of scalars, row by row."""
    taps = ()
    for y in tl.static_range(TAPS_Y):
        for x in tl.static_range(TAPS_X):
            if FILTER == 0:
                tap = gain
            elif FILTER == 1:
                tap = tl.load(f + start + y * step_y).to(tl.float32) * tl.load(f + start + x * step_x).to(tl.float32)
                tap *= gain
            else:
                tap = tl.load(f + start + y * step_y + x * step_x).to(tl.float32) * gain
            taps += (tap,)
    return taps


@triton.jit
def _correlate(
    pixels, taps, FIRST: tl.constexpr, NEAR_X: tl.constexpr, NEAR_Y: tl.constexpr, TAP_X: tl.constexpr,
    TAP_Y: tl.constexpr, UP_X: tl.constexpr, UP_Y: tl.constexpr, TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr,
):  # fmt: skip
    """One output: NEAR_Y rows of NEAR_X pixels from FIRST on, times taps TAP, TAP + UP, ... as far as there are any."""
    total = tl.zeros_like(pixels[FIRST])
    for y in tl.static_range(NEAR_Y):
        for x in tl.static_range(NEAR_X):
            if (
                TAP_Y + y * UP_Y >= 0
                and TAP_Y + y * UP_Y < TAPS_Y
                and TAP_X + x * UP_X >= 0
                and TAP_X + x * UP_X < TAPS_X
            ):
                total += pixels[FIRST + y * NEAR_X + x] * taps[(TAP_Y + y * UP_Y) * TAPS_X + TAP_X + x * UP_X]
    return total


@triton.jit
def fir_tile(
    x, row, column, inside, height, width, row_stride, column_stride, taps,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr,
    PHASE_X: tl.constexpr, PHASE_Y: tl.constexpr, TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """GROUPS groups of UP_Y rows of UP_X outputs for each lane, float32: a tuple, row by row.

    A group starts `DOWN` pixels after the one before it. With phase = padding mod up, its output r weighs the pixel at
    distance d from the group's first pixel with tap up * d + phase - r.

    Args:
        x: Pointers to the first group's first pixel, at (row, column) of an image (height, width).
        inside: Lanes that have a plane and a channel.
        taps: Of `fir_taps`.
    """
    NEAR_X: tl.constexpr = (TAPS_X + UP_X - 2 - PHASE_X) // UP_X + 1
    NEAR_Y: tl.constexpr = (TAPS_Y + UP_Y - 2 - PHASE_Y) // UP_Y + 1
    columns = ()
    for d in tl.static_range(NEAR_X):
        columns += (_within(column + d, width),)
    pixels = ()
    results = ()
    for group in tl.static_range(GROUPS):
        # Only the rows that the groups before haven't read.
        for i in tl.static_range(0 if group == 0 else (group - 1) * DOWN_Y + NEAR_Y, group * DOWN_Y + NEAR_Y):
            readable = inside & _within(row + i, height)
            for d in tl.static_range(NEAR_X):
                pixel = tl.load(x + d * column_stride, mask=readable & columns[d], other=0.0)
                pixels += (pixel.to(tl.float32),)
            x += row_stride
        for y in tl.static_range(UP_Y):
            for r in tl.static_range(UP_X):
                result = _correlate(
                    pixels, taps, group * DOWN_Y * NEAR_X, NEAR_X, NEAR_Y, PHASE_X - r, PHASE_Y - y, UP_X, UP_Y,
                    TAPS_X, TAPS_Y,
                )  # fmt: skip
                results += (result,)
    return results


@triton.jit(do_not_specialize=["pad_x", "pad_y", "f_start", "f_step_y", "f_step_x"])
def upfirdn2d_kernel(
    x, f, y, planes, channels, height, width, out_height, out_width, pad_x, pad_y, f_start, f_step_y, f_step_x, gain,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr,
    PHASE_X: tl.constexpr, PHASE_Y: tl.constexpr, TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr, FILTER: tl.constexpr,
    LAST: tl.constexpr, GROUPS: tl.constexpr, LINES: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Unrolled; pad is in pixels of x. Stores are complete lines: the phases of up=2 are woven together for that."""
    groups = tl.cdiv(out_width, UP_X)
    blocks = tl.cdiv(out_height, UP_Y * GROUPS)
    plane, block, first, channel = fir_place(blocks, groups, channels, LAST, LINES, A, B)
    group = _along(first, LAST, A, B)
    inside = (plane < planes) & (block < blocks) & (channel < channels)
    row, column = block * (GROUPS * DOWN_Y) - pad_y, group * DOWN_X - pad_x
    at = x + (plane * height + row) * width * channels + (column * channels + channel)
    taps = fir_taps(f, f_start, f_step_y, f_step_x, gain, FILTER, TAPS_X, TAPS_Y)
    results = fir_tile(
        at, row, column, inside, height, width, width * channels, channels, taps,
        UP_X, UP_Y, DOWN_X, DOWN_Y, PHASE_X, PHASE_Y, TAPS_X, TAPS_Y, GROUPS,
    )  # fmt: skip
    out_row = block * (GROUPS * UP_Y)
    y += (plane * out_height + out_row) * out_width * channels + channel
    for i in tl.static_range(GROUPS * UP_Y):
        writable = inside & (out_row + i < out_height)
        if UP_X == 2 and not LAST:
            out_column = _along(first * 2, LAST, A, 2 * B)
            value = tl.interleave(results[2 * i], results[2 * i + 1])
            tl.store(y + out_column, value.to(y.dtype.element_ty), mask=writable & (out_column < out_width))
        else:
            for r in tl.static_range(UP_X):
                out_column = group * UP_X + r
                value = results[i * UP_X + r].to(y.dtype.element_ty)
                tl.store(y + out_column * channels, value, mask=writable & (out_column < out_width))
        y += out_width * channels


@triton.jit
def _first_tap(out, up, down, shift):
    """(first tap that meets a pixel, that pixel) for outputs of an axis, padding being a multiple of up less shift."""
    position = out * down + shift
    first = (up - position % up) % up
    return first, (position + first) // up


@triton.jit(do_not_specialize=["pad_x", "pad_y", "shift_x", "shift_y", "f_start", "f_step_y", "f_step_x"])
def upfirdn2d_looped_kernel(
    x, f, y, planes, channels, height, width, out_height, out_width, up_x, up_y, down_x, down_y, pad_x, pad_y,
    shift_x, shift_y, taps_x, taps_y, f_start, f_step_y, f_step_x, gain,
    LAST: tl.constexpr, LINES: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Any factors and number of taps; pad is in pixels of x."""
    plane, out_row, first, channel = fir_place(out_height, out_width, channels, LAST, LINES, A, B)
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


@dataclass(frozen=True)
class Pass:
    """One launch: a geometry and its filter, which stays where it is in memory."""

    geometry: Geometry
    f: torch.Tensor | None
    taps: tuple[int, int]  # height, width

    @property
    def unrolled(self) -> bool:
        g = self.geometry
        axes = zip(g.up, g.down, strict=True)
        return self.taps[0] * self.taps[1] <= _UNROLLED_TAPS and all(
            min(up, down) == 1 and max(up, down) <= _UNROLLED_FACTOR for up, down in axes
        )

    @property
    def filter_args(self) -> tuple:
        """(f, index of the correlation's first tap, steps (y, x)): an unflipped filter is walked backwards."""
        if self.f is None:
            return None, 0, 0, 0
        f = self.f
        steps = f.stride() if f.ndim == 2 else (f.stride(0), f.stride(0))
        if self.geometry.flip_filter:
            return f, 0, *steps
        start = sum((n - 1) * step for n, step in zip(f.shape, steps, strict=False))
        return f, start, -steps[0], -steps[1]

    @property
    def unrolled_args(self) -> tuple:
        """What `fir_tile` takes: up, down, phases, taps."""
        g = self.geometry
        phases = (g.padding[0] % g.up[0], g.padding[2] % g.up[1])
        return *g.up, *g.down, *phases, self.taps[1], self.taps[0]

    @property
    def kind(self) -> int:
        return _NO_FILTER if self.f is None else _OUTER if self.f.ndim == 1 else _PLAIN

    @property
    def groups(self) -> int:
        """Groups of rows to a lane: neighbours share the rows that they read."""
        if self.taps[0] == 1:
            return 1
        return 2 if max(self.geometry.up[1], self.geometry.down[1]) > 1 else 4


def passes_of(f: torch.Tensor | None, geometry: Geometry) -> list[Pass]:
    """The launches that a call takes: two for an axis of taps, unless it is short enough to unroll both at once.

    Whether [height, width] is an outer product isn't asked: its values are on the GPU.
    """
    whole = Pass(geometry, f, filter_taps(f))
    if f is None or f.ndim == 2 or whole.unrolled:
        return [whole]
    g, n = geometry, f.shape[0]
    x0, x1, y0, y1 = g.padding
    rows = replace(g, up=(g.up[0], 1), down=(g.down[0], 1), padding=(x0, x1, 0, 0))
    columns = replace(g, up=(1, g.up[1]), down=(1, g.down[1]), padding=(0, 0, y0, y1), gain=1.0)
    return [Pass(rows, f[None, :], (1, n)), Pass(columns, f[:, None], (n, 1))]


def tile_of(planes: int, lines: int, columns: int, channels: int, last: bool, itemsize: int) -> tuple[int, ...]:
    """(programs, LINES, A, B): 16-byte accesses along channels, four elements to a thread along columns."""
    lanes = 32 * WARPS * (16 // itemsize if last else 4)
    if last:
        b = power_of_2(channels, 1, 128 // itemsize)
        a = power_of_2(columns, 1, lanes // b)
        return planes * lines * cdiv(columns, a) * cdiv(channels, b), 1, a, b
    b = power_of_2(columns, 1, lanes)
    a = power_of_2(lines, 1, lanes // b)
    a, height = power_of_2(planes * a, 1, lanes // b), a
    return cdiv(planes, a // height) * cdiv(lines, height) * cdiv(columns, b), height, a, b


def _launch(x: torch.Tensor, y: torch.Tensor, step: Pass, last: bool) -> None:
    """Runs one pass over dense images of one layout."""
    n, c, height, width = x.shape
    planes, channels = (n, c) if last else (n * c, 1)
    out_height, out_width = y.shape[2:]
    g = step.geometry
    x0, _, y0, _ = g.padding
    up_x, up_y = g.up if step.unrolled else (1, 1)
    lines, columns = cdiv(out_height, up_y * step.groups) if step.unrolled else out_height, cdiv(out_width, up_x)
    programs, *tile = tile_of(planes, lines, columns, channels, last, x.element_size())
    f, *steps = step.filter_args
    sizes = planes, channels, height, width, out_height, out_width
    with on_device_of(x):
        if step.unrolled:
            upfirdn2d_kernel[(programs,)](
                x, f, y, *sizes, x0 // g.up[0], y0 // g.up[1], *steps, g.gain, *step.unrolled_args, step.kind,
                last, step.groups, *tile, num_warps=WARPS,
            )  # fmt: skip
        else:
            if f is None:
                f = torch.ones((1, 1), dtype=torch.float32, device=x.device)
            pad_x, pad_y = -(-x0 // g.up[0]), -(-y0 // g.up[1])
            upfirdn2d_looped_kernel[(programs,)](
                x, f, y, *sizes, *g.up, *g.down, pad_x, pad_y, pad_x * g.up[0] - x0, pad_y * g.up[1] - y0,
                step.taps[1], step.taps[0], *steps, g.gain, last, *tile, num_warps=WARPS,
            )  # fmt: skip


def run_passes(x: torch.Tensor, passes: list[Pass], dtype: torch.dtype) -> torch.Tensor:
    """Runs passes over images of any layout, which is kept; the last one's output is in `dtype`."""
    memory_format = image_format(x)
    x, layout = dense_image(x)
    for i, step in enumerate(passes):
        size = step.geometry.output_size(x.shape[2], x.shape[3], step.taps)
        y = torch.empty(
            (*x.shape[:2], *size), dtype=dtype if i == len(passes) - 1 else torch.float32, device=x.device,
            memory_format=memory_format,
        )  # fmt: skip
        if y.numel():
            _launch(x, y, step, layout == NHWC)
        x = y
    return x


def upfirdn2d(x, f, up, down, padding, flip_filter, gain):
    return run_passes(x, passes_of(f, geometry_of(up, down, padding, flip_filter, gain)), x.dtype)
