# SPDX-License-Identifier: Apache-2.0
"""Launches of upfirdn2d's Triton kernels, which stand in triton_fir.py.

A short filter whose axes each go up or down, not both, takes a kernel unrolled for it, in one pass: one for contiguous
images whose rows can be read and written in vectors, one for the rest. Other filters take a kernel that loops over
taps, and those that are given as one axis of many taps take it twice, with a float32 image in between.
"""

from dataclasses import dataclass

import torch

from .._tensors import NHWC, dense_image, image_format
from .._triton import cdiv, launch_options, on_device_of, power_of_2
from .geometry import Geometry, filter_taps, geometry_of
from .passes import FilterKind, FirPass, along_each_axis
from .triton_fir import upfirdn2d_kernel, upfirdn2d_looped_kernel, upfirdn2d_rows_kernel

THREADS = 128
# Left to itself, ptxas spills registers of the kernel without vectors, so that more programs fit.
_MAX_REGISTERS = 168
# A filter [height, width] of more taps isn't unrolled.
_MAX_UNROLLED_TAPS = 36
# An outer product of more taps along an axis isn't unrolled.
_MAX_UNROLLED_OUTER_TAPS = 16
# Without vectors, an outer product of more taps along an axis takes a pass for each axis.
_MAX_UNROLLED_OUTER_TAPS_WITHOUT_VECTORS = 6
_MAX_UNROLLED_FACTOR = 2
# A filter of more taps along an axis is compute-bound.
_MAX_MEMORY_BOUND_TAPS = 8
# The kernel of rows relies on lengths, in pixels, that are multiples of this.
_ROW_ALIGNMENT = 16


@dataclass(frozen=True)
class Pass(FirPass):
    """One launch of a Triton kernel."""

    @property
    def is_unrolled(self) -> bool:
        g = self.geometry
        if self.kind == FilterKind.OUTER_PRODUCT:
            is_short = self.taps[0] <= _MAX_UNROLLED_OUTER_TAPS
        else:
            is_short = self.taps[0] * self.taps[1] <= _MAX_UNROLLED_TAPS
        axes = zip(g.up, g.down, strict=True)
        return is_short and all(min(up, down) == 1 and max(up, down) <= _MAX_UNROLLED_FACTOR for up, down in axes)

    def unrolled_args(self, in_vectors: bool = False) -> tuple:
        """What the unrolled kernels take: up, down, phases, taps, kind of filter, groups of rows."""
        g = self.geometry
        phases = (g.padding[0] % g.up[0], g.padding[2] % g.up[1])
        return *g.up, *g.down, *phases, self.taps[1], self.taps[0], self.kind.value, self.row_groups(in_vectors)

    @property
    def is_compute_bound(self) -> bool:
        return self.taps[0] > _MAX_MEMORY_BOUND_TAPS

    def row_groups(self, in_vectors: bool) -> int:
        """Groups of rows to a lane, which share rows that they read: as many as there are registers for.

        8 of 12 taps save an eighth of the instructions of 6, but spill.
        """
        g = self.geometry
        if self.taps[0] == 1:
            return 1
        if max(g.up[1], g.down[1]) == 1:
            return (6 if self.is_compute_bound else 8) if in_vectors else 3
        return 4 if in_vectors and self.taps[0] > 4 * g.up[1] else 2

    def vectors(self, width: int, out_width: int, itemsize: int) -> tuple[int, int, int, int, int] | None:
        """(pad_x, COLUMN_GROUPS, FIRST_PIXEL, LOAD_VECTOR, STORE_VECTOR) of upfirdn2d_rows_kernel.

        None where rows of these widths can't be read and written in vectors.
        """
        up, down = self.geometry.up[0], self.geometry.down[0]
        if width % _ROW_ALIGNMENT or out_width % _ROW_ALIGNMENT or max(up, down) > _MAX_UNROLLED_FACTOR:
            return None
        # Where a filter is compute-bound, 8 pixels to a lane would only spill registers.
        max_vector = 4 if self.is_compute_bound and max(up, down) == 1 else 16
        store_vector = min(16 // itemsize, max_vector)
        column_groups = store_vector // up
        load_vector = min(column_groups * down, store_vector)
        pad = self.geometry.padding[0] // up
        pad_vectors = cdiv(pad, load_vector)
        return pad_vectors, column_groups, pad_vectors * load_vector - pad, load_vector, store_vector


def passes_of(f: torch.Tensor | None, geometry: Geometry, in_vectors: bool = False) -> list[Pass]:
    """Returns the launches that a call takes: two for an axis of taps, unless both at once are short enough to unroll.

    Whether [height, width] is an outer product isn't asked: its values are on the GPU.

    Args:
        f: None, [taps] or [height, width].
        geometry: That of the call.
        in_vectors: Whether rows can be read in vectors, which leaves registers for longer filters in one pass.
    """
    single = Pass(geometry, f, filter_taps(f))
    if f is None or f.ndim == 2:
        return [single]
    if single.is_unrolled and (in_vectors or f.shape[0] <= _MAX_UNROLLED_OUTER_TAPS_WITHOUT_VECTORS):
        return [single]
    return along_each_axis(single)


def channels_last_tiling(planes: int, lines: int, columns: int, channels: int, itemsize: int) -> tuple[int, int, int]:
    """Returns (programs, A, B) for channels_last: 16-byte accesses along channels, unless these are fewer than 16.

    Only two tiles come out, as each is a compilation.
    """
    elements, b = (4, 4) if channels < 16 else (16 // itemsize, 128 // itemsize)
    a = THREADS * elements // b
    return planes * lines * cdiv(columns, a) * cdiv(channels, b), a, b


def _contiguous_tiling(planes: int, lines: int, columns: int, lanes: int, b: int) -> tuple[int, int, int, int]:
    """Returns (programs, lines_log2, A, B) for contiguous images: a tile's lines are of one plane or of several."""
    a = lanes // b
    tile_lines = power_of_2(lines, 1, a)
    programs = cdiv(planes, a // tile_lines) * cdiv(lines, tile_lines) * cdiv(columns, b)
    return programs, tile_lines.bit_length() - 1, a, b


def _sizes_and_tiling(
    x: torch.Tensor, y: torch.Tensor, lines: int, columns: int, channels_last: bool
) -> tuple[tuple, tuple]:
    """Returns what kernels take of sizes, and (programs, lines_log2, A, B), for `lines` and `columns` of lanes."""
    n, c, height, width = x.shape
    out_height, out_width = y.shape[2:]
    if channels_last:
        itemsize = min(x.element_size(), y.element_size())
        programs, *tile = channels_last_tiling(n, lines, columns, c, itemsize)
        return (n, c, height, width, out_height, out_width), (programs, 0, *tile)
    tiling = _contiguous_tiling(n * c, lines, columns, 4 * THREADS, 32)
    return (n * c, 1, height, width, out_height, out_width), tiling


def _launch(x: torch.Tensor, y: torch.Tensor, fir_pass: Pass, channels_last: bool) -> None:
    """Runs one pass over dense images of one layout."""
    if not fir_pass.is_unrolled:
        return _launch_looped(x, y, fir_pass, channels_last)
    n, c, height, width = x.shape
    out_height, out_width = y.shape[2:]
    g = fir_pass.geometry
    f, *f_layout = fir_pass.filter_args
    vectors = None
    if not channels_last and x.data_ptr() % 16 == 0:
        vectors = fir_pass.vectors(width, out_width, y.element_size())
    lines = cdiv(out_height, g.up[1] * fir_pass.row_groups(vectors is not None))
    with on_device_of(x):
        if vectors is not None:
            pad_x, *vector_args = vectors
            columns = out_width // vector_args[-1]
            programs, lines_log2, *tile = _contiguous_tiling(n * c, lines, columns, THREADS, 16 if columns >= 16 else 4)
            upfirdn2d_rows_kernel[(programs,)](
                x, f, y, n * c, height, width, out_height, out_width, lines_log2, pad_x, g.padding[2] // g.up[1],
                *f_layout, g.gain, *fir_pass.unrolled_args(True), *vector_args, *tile, **launch_options(x, THREADS),
            )  # fmt: skip
        else:
            columns = cdiv(out_width, g.up[0])
            sizes, (programs, lines_log2, *tile) = _sizes_and_tiling(x, y, lines, columns, channels_last)
            upfirdn2d_kernel[(programs,)](
                x, f, y, *sizes, lines_log2, g.padding[0] // g.up[0], g.padding[2] // g.up[1], *f_layout, g.gain,
                *fir_pass.unrolled_args(), channels_last, *tile,
                **launch_options(x, THREADS, max_registers=_MAX_REGISTERS),
            )  # fmt: skip


def _launch_looped(x: torch.Tensor, y: torch.Tensor, fir_pass: Pass, channels_last: bool) -> None:
    g = fir_pass.geometry
    f, *f_layout = fir_pass.filter_args
    if f is None:
        f = torch.ones((1, 1), dtype=torch.float32, device=x.device)
    x0, _, y0, _ = g.padding
    pad_x, pad_y = -(-x0 // g.up[0]), -(-y0 // g.up[1])
    sizes, (programs, lines_log2, *tile) = _sizes_and_tiling(x, y, y.shape[2], y.shape[3], channels_last)
    with on_device_of(x):
        upfirdn2d_looped_kernel[(programs,)](
            x, f, y, *sizes, lines_log2, *g.up, *g.down, pad_x, pad_y, pad_x * g.up[0] - x0, pad_y * g.up[1] - y0,
            fir_pass.taps[1], fir_pass.taps[0], *f_layout, g.gain, channels_last, *tile, **launch_options(x, THREADS),
        )  # fmt: skip


def run_passes(x: torch.Tensor, passes: list[Pass], dtype: torch.dtype) -> torch.Tensor:
    """Runs passes over images of any layout, which is kept; returns the output of the last one, in `dtype`."""
    memory_format = image_format(x)
    x, layout = dense_image(x)
    for i, fir_pass in enumerate(passes, start=1):
        size = fir_pass.geometry.output_size(x.shape[2], x.shape[3], fir_pass.taps)
        y = torch.empty(
            (*x.shape[:2], *size), dtype=dtype if i == len(passes) else torch.float32, device=x.device,
            memory_format=memory_format,
        )  # fmt: skip
        if y.numel():
            _launch(x, y, fir_pass, layout == NHWC)
        x = y
    return x


def upfirdn2d(x, f, up, down, padding, flip_filter, gain):
    geometry = geometry_of(up, down, padding, flip_filter, gain)
    single = Pass(geometry, f, filter_taps(f))
    out_width = geometry.output_size(x.shape[2], x.shape[3], single.taps)[1]
    is_aligned = x.is_contiguous() and x.data_ptr() % 16 == 0
    in_vectors = is_aligned and single.vectors(x.shape[3], out_width, x.element_size()) is not None
    return run_passes(x, passes_of(f, geometry, in_vectors), x.dtype)
