# SPDX-License-Identifier: Apache-2.0
"""Launches of upfirdn2d's Triton kernels, which stand in triton_kernels.py.

A short filter whose axes each go up or down, not both, takes a kernel unrolled for it, in one pass: one for contiguous
images whose rows can be walked in vectors, one for the rest. Other filters take a kernel that loops over taps, and
those that are given as one axis of many taps take it twice, with a float32 image in between.
"""

from dataclasses import dataclass

import torch

from .._tensors import NHWC, dense_image, image_format
from .._triton import cdiv, on_device_of, power_of_2
from .geometry import Geometry, filter_taps, geometry_of
from .passes import OUTER, FirPass, along_each_axis
from .triton_kernels import upfirdn2d_kernel, upfirdn2d_looped_kernel, upfirdn2d_rows_kernel

WARPS = 4
REGISTERS = 168  # that a thread may take without vectors: left to itself, ptxas spills some for more programs
_THREADS = 32 * WARPS
_UNROLLED_TAPS = 36  # of [height, width]
_UNROLLED_OUTER_TAPS = 16  # of each axis of an outer product
_SHORT = 6  # taps of each axis of an outer product that are unrolled without vectors too
_UNROLLED_FACTOR = 2
_ALIGNED = 16  # pixels: the rows that are walked in vectors are multiples of this, as their kernel takes for granted


@dataclass(frozen=True)
class Pass(FirPass):
    """One launch of a Triton kernel."""

    @property
    def unrolled(self) -> bool:
        g = self.geometry
        if self.kind == OUTER:
            few = self.taps[0] <= _UNROLLED_OUTER_TAPS
        else:
            few = self.taps[0] * self.taps[1] <= _UNROLLED_TAPS
        axes = zip(g.up, g.down, strict=True)
        return few and all(min(up, down) == 1 and max(up, down) <= _UNROLLED_FACTOR for up, down in axes)

    def unrolled_args(self, vectors: bool = False) -> tuple:
        """What the unrolled kernels take: up, down, phases, taps, kind of filter, groups of rows."""
        g = self.geometry
        phases = (g.padding[0] % g.up[0], g.padding[2] % g.up[1])
        return *g.up, *g.down, *phases, self.taps[1], self.taps[0], self.kind, self.groups(vectors)

    @property
    def is_long(self) -> bool:
        return self.taps[0] > 8

    def groups(self, vectors: bool) -> int:
        """Groups of rows to a lane, which share rows that they read; as many as registers are left for.

        8 of 12 taps save an eighth of the instructions of 6, but spill.
        """
        g = self.geometry
        if self.taps[0] == 1:
            return 1
        if max(g.up[1], g.down[1]) == 1:
            return (6 if self.is_long else 8) if vectors else 3
        return 4 if vectors and self.taps[0] > 4 * g.up[1] else 2

    def vectors(self, width: int, out_width: int, itemsize: int) -> tuple[int, int, int, int, int] | None:
        """(pad_x, ACROSS, SKIP, VECTOR, STORED) of upfirdn2d_rows_kernel; None where rows can't be walked so."""
        up, down = self.geometry.up[0], self.geometry.down[0]
        if width % _ALIGNED or out_width % _ALIGNED or max(up, down) > _UNROLLED_FACTOR:
            return None
        # Long filters wait for arithmetic, not for memory: 8 pixels to a lane would only spill registers.
        stored = min(16 // itemsize, 4) if self.is_long and max(up, down) == 1 else 16 // itemsize
        across = stored // up
        vector = min(across * down, stored)
        pad = self.geometry.padding[0] // up
        pads = cdiv(pad, vector)
        return pads, across, pads * vector - pad, vector, stored


def passes_of(f: torch.Tensor | None, geometry: Geometry, in_vectors: bool = False) -> list[Pass]:
    """The launches that a call takes: two for an axis of taps, unless it is short enough to unroll both at once.

    Whether [height, width] is an outer product isn't asked: its values are on the GPU.

    Args:
        in_vectors: Whether rows can be walked in vectors, which leaves registers for longer filters in one pass.
    """
    whole = Pass(geometry, f, filter_taps(f))
    if f is None or f.ndim == 2 or (whole.unrolled and (in_vectors or f.shape[0] <= _SHORT)):
        return [whole]
    return along_each_axis(whole)


def tile_of_channels(planes: int, lines: int, columns: int, channels: int, itemsize: int) -> tuple[int, int, int]:
    """(programs, A, B) for channels_last: 16-byte accesses along channels, unless they are few; two tiles only."""
    held, b = (4, 4) if channels < 16 else (16 // itemsize, 128 // itemsize)
    a = _THREADS * held // b
    return planes * lines * cdiv(columns, a) * cdiv(channels, b), a, b


def _tile_of_lines(planes: int, lines: int, columns: int, lanes: int, b: int) -> tuple[int, int, int, int]:
    """(programs, fold, A, B) for contiguous images: a tile's lines are those of one plane or of several."""
    a = lanes // b
    in_plane = power_of_2(lines, 1, a)
    programs = cdiv(planes, a // in_plane) * cdiv(lines, in_plane) * cdiv(columns, b)
    return programs, in_plane.bit_length() - 1, a, b


def _launch(x: torch.Tensor, y: torch.Tensor, step: Pass, last: bool) -> None:
    """Runs one pass over dense images of one layout."""
    if not step.unrolled:
        return _launch_looped(x, y, step, last)
    n, c, height, width = x.shape
    out_height, out_width = y.shape[2:]
    g = step.geometry
    f, *steps = step.filter_args
    vectors = None if last or x.data_ptr() % 16 else step.vectors(width, out_width, y.element_size())
    lines = cdiv(out_height, g.up[1] * step.groups(vectors is not None))
    with on_device_of(x):
        if vectors is not None:
            pad_x, *shape = vectors
            columns = out_width // shape[-1]
            programs, fold, *tile = _tile_of_lines(n * c, lines, columns, _THREADS, 16 if columns >= 16 else 4)
            upfirdn2d_rows_kernel[(programs,)](
                x, f, y, n * c, height, width, out_height, out_width, fold, pad_x, g.padding[2] // g.up[1], *steps,
                g.gain, *step.unrolled_args(True), *shape, *tile, num_warps=WARPS,
            )  # fmt: skip
        else:
            sizes, (programs, fold, *tile) = _lay_out(x, y, lines, cdiv(out_width, g.up[0]), last)
            upfirdn2d_kernel[(programs,)](
                x, f, y, *sizes, fold, g.padding[0] // g.up[0], g.padding[2] // g.up[1], *steps, g.gain,
                *step.unrolled_args(), last, *tile, num_warps=WARPS, maxnreg=REGISTERS,
            )  # fmt: skip


def _launch_looped(x: torch.Tensor, y: torch.Tensor, step: Pass, last: bool) -> None:
    g = step.geometry
    f, *steps = step.filter_args
    if f is None:
        f = torch.ones((1, 1), dtype=torch.float32, device=x.device)
    x0, _, y0, _ = g.padding
    pad_x, pad_y = -(-x0 // g.up[0]), -(-y0 // g.up[1])
    sizes, (programs, fold, *tile) = _lay_out(x, y, y.shape[2], y.shape[3], last)
    with on_device_of(x):
        upfirdn2d_looped_kernel[(programs,)](
            x, f, y, *sizes, fold, *g.up, *g.down, pad_x, pad_y, pad_x * g.up[0] - x0, pad_y * g.up[1] - y0,
            step.taps[1], step.taps[0], *steps, g.gain, last, *tile, num_warps=WARPS,
        )  # fmt: skip


def _lay_out(x: torch.Tensor, y: torch.Tensor, lines: int, columns: int, last: bool) -> tuple[tuple, tuple]:
    """Sizes and tiles, as kernels take them, for planes of so many lines and columns of lanes."""
    n, c, height, width = x.shape
    out_height, out_width = y.shape[2:]
    if last:
        programs, *tile = tile_of_channels(n, lines, columns, c, min(x.element_size(), y.element_size()))
        return (n, c, height, width, out_height, out_width), (programs, 0, *tile)
    return (n * c, 1, height, width, out_height, out_width), _tile_of_lines(n * c, lines, columns, 4 * _THREADS, 32)


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
    geometry = geometry_of(up, down, padding, flip_filter, gain)
    whole = Pass(geometry, f, filter_taps(f))
    out_width = geometry.output_size(x.shape[2], x.shape[3], whole.taps)[1]
    in_vectors = x.is_contiguous() and x.data_ptr() % 16 == 0
    in_vectors = in_vectors and whole.vectors(x.shape[3], out_width, x.element_size()) is not None
    return run_passes(x, passes_of(f, geometry, in_vectors), x.dtype)
