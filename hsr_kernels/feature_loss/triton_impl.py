# SPDX-License-Identifier: Apache-2.0
"""Launches of the HSR loss's kernels: each covers all scales, in tiles whose sizes follow from the shapes by rule.

Forward: hidden layers, projections, sums. Backward: hidden layers again, with the mask of the ReLU; dw2; the gradient
of the pooled layers; dx; dw1 and db1; sums. The forward's own kernel decides again where the ReLU passes, so the
derivative belongs to the value, and no more is kept in between than the errors at the targets' resolution.
Recomputing costs one more GEMM of the first layer; a mask kept instead of it would save that, but the pooled layers,
which a kernel makes with the mask at almost no cost, would have to be kept too, and they are the larger part.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
import triton.language as tl

from .. import _gpu
from .._precision import convolutions_use_tf32
from .._triton import cdiv, fits_int32, launch_options, on_device_of, power_of_2
from .ops import empty_gradient
from .triton_hidden import feature_hidden_kernel
from .triton_hidden_bwd import feature_hidden_bwd_data_kernel, feature_hidden_bwd_weight_kernel
from .triton_projection import (
    feature_projection_bwd_data_kernel,
    feature_projection_bwd_weight_kernel,
    feature_projection_kernel,
    feature_sum_kernel,
)

# Tilings by how tl.dot multiplies, as large as registers allow, which were counted ahead of time for each kind of chip.
# BK, BC, BP, ROWS and COLUMNS of feature_hidden_kernel, whose product is ROWS * BP pixels wide: 64 at a time would read
# shared memory faster than Hopper can. "small" is for unaligned shapes, and for chips other than sm_90
# and sm_100: their tensor cores take operands from registers, which leaves fewer registers to everything else.
_HIDDEN_TILINGS = {
    "half": (128, 64, 64, 2, 16),
    "tf32": (64, 32, 64, 2, 32),
    "ieee": (64, 16, 32, 1, 16),
    "small": (64, 32, 64, 1, 32),
}
# BM, BN and BC of the second layer's kernels.
_PRODUCT_TILINGS = {"half": (128, 128, 64), "tf32": (128, 128, 32), "ieee": (64, 64, 32)}
# BK, BC and BP of the kernels of the hidden layer's gradient.
_BWD_DATA_TILINGS = {"half": (32, 256, 64), "tf32": (32, 64, 64), "ieee": (32, 64, 64)}
_BWD_WEIGHT_TILINGS = {"half": (64, 128, 32), "tf32": (64, 128, 32), "ieee": (32, 64, 32)}
# BP and BN of feature_sum_kernel.
_SUM_TILING = (16, 256)
# Windows that the backward spreads over a tile at a time.
_MAX_CHUNK_WINDOWS = {"half": 64, "tf32": 64, "ieee": 32}
# Where a kernel isn't all tensor cores, ptxas would rather spill than give a thread more than 128 registers.
_MAX_REGISTERS = 255
_THREADS = 256
_SUM_THREADS = 128


class _RowTiling(NamedTuple):
    """How feature_hidden_kernel divides the rows of images.

    Attributes:
        programs: Programs that share a row of windows.
        width: Pixels of a row in a tile.
        samples: Images in a tile.
        windows_exceed_tiles: Whether some windows are wider than a tile.
    """

    programs: int
    width: int
    samples: int
    windows_exceed_tiles: bool


@lru_cache(maxsize=256)
def _row_tiling(w: int, tw: int, tile_pixels: int) -> _RowTiling:
    """Returns the tiling of rows of `w` pixels, pooled to `tw` windows, that has the fewest programs."""
    for windows in range(tw, 0, -1):
        first_windows = range(0, tw, windows)
        spans = [cdiv(min(first + windows, tw) * w, tw) - first * w // tw // 8 * 8 for first in first_windows]
        if max(spans) <= tile_pixels or windows == 1:
            width = min(cdiv(max(spans), 8) * 8, tile_pixels)
            return _RowTiling(len(first_windows), width, tile_pixels // width, max(spans) > width)
    raise AssertionError("a row has at least one window")


@lru_cache(maxsize=256)
def _window_chunks(h: int, w: int, th: int, tw: int, tile_pixels: int, max_windows: int) -> tuple[int, int]:
    """Returns (windows that are spread over a tile at a time, how many times); (0, 0) where windows are pixels."""
    if (th, tw) == (h, w):
        return 0, 0
    # A tile touches whole rows of windows.
    touched = 0
    for pixel in range(0, h * w, tile_pixels):
        first, last = pixel // w, min(pixel + tile_pixels, h * w) - 1
        touched = max(touched, (cdiv((last // w + 1) * th, h) - first * th // h) * tw)
    chunk = power_of_2(touched, 16, max_windows)
    return chunk, cdiv(touched, chunk)


def _memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


@dataclass(frozen=True)
class _Scales:
    """The scales of one call.

    Attributes:
        x, w1, b1, w2, b2: Of each scale, dense and of one dtype.
        sides: Of each scale's target.
        gain: Factor on the hidden layer.
        channels_last: The layout of all x.
    """

    x: tuple[torch.Tensor, ...]
    w1: tuple[torch.Tensor, ...]
    b1: tuple[torch.Tensor, ...]
    w2: tuple[torch.Tensor, ...]
    b2: tuple[torch.Tensor, ...]
    sides: tuple[int, ...]
    gain: float
    channels_last: bool

    @classmethod
    def of(cls, x, w1, b1, w2, b2, sides, gain) -> "_Scales":
        channels_last = all(t.is_contiguous(memory_format=torch.channels_last) for t in x)
        channels_last = channels_last and not all(t.is_contiguous() for t in x)
        x = tuple(t.contiguous(memory_format=_memory_format(channels_last)) for t in x)
        w1, b1, w2, b2 = (tuple(t.contiguous() for t in tensors) for tensors in (w1, b1, w2, b2))
        return cls(x, w1, b1, w2, b2, tuple(sides), gain, channels_last)

    @property
    def n(self) -> int:
        return self.x[0].shape[0]

    @property
    def c(self) -> tuple[int, ...]:
        return tuple(t.shape[1] for t in self.x)

    @property
    def hw(self) -> list[tuple[int, int]]:
        return [(t.shape[2], t.shape[3]) for t in self.x]

    @property
    def k(self) -> tuple[int, ...]:
        return tuple(t.shape[0] for t in self.w1)

    @property
    def d(self) -> tuple[int, ...]:
        return tuple(t.shape[0] for t in self.w2)

    @property
    def q(self) -> tuple[int, ...]:
        return tuple(side * side for side in self.sides)

    @property
    def hidden_sizes(self) -> tuple[tuple[int, ...], ...]:
        """c, k, h, w, th, tw as the kernels of the hidden layer take them."""
        h, w = zip(*self.hw, strict=True)
        return self.c, self.k, h, w, self.sides, self.sides

    @property
    def product_sizes(self) -> tuple:
        """k, d, q, n as the kernels of the second layer take them."""
        return self.k, self.d, self.q, self.n

    @cached_property
    def kind(self) -> str:
        """How tl.dot multiplies: "half", "tf32" or "ieee", as the reference's convolutions do."""
        if self.x[0].dtype != torch.float32:
            return "half"
        return "tf32" if convolutions_use_tf32() else "ieee"

    @property
    def precision(self) -> str:
        return "tf32" if self.kind == "tf32" else "ieee"

    @property
    def gpu(self) -> _gpu.Gpu:
        return _gpu.of(self.x[0])

    def options(self, stages: int, max_registers: int | None = None) -> dict[str, Any]:
        """Options of the launches with products."""
        return launch_options(self.x[0], _THREADS, stages, max_registers)

    @property
    def hidden_alignment(self) -> int:
        """A divisor of rows of pixels and of channels, in elements, for vectorized loads."""
        return math.gcd(8, *self.c, *(w for _, w in self.hw))

    @property
    def product_alignment(self) -> int:
        """A divisor of the rows of the second layer's matrices."""
        return math.gcd(8, *self.k, *(self.n * q for q in self.q))

    def offset_dtype(self, samples: int = 1) -> tl.dtype:
        """Of offsets within matrices and within so many samples; a sample's own offset always has 64 bits."""
        images = (samples * c * h * w for c, (h, w) in zip(self.c, self.hw, strict=True))
        pooled = (k * self.n * q for k, q in zip(self.k, self.q, strict=True))
        errors = (d * self.n * q for d, q in zip(self.d, self.q, strict=True))
        masks = (cdiv(k, 32) * h * w for k, (h, w) in zip(self.k, self.hw, strict=True))
        weights = (t.numel() for t in (*self.w1, *self.w2))
        return tl.int32 if fits_int32(max(*images, *pooled, *errors, *masks, *weights)) else tl.int64

    def window_chunks(self, tile_pixels: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """BQ and CHUNKS of each scale, for tiles of so many pixels."""
        sizes, max_windows = zip(self.hw, self.sides, strict=True), _MAX_CHUNK_WINDOWS[self.kind]
        pairs = [_window_chunks(h, w, side, side, tile_pixels, max_windows) for (h, w), side in sizes]
        return tuple(chunk for chunk, _ in pairs), tuple(count for _, count in pairs)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return self.x[0].new_empty(shape, dtype=dtype)


def _starts(programs: list[int]) -> tuple[int, ...]:
    """The first program of each scale, and the number of all programs."""
    return tuple(sum(programs[:i]) for i in range(len(programs) + 1))


def feature_loss(x, target, w1, b1, w2, b2, gain):
    s = _Scales.of(x, w1, b1, w2, b2, [t.shape[2] for t in target], gain)
    loss = s.empty(len(x), dtype=torch.float32)
    errors = [s.empty(d, s.n * q) for d, q in zip(s.d, s.q, strict=True)]
    error_sums = [s.empty(d, dtype=torch.float32) for d in s.d]
    (bm, bn, bc), options = _product(s)
    columns = [cdiv(s.n * q, bn) for q in s.q]
    programs = [cdiv(d, bm) * count for d, count in zip(s.d, columns, strict=True)]
    square_parts = [s.empty(count, 1, dtype=torch.float32) for count in programs]
    error_parts = [s.empty(count, d, dtype=torch.float32) for count, d in zip(columns, s.d, strict=True)]
    starts = _starts(programs)
    with on_device_of(x[0]):
        pooled, _ = _hidden(s, needs_mask=False)
        feature_projection_kernel[(starts[-1],)](
            s.w2, tuple(pooled), s.b2, tuple(t.contiguous() for t in target), tuple(errors), tuple(square_parts),
            tuple(error_parts), starts[:-1], *s.product_sizes, bm, bn, bc, s.product_alignment, s.precision,
            s.offset_dtype(), **options,
        )  # fmt: skip
        # The mean over nothing is not a number.
        mean_factors = [1 / e.numel() if e.numel() else math.nan for e in errors]
        factors = [*mean_factors, *([1.0] * len(error_sums))]
        _sum_parts([*square_parts, *error_parts], [*loss.unbind(), *error_sums], None, factors)
    return loss, [t for pair in zip(errors, error_sums, strict=True) for t in pair]


def _product(s: _Scales) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """The tiling of the second layer's products, and the options of their launches."""
    bm, bn, bc = _PRODUCT_TILINGS[s.kind]
    bc = min(bc, 32) if s.gpu.needs_small_product_tiles else bc
    stages = 2 if s.kind == "ieee" else 3
    # Scalar loads have an address for every element, which occupies registers.
    if s.product_alignment < 8:
        return (64, bn, bc), s.options(stages, None if s.kind == "ieee" else _MAX_REGISTERS)
    return (bm, bn, bc), s.options(stages)


def _hidden(s: _Scales, *, needs_mask: bool) -> tuple[list[torch.Tensor], list[torch.Tensor] | None]:
    """Returns the pooled hidden layers [K, N * Q] and, if needed, the masks of their ReLUs."""
    small = s.kind != "ieee" and not (s.gpu.has_asynchronous_products and s.hidden_alignment == 8)
    bk, bc, bp, rows, columns = _HIDDEN_TILINGS["small" if small else s.kind]
    # Scalar loads have an address for every element, which occupies registers.
    if s.hidden_alignment < 8 and s.kind != "half":
        bk = 32
    pooled = [s.empty(k, s.n * q) for k, q in zip(s.k, s.q, strict=True)]
    relu_mask = None
    if needs_mask:
        relu_mask = [s.empty(s.n, cdiv(k, 32), h * w, dtype=torch.int32) for k, (h, w) in zip(s.k, s.hw, strict=True)]
    tilings = [_row_tiling(w, side, bp) for (_, w), side in zip(s.hw, s.sides, strict=True)]
    across, widths, samples, windows_exceed_tiles = zip(*tilings, strict=True)
    programs = [cdiv(k, bk) * a * cdiv(s.n, m) for k, a, m in zip(s.k, across, samples, strict=True)]
    # If programs are too few, the walk down the images is split; neighbours both compute the row that they share.
    split = cdiv(2 * s.gpu.processors, max(sum(programs), 1))
    windows_down = [cdiv(th, min(split, cdiv(th, 2))) for th in s.sides]
    down = tuple(cdiv(th, windows) for th, windows in zip(s.sides, windows_down, strict=True))
    starts = _starts([p * count for p, count in zip(down, programs, strict=True)])
    feature_hidden_kernel[(starts[-1],)](
        s.x, s.w1, s.b1, tuple(pooled), relu_mask and tuple(relu_mask), starts[:-1], *s.hidden_sizes, across, widths,
        samples, down, s.n, s.gain, bk, bc, bp, rows, columns, any(windows_exceed_tiles), s.channels_last,
        s.hidden_alignment, s.precision, s.offset_dtype(max(samples)),
        **s.options(3, _MAX_REGISTERS if s.kind == "ieee" else None),
    )  # fmt: skip
    return pooled, relu_mask


def _sum_parts(parts, sums, dloss, factors) -> None:
    """Launches feature_sum_kernel: the sums over the rows of matrices [count, size], times factors and dloss."""
    bp, bn = _SUM_TILING
    starts = _starts([cdiv(t.shape[1], bn) for t in parts])
    feature_sum_kernel[(starts[-1],)](
        tuple(parts), tuple(sums), dloss and tuple(dloss), tuple(factors), starts[:-1],
        tuple(t.shape[0] for t in parts), tuple(t.shape[1] for t in parts), bp, bn,
        **launch_options(parts[0], _SUM_THREADS, 2),
    )  # fmt: skip


def feature_loss_bwd(dloss, loss, kept, x, w1, b1, w2, b2, sides, gain, needs):
    s = _Scales.of(x, w1, b1, w2, b2, sides, gain)
    # What one scale needs is computed for all: they share their launches.
    needs_dx, needs_dw1, needs_db1, needs_dw2, needs_db2 = (any(needs[i::5]) for i in range(5))
    needs_mask = needs_dx or needs_dw1 or needs_db1
    dx = [t.new_empty(0) for t in x]
    dw1, db1, dw2, db2 = (
        tuple(s.empty(*(t.shape if need else (0,)), dtype=torch.float32) for t in tensors)
        for tensors, need in ((w1, needs_dw1), (b1, needs_db1), (w2, needs_dw2), (b2, needs_db2))
    )
    errors, dloss = tuple(kept[::2]), dloss.contiguous()
    mean_factors = tuple(2 / max(e.numel(), 1) for e in errors)
    parts_and_sums = [(part[None], total) for part, total in zip(kept[1::2], db2, strict=True)] if needs_db2 else []
    with on_device_of(x[0]):
        if needs_mask or needs_dw2:
            pooled, relu_mask = _hidden(s, needs_mask=needs_mask)
            if needs_dw2:
                _bwd_projection_weight(s, errors, tuple(pooled), dloss, mean_factors, dw2)
            # Its memory can now be reused for its gradient.
            del pooled
            if relu_mask:
                dpooled = _bwd_projection_data(s, errors, loss)
                if needs_dx:
                    dx = _bwd_data(s, dpooled, tuple(relu_mask), loss, dloss, mean_factors, x)
                if needs_dw1 or needs_db1:
                    dw_parts, db_parts = _bwd_weight(s, dpooled, tuple(relu_mask), loss, dw1, db1)
                    parts_and_sums += [*zip(dw_parts, dw1, strict=True)] if needs_dw1 else []
                    parts_and_sums += [*zip(db_parts, db1, strict=True)] if needs_db1 else []
        if parts_and_sums:
            parts, sums = zip(*parts_and_sums, strict=True)
            tensors_per_scale = len(sums) // len(x)
            _sum_parts(parts, sums, dloss.unbind() * tensors_per_scale, mean_factors * tensors_per_scale)
    grads = [g for scale in zip(dx, dw1, db1, dw2, db2, strict=True) for g in scale]
    return [g if need else g.new_empty(0) for g, need in zip(grads, needs, strict=True)]


def _bwd_projection_weight(s: _Scales, errors, pooled, dloss, mean_factors, dw2) -> None:
    (bm, bn, bc), options = _product(s)
    starts = _starts([cdiv(d, bm) * cdiv(k, bn) for d, k in zip(s.d, s.k, strict=True)])
    feature_projection_bwd_weight_kernel[(starts[-1],)](
        errors, pooled, dw2, dloss, mean_factors, starts[:-1], *s.product_sizes, bm, bn, bc, s.product_alignment,
        s.precision, s.offset_dtype(), **options,
    )  # fmt: skip


def _bwd_projection_data(s: _Scales, errors, loss) -> tuple[torch.Tensor, ...]:
    (bm, bn, bc), options = _product(s)
    dpooled = tuple(s.empty(k, s.n * q) for k, q in zip(s.k, s.q, strict=True))
    starts = _starts([cdiv(k, bm) * cdiv(s.n * q, bn) for k, q in zip(s.k, s.q, strict=True)])
    feature_projection_bwd_data_kernel[(starts[-1],)](
        s.w2, errors, dpooled, loss, starts[:-1], *s.product_sizes, bm, bn, bc, s.product_alignment, s.precision,
        s.offset_dtype(), **options,
    )  # fmt: skip
    return dpooled


def _bwd_data(s: _Scales, dpooled, relu_mask, loss, dloss, mean_factors, x) -> list[torch.Tensor]:
    """Returns dx of each scale, laid out as its features `x` are."""
    dx = [empty_gradient(t) for t in x]
    # A launch writes one layout; where the features have several, some of their gradients are copied.
    layout = _memory_format(s.channels_last)
    outputs = [g if g.is_contiguous(memory_format=layout) else torch.empty_like(g, memory_format=layout) for g in dx]
    bk, bc, bp = _BWD_DATA_TILINGS[s.kind]
    if s.kind == "half" and s.gpu.needs_small_product_tiles:
        bc, bp = 128, 32
    bc = power_of_2(max(s.c), 16, bc)
    starts = _starts([cdiv(c, bc) * cdiv(h * w, bp) * s.n for c, (h, w) in zip(s.c, s.hw, strict=True)])
    feature_hidden_bwd_data_kernel[(starts[-1],)](
        dpooled, relu_mask, s.w1, tuple(outputs), loss, dloss, mean_factors, starts, *s.hidden_sizes, s.n, s.gain,
        bk, bc, bp, *s.window_chunks(bp), s.channels_last, s.hidden_alignment, s.precision, s.offset_dtype(),
        **s.options(3, _MAX_REGISTERS),
    )  # fmt: skip
    for grad, output in zip(dx, outputs, strict=True):
        if grad is not output:
            grad.copy_(output)
    return dx


def _bwd_weight(s: _Scales, dpooled, relu_mask, loss, dw1, db1) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Returns parts of dw1 and db1, still to be added up and multiplied by the loss's factors.

    Where there is one part, it lies in dw1 or db1 itself.
    """
    bk, bc, bp = _BWD_WEIGHT_TILINGS[s.kind]
    # Larger tiles would spill registers there.
    if s.kind == "tf32" and s.gpu.generation == 10:
        bc = 64
    elif s.kind == "half" and s.gpu.needs_small_product_tiles:
        bk, bc = 32, 64
    bc = power_of_2(max(s.c), 16, bc)
    blocks = [cdiv(k, bk) * cdiv(c, bc) for k, c in zip(s.k, s.c, strict=True)]
    tiles = [cdiv(h * w, bp) * s.n for h, w in s.hw]
    # About two programs a processor, of the same length: the parts are added up afterwards, always in the same order.
    total_tiles = sum(b * t for b, t in zip(blocks, tiles, strict=True))
    tiles_per_part = max(cdiv(total_tiles, 2 * s.gpu.processors), 1)
    parts = [cdiv(t, tiles_per_part) for t in tiles]
    dw_parts = [_empty_parts(p, k * c, dw) for p, k, c, dw in zip(parts, s.k, s.c, dw1, strict=True)]
    db_parts = [_empty_parts(p, k, db) for p, k, db in zip(parts, s.k, db1, strict=True)]
    starts = _starts([p * b for p, b in zip(parts, blocks, strict=True)])
    # On sm_100 a limit makes ptxas spill registers that it otherwise doesn't.
    max_registers = None if s.gpu.generation == 10 else _MAX_REGISTERS
    feature_hidden_bwd_weight_kernel[(starts[-1],)](
        dpooled, relu_mask, s.x, tuple(dw_parts), tuple(db_parts), loss, starts, *s.hidden_sizes, tiles_per_part, s.n,
        s.gain, bk, bc, bp, *s.window_chunks(bp), s.channels_last, s.hidden_alignment, s.precision, s.offset_dtype(),
        **s.options(2, max_registers),
    )  # fmt: skip
    return dw_parts, db_parts


def _empty_parts(count: int, size: int, total: torch.Tensor) -> torch.Tensor:
    """Returns an uninitialized tensor [count, size], in the memory of `total` where that's enough."""
    return total.view(1, size) if count == 1 and total.numel() == size else total.new_empty((count, size))
