# SPDX-License-Identifier: Apache-2.0
"""Launches of the HSR loss's kernels: each covers all scales, in tiles whose sizes follow from the shapes by rule.

Forward: hidden layers, projections, sums. Backward: hidden layers again, with the mask of the ReLU; dw2; the gradient
of the pooled layers; dx; dw1 and db1; sums. The forward's own kernel decides again where the ReLU passes, so the
derivative belongs to the value, and no more is kept in between than the differences at the targets' resolution.
Recomputing costs one more GEMM of the first layer; a mask kept instead of it would save that, but the pooled layers,
which a kernel makes with the mask at almost no cost, would have to be kept too, and they are the larger part.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
import triton.language as tl

from .._precision import convolutions_use_tf32
from .._triton import cdiv, fits_int32, on_device_of, power_of_2
from .ops import empty_gradient
from .triton_hidden import feature_hidden_kernel
from .triton_hidden_bwd import feature_hidden_bwd_data_kernel, feature_hidden_bwd_weight_kernel
from .triton_projection import (
    feature_projection_bwd_data_kernel,
    feature_projection_bwd_weight_kernel,
    feature_projection_kernel,
    feature_sum_kernel,
)

# Tiles by how tl.dot multiplies, as large as registers allow, which were counted ahead of time for each kind of chip.
# "small": chips whose tensor cores take operands from registers (all but sm_90 and sm_100), and unaligned shapes.
_HIDDEN = {  # BK, BC, BP, ROWS, COLUMNS
    "half": (128, 64, 64, 2, 16),
    "tf32": (64, 32, 64, 2, 32),
    "ieee": (64, 16, 32, 1, 16),
    "small": (64, 32, 64, 1, 32),
}
_PRODUCT = {"half": (128, 128, 64), "tf32": (128, 128, 32), "ieee": (64, 64, 32)}  # BM, BN, BC
_BWD_DATA = {"half": (32, 256, 64), "tf32": (32, 64, 64), "ieee": (32, 64, 64)}  # BK, BC, BP
_BWD_WEIGHT = {"half": (64, 128, 32), "tf32": (64, 128, 32), "ieee": (32, 64, 32)}  # BK, BC, BP
_MOST = {"maxnreg": 255}  # registers: ptxas would rather spill than pass 128 where a kernel isn't all tensor cores
_CHUNK = {"half": 64, "tf32": 64, "ieee": 32}  # windows that the backward spreads over a tile at a time, at most
_SUM = (16, 256)


@lru_cache(maxsize=256)
def _across(w: int, tw: int, pixels: int) -> tuple[int, int, int, bool]:
    """How rows fall into tiles: (sides, pixels of a row in a tile, images at a time, whether windows exceed tiles)."""
    for across in range(tw, 0, -1):
        firsts = range(0, tw, across)
        spans = [cdiv(min(j + across, tw) * w, tw) - j * w // tw // 8 * 8 for j in firsts]
        if max(spans) <= pixels or across == 1:
            width = min(cdiv(max(spans), 8) * 8, pixels)
            return len(firsts), width, pixels // width, max(spans) > width
    raise AssertionError("a side has at least one window")


@lru_cache(maxsize=256)
def _spreading(h: int, w: int, th: int, tw: int, tile: int, most: int) -> tuple[int, int]:
    """Windows that are spread over a tile at a time, and how many times; (0, 0) where windows are pixels."""
    if (th, tw) == (h, w):
        return 0, 0
    touched = 0  # windows, in whole rows of windows
    for pixel in range(0, h * w, tile):
        first, last = pixel // w, min(pixel + tile, h * w) - 1
        touched = max(touched, (cdiv((last // w + 1) * th, h) - first * th // h) * tw)
    chunk = power_of_2(touched, 16, most)
    return chunk, cdiv(touched, chunk)


def _layout(last: bool) -> torch.memory_format:
    return torch.channels_last if last else torch.contiguous_format


@dataclass(frozen=True)
class _Scales:
    """The scales of one call: x, w1, b1, w2 and b2 of each, contiguous and of one dtype, and their sizes."""

    x: tuple[torch.Tensor, ...]
    w1: tuple[torch.Tensor, ...]
    b1: tuple[torch.Tensor, ...]
    w2: tuple[torch.Tensor, ...]
    b2: tuple[torch.Tensor, ...]
    sides: tuple[int, ...]
    gain: float
    last: bool  # channels are the images' last dimension in memory

    @classmethod
    def of(cls, x, w1, b1, w2, b2, sides, gain) -> "_Scales":
        last = all(t.is_contiguous(memory_format=torch.channels_last) for t in x)
        last = last and not all(t.is_contiguous() for t in x)
        images = tuple(t.contiguous(memory_format=_layout(last)) for t in x)
        w1, b1, w2, b2 = (tuple(t.contiguous() for t in tensors) for tensors in (w1, b1, w2, b2))
        return cls(images, w1, b1, w2, b2, tuple(sides), gain, last)

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
    def processors(self) -> int:
        x = self.x[0]
        return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1

    @property
    def roomy(self) -> bool:
        """Whether tensor cores take their operands from memory on chip, and leave more registers to everything else."""
        return self.generation in (9, 10)

    @property
    def generation(self) -> int:
        """The chip's compute capability before the point, 0 where there is none."""
        x = self.x[0]
        return torch.cuda.get_device_properties(x.device).major if x.is_cuda else 0

    @property
    def hidden_align(self) -> int:
        """What divides rows of pixels and channels, for wide loads."""
        return math.gcd(8, *self.c, *(w for _, w in self.hw))

    @property
    def product_align(self) -> int:
        return math.gcd(8, *self.k, *(self.n * q for q in self.q))

    def index(self, samples: int = 1) -> tl.dtype:
        """Of offsets within matrices and within so many samples; a sample's own offset is always 64 bits wide."""
        images = (samples * c * h * w for c, (h, w) in zip(self.c, self.hw, strict=True))
        pooled = (k * self.n * q for k, q in zip(self.k, self.q, strict=True))
        errors = (d * self.n * q for d, q in zip(self.d, self.q, strict=True))
        masks = (cdiv(k, 32) * h * w for k, (h, w) in zip(self.k, self.hw, strict=True))
        weights = (t.numel() for t in (*self.w1, *self.w2))
        return tl.int32 if fits_int32(max(*images, *pooled, *errors, *masks, *weights)) else tl.int64

    def spreading(self, tile: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """For a tile of so many pixels: windows that the backward spreads at a time, and how many times."""
        sizes = zip(self.hw, self.sides, strict=True)
        pairs = [_spreading(h, w, side, side, tile, _CHUNK[self.kind]) for (h, w), side in sizes]
        return tuple(chunk for chunk, _ in pairs), tuple(times for _, times in pairs)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return self.x[0].new_empty(shape, dtype=dtype)


def _starts(programs: list[int]) -> tuple[int, ...]:
    """The first program of each scale, and their number."""
    return tuple(sum(programs[:i]) for i in range(len(programs) + 1))


def feature_loss(x, target, w1, b1, w2, b2, gain):
    s = _Scales.of(x, w1, b1, w2, b2, [t.shape[2] for t in target], gain)
    loss = s.empty(len(x), dtype=torch.float32)
    errors = [s.empty(d, s.n * q) for d, q in zip(s.d, s.q, strict=True)]
    sums = [s.empty(d, dtype=torch.float32) for d in s.d]
    (bm, bn, bc), options = _product(s)
    columns = [cdiv(s.n * q, bn) for q in s.q]
    programs = [cdiv(d, bm) * count for d, count in zip(s.d, columns, strict=True)]
    squares = [s.empty(count, 1, dtype=torch.float32) for count in programs]
    parts = [s.empty(count, d, dtype=torch.float32) for count, d in zip(columns, s.d, strict=True)]
    starts = _starts(programs)
    with on_device_of(x[0]):
        pooled, _ = _hidden(s, keeps_mask=False)
        feature_projection_kernel[(starts[-1],)](
            s.w2, tuple(pooled), s.b2, tuple(t.contiguous() for t in target), tuple(errors), tuple(squares),
            tuple(parts), starts[:-1], *s.product_sizes, bm, bn, bc, s.product_align, s.precision, s.index(), **options,
        )  # fmt: skip
        share = [1 / e.numel() if e.numel() else math.nan for e in errors]  # the mean over nothing is not a number
        _add_up([*squares, *parts], [*loss.unbind(), *sums], None, [*share, *([1.0] * len(sums))])
    return loss, [t for pair in zip(errors, sums, strict=True) for t in pair]


def _product(s: _Scales) -> tuple[tuple[int, int, int], dict[str, int]]:
    """Tiles of the second layer's products, and options of their launches."""
    bm, bn, bc = _PRODUCT[s.kind]
    options = {"num_warps": 8, "num_stages": 2 if s.kind == "ieee" else 3}
    if s.product_align < 8:  # narrow loads have an address for every element, which occupies registers
        return (64, bn, bc), options | ({} if s.kind == "ieee" else _MOST)
    return (bm, bn, bc), options


def _hidden(s: _Scales, *, keeps_mask: bool) -> tuple[list[torch.Tensor], list[torch.Tensor] | None]:
    """The pooled hidden layers [K, N * Q] and the masks of their ReLUs."""
    small = s.kind != "ieee" and not (s.roomy and s.hidden_align == 8)
    bk, bc, bp, rows, columns = _HIDDEN["small" if small else s.kind]
    if s.hidden_align < 8 and s.kind != "half":  # narrow loads have an address for every element
        bk = 32
    pooled = [s.empty(k, s.n * q) for k, q in zip(s.k, s.q, strict=True)]
    mask = None
    if keeps_mask:
        mask = [s.empty(s.n, cdiv(k, 32), h * w, dtype=torch.int32) for k, (h, w) in zip(s.k, s.hw, strict=True)]
    tiles = [_across(w, side, bp) for (_, w), side in zip(s.hw, s.sides, strict=True)]
    sides, widths, samples, wide = zip(*tiles, strict=True)
    programs = [cdiv(k, bk) * a * cdiv(s.n, m) for k, a, m in zip(s.k, sides, samples, strict=True)]
    # Few programs: split the walk down the images; neighbouring parts compute the row that they share twice.
    split = cdiv(2 * s.processors, max(sum(programs), 1))
    down = [cdiv(th, min(split, cdiv(th, 2))) for th in s.sides]
    parts = tuple(cdiv(th, rows) for th, rows in zip(s.sides, down, strict=True))
    starts = _starts([p * count for p, count in zip(parts, programs, strict=True)])
    feature_hidden_kernel[(starts[-1],)](
        s.x, s.w1, s.b1, tuple(pooled), mask and tuple(mask), starts[:-1], *s.hidden_sizes, sides, widths, samples,
        parts, s.n, s.gain, bk, bc, bp, rows, columns, any(wide), s.last, s.hidden_align, s.precision,
        s.index(max(samples)), num_warps=8, num_stages=3, **(_MOST if s.kind == "ieee" else {}),
    )  # fmt: skip
    return pooled, mask


def _add_up(parts, sums, dloss, share) -> None:
    """Launches feature_sum_kernel: of every matrix [count, size] the sum over its rows, times share and dloss."""
    bp, bn = _SUM
    starts = _starts([cdiv(t.shape[1], bn) for t in parts])
    feature_sum_kernel[(starts[-1],)](
        tuple(parts), tuple(sums), dloss and tuple(dloss), tuple(share), starts[:-1],
        tuple(t.shape[0] for t in parts), tuple(t.shape[1] for t in parts), bp, bn, num_warps=4, num_stages=2,
    )  # fmt: skip


def feature_loss_bwd(dloss, loss, kept, x, w1, b1, w2, b2, sides, gain, needs):
    s = _Scales.of(x, w1, b1, w2, b2, sides, gain)
    # What one scale needs is computed for all: they share their launches.
    wanted = [any(needs[i::5]) for i in range(5)]
    dx = [t.new_empty(0) for t in x]
    dw1, db1, dw2, db2 = (
        tuple(s.empty(*(t.shape if want else (0,)), dtype=torch.float32) for t in tensors)
        for tensors, want in zip((w1, b1, w2, b2), wanted[1:], strict=True)
    )
    errors, dloss = tuple(kept[::2]), dloss.contiguous()
    share = tuple(2 / max(e.numel(), 1) for e in errors)
    totals = [(part[None], total) for part, total in zip(kept[1::2], db2, strict=True)] if wanted[4] else []
    with on_device_of(x[0]):
        if any(wanted[:4]):
            pooled, mask = _hidden(s, keeps_mask=any(wanted[:3]))
            if wanted[3]:
                _bwd_projection_weight(s, errors, tuple(pooled), dloss, share, dw2)
            del pooled  # its memory is that of its gradient, from here on
            if mask:
                dpooled = _bwd_projection_data(s, errors, loss)
                if wanted[0]:
                    dx = _bwd_data(s, dpooled, tuple(mask), loss, dloss, share, x)
                if wanted[1] or wanted[2]:
                    dw, db = _bwd_weight(s, dpooled, tuple(mask), loss, dw1, db1)
                    totals += [*zip(dw, dw1, strict=True)] if wanted[1] else []
                    totals += [*zip(db, db1, strict=True)] if wanted[2] else []
        if totals:
            parts, sums = zip(*totals, strict=True)
            times = len(totals) // len(x)
            _add_up(parts, sums, dloss.unbind() * times, share * times)
    grads = [g for scale in zip(dx, dw1, db1, dw2, db2, strict=True) for g in scale]
    return [g if need else g.new_empty(0) for g, need in zip(grads, needs, strict=True)]


def _bwd_projection_weight(s: _Scales, errors, pooled, dloss, share, dw2) -> None:
    (bm, bn, bc), options = _product(s)
    starts = _starts([cdiv(d, bm) * cdiv(k, bn) for d, k in zip(s.d, s.k, strict=True)])
    feature_projection_bwd_weight_kernel[(starts[-1],)](
        errors, pooled, dw2, dloss, share, starts[:-1], *s.product_sizes, bm, bn, bc, s.product_align, s.precision,
        s.index(), **options,
    )  # fmt: skip


def _bwd_projection_data(s: _Scales, errors, loss) -> tuple[torch.Tensor, ...]:
    (bm, bn, bc), options = _product(s)
    dpooled = tuple(s.empty(k, s.n * q) for k, q in zip(s.k, s.q, strict=True))
    starts = _starts([cdiv(k, bm) * cdiv(s.n * q, bn) for k, q in zip(s.k, s.q, strict=True)])
    feature_projection_bwd_data_kernel[(starts[-1],)](
        s.w2, errors, dpooled, loss, starts[:-1], *s.product_sizes, bm, bn, bc, s.product_align, s.precision,
        s.index(), **options,
    )  # fmt: skip
    return dpooled


def _bwd_data(s: _Scales, dpooled, mask, loss, dloss, share, x) -> list[torch.Tensor]:
    """dx of each scale, laid out as its features `x` are."""
    dx = [empty_gradient(t) for t in x]
    # A launch writes one layout; where features of several are mixed, some of their gradients are copied.
    layout = _layout(s.last)
    written = [g if g.is_contiguous(memory_format=layout) else torch.empty_like(g, memory_format=layout) for g in dx]
    bk, bc, bp = _BWD_DATA[s.kind]
    bc = power_of_2(max(s.c), 16, bc)
    starts = _starts([cdiv(c, bc) * cdiv(h * w, bp) * s.n for c, (h, w) in zip(s.c, s.hw, strict=True)])
    feature_hidden_bwd_data_kernel[(starts[-1],)](
        dpooled, mask, s.w1, tuple(written), loss, dloss, share, starts, *s.hidden_sizes, s.n, s.gain, bk, bc, bp,
        *s.spreading(bp), s.last, s.hidden_align, s.precision, s.index(), num_warps=8, num_stages=3, **_MOST,
    )  # fmt: skip
    for grad, found in zip(dx, written, strict=True):
        if grad is not found:
            grad.copy_(found)
    return dx


def _bwd_weight(s: _Scales, dpooled, mask, loss, dw1, db1) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Sums over parts of the pixels, still to be added up and multiplied by the loss's factors: of dw1 and of db1.

    Where there is one part, it lies in dw1 or db1 itself.
    """
    bk, bc, bp = _BWD_WEIGHT[s.kind]
    if s.kind == "tf32" and s.generation == 10:  # where twice as many spill
        bc = 64
    bc = power_of_2(max(s.c), 16, bc)
    blocks = [cdiv(k, bk) * cdiv(c, bc) for k, c in zip(s.k, s.c, strict=True)]
    tiles = [cdiv(h * w, bp) * s.n for h, w in s.hw]
    # About two programs a processor, of the same length: the parts are added up afterwards, always in the same order.
    work = sum(b * t for b, t in zip(blocks, tiles, strict=True))
    steps = max(cdiv(work, 2 * s.processors), 1)
    parts = [cdiv(t, steps) for t in tiles]
    dw = [_parts(p, k * c, out) for p, k, c, out in zip(parts, s.k, s.c, dw1, strict=True)]
    db = [_parts(p, k, out) for p, k, out in zip(parts, s.k, db1, strict=True)]
    starts = _starts([p * b for p, b in zip(parts, blocks, strict=True)])
    feature_hidden_bwd_weight_kernel[(starts[-1],)](
        dpooled, mask, s.x, tuple(dw), tuple(db), loss, starts, *s.hidden_sizes, steps, s.n, s.gain, bk, bc, bp,
        *s.spreading(bp), s.last, s.hidden_align, s.precision, s.index(), num_warps=8, num_stages=2,
        **({} if s.generation == 10 else _MOST),  # there it makes ptxas spill what otherwise it doesn't
    )  # fmt: skip
    return dw, db


def _parts(count: int, size: int, out: torch.Tensor) -> torch.Tensor:
    """[count, size], in the memory of `out` where that's enough."""
    return out.view(1, size) if count == 1 and out.numel() == size else out.new_empty((count, size))
