# SPDX-License-Identifier: Apache-2.0
"""Launches of the kernels in triton_kernels.py: which one suits a shape, and in tiles of what size."""

from functools import lru_cache

import torch
import triton.language as tl

from .._registry import dense_image
from .._triton import cdiv, on_device_of, power_of_2
from .triton_kernels import (
    feature_hidden_bwd_data_kernel,
    feature_hidden_bwd_weight_kernel,
    feature_hidden_kernel,
    feature_hidden_rows_kernel,
)

_TILE = 128  # pixels of a tile, at most
_ROW = 64  # pixels of a tile that is a row of an image, at most; with more, registers spill
_SIDE = 16  # windows that a row is pooled to at a time, at most
_CHUNK = 64  # windows that the backward spreads over a tile at a time, at most


def _multiprocessors(x: torch.Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1


def _kind(x: torch.Tensor) -> str:
    """How tl.dot multiplies elements of x: "half", "tf32" or "ieee"."""
    if x.dtype != torch.float32:
        return "half"
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"


def _precision(kind: str) -> str:
    return "tf32" if kind == "tf32" else "ieee"


def _word_bits(pixels: int) -> int:
    """The longest words that lines of so many mask bits consist of."""
    return next((bits for bits in (32, 16) if pixels % bits == 0), 8)


def _words(mask: torch.Tensor, bits: int) -> torch.Tensor:
    return mask.view({32: torch.int32, 16: torch.int16, 8: torch.uint8}[bits])


def _index(*tensors: torch.Tensor) -> tl.dtype:
    """Of offsets within a sample; a sample's own offset is always 64 bits wide."""
    return tl.int32 if all(t[0].numel() < 2**31 for t in tensors) else tl.int64


def _widest(size: int, out: int) -> int:
    """Length of the longest window."""
    return max(cdiv((o + 1) * size, out) - o * size // out for o in range(out))


@lru_cache(maxsize=256)
def _sides(w: int, tw: int, bits: int) -> tuple[int, int, int] | None:
    """In how many sides rows fall so that each fits a tile: (sides, windows of a side, pixels); None: it never does."""
    for sides in range(cdiv(tw, _SIDE), tw + 1):
        columns = cdiv(tw, sides)
        starts = range(0, tw, columns)
        width = max(cdiv(min(j + columns, tw) * w, tw) - j * w // tw // bits * bits for j in starts)
        if width <= _ROW:
            return len(starts), columns, width
    return None


@lru_cache(maxsize=256)
def _touched(h: int, w: int, th: int, tw: int, tile: int) -> int:
    """How many windows, in whole rows of windows, a tile of the flattened image touches at most."""
    most = 0
    for pixel in range(0, h * w, tile):
        first, last = pixel // w, min(pixel + tile, h * w) - 1
        most = max(most, cdiv((last // w + 1) * th, h) - first * th // h)
    return most * tw


def feature_hidden(x, w1, b1, th, tw, gain):
    n, _, h, w = x.shape
    k = w1.shape[0]
    x, w1, b1 = dense_image(x)[0], w1.contiguous(), b1.contiguous()
    pooled = x.new_empty((n, k, th * tw), dtype=torch.float32)
    mask = x.new_empty((n, k, (h * w + 7) // 8), dtype=torch.uint8)
    if pooled.numel() and x.numel():
        with on_device_of(x):
            if not _hidden_by_rows(x, w1, b1, pooled, mask, th, tw, gain):
                _hidden_by_windows(x, w1, b1, pooled, mask, th, tw, gain)
    return pooled, mask


def _hidden_by_rows(x, w1, b1, pooled, mask, th, tw, gain) -> bool:
    """Launches feature_hidden_rows_kernel; False where the shape doesn't suit it."""
    (n, c, h, w), k = x.shape, w1.shape[0]
    bits = _word_bits(w)
    if (th, tw) == (h, w) or th > h or tw > w or w % 8 or (sides := _sides(w, tw, bits)) is None:
        return False
    count, columns, width = sides
    kind = _kind(x)
    width = power_of_2(width, 16, _ROW)
    samples = power_of_2(n, 1, _ROW // width)
    bk, bc = 64, (64 if kind == "half" else 32)
    if samples * max(pooled[0].numel(), x[0].numel(), mask[0].numel()) >= 2**31:
        return False  # its offsets are 32 bits wide
    blocks, groups = cdiv(k, bk), cdiv(n, samples)
    # Few programs: split the walk down the image; neighbouring parts compute the row that they share twice.
    parts = max(min(_multiprocessors(x) // (blocks * groups * count), th // 2), 1)
    part_rows = cdiv(th, parts)
    parts = cdiv(th, part_rows)
    feature_hidden_rows_kernel[(blocks * count * parts * groups,)](
        x, w1, b1, pooled, _words(mask, bits), n, c, k, h, w, th, tw, *_strides(x), blocks, parts, part_rows,
        count, columns, gain, bk, bc, samples, width, power_of_2(columns, 16, _SIDE), bits, _precision(kind),
        num_warps=8, num_stages=3,
    )  # fmt: skip
    return True


def _roomy(x: torch.Tensor) -> bool:
    """Whether a program can have over 200 KB of memory on chip."""
    return not x.is_cuda or torch.cuda.get_device_properties(x.device).major in (9, 10)


def _hidden_by_windows(x, w1, b1, pooled, mask, th, tw, gain) -> None:
    """Launches feature_hidden_kernel: once where windows are pixels, else for the mask and for the pooled layer."""
    (n, c, h, w), k = x.shape, w1.shape[0]
    kind = _kind(x)
    bits = _word_bits(h * w)
    bk, bc = (64 if kind == "ieee" else 128), (64 if kind == "half" else 32)
    blocks, mask = cdiv(k, bk), _words(mask, bits)
    same = (th, tw) == (h, w)
    for to, bit_words, *size in [(pooled, mask, h, w)] if same else [(None, mask, h, w), (pooled, None, th, tw)]:
        bp = power_of_2(size[0] * size[1], 32, 64 if kind == "ieee" else _TILE)
        tiles = cdiv(size[0] * size[1], bp)
        feature_hidden_kernel[(blocks * tiles * n,)](
            x, w1, b1, to, bit_words, c, k, h, w, *size, *_strides(x), blocks, tiles, _widest(h, size[0]),
            _widest(w, size[1]), gain, bk, bc, bp, bits, _precision(kind), _index(pooled, x), num_warps=8,
            num_stages=3,
        )  # fmt: skip


def _strides(x: torch.Tensor) -> tuple[int, int, int]:
    """Of samples, channels and pixels."""
    return x.stride(0), x.stride(1), x.stride(3)


def feature_hidden_bwd(dpooled, mask, x, w1, th, tw, gain, needs_dx, needs_dw):
    (_, c, h, w), k = x.shape, w1.shape[0]
    dx = x.new_empty(x.shape if needs_dx else (0,))
    dw = x.new_zeros((k, c) if needs_dw else 0, dtype=torch.float32)
    db = x.new_zeros(k, dtype=torch.float32)
    if not (x.numel() and k):
        return dx.zero_(), dw, db
    x, w1, dpooled = dense_image(x)[0], w1.contiguous(), dpooled.contiguous()
    bits = _word_bits(h * w)
    mask = _words(mask.contiguous(), bits)
    unit = None
    if x.dtype == torch.float16:
        # Gradients of a mean are tiny: a power of 2 brings them where float16 is precise.
        unit = torch.exp2(-dpooled.abs().amax().log2().floor().clamp(-100, 100))
    with on_device_of(x):
        if needs_dx:
            _bwd_data(dpooled, unit, mask, w1, dx, th, tw, gain, bits)
        dw, db = _bwd_weight(dpooled, unit, mask, x, k, th, tw, gain, bits, needs_dw)
    return dx, dw, db


def _spreading(h: int, w: int, th: int, tw: int, tile: int, kind: str) -> tuple[int, int]:
    """Windows that are spread over a tile at a time, and how many times; (0, 0) where windows are pixels."""
    if (th, tw) == (h, w):
        return 0, 0
    touched = _touched(h, w, th, tw, tile)
    chunk = power_of_2(touched, 16, 32 if kind == "ieee" else _CHUNK)
    return chunk, cdiv(touched, chunk)


def _bwd_data(dpooled, unit, mask, w1, dx, th, tw, gain, bits) -> None:
    (n, c, h, w), k = dx.shape, w1.shape[0]
    kind = _kind(w1)
    bk, bc = {"half": (32, 256), "tf32": (32, 128), "ieee": (32, 64)}[kind]
    # Narrow rows: a shorter tile touches fewer windows.
    bp = power_of_2(h * w, 32, _TILE if w >= 64 or (th, tw) == (h, w) else 64 if w >= 32 else 32)
    if kind != "half":
        bp = min(bp, 64)
    elif bp < _TILE and _roomy(w1):
        bk = 64
    tiles, bc = cdiv(h * w, bp), power_of_2(c, 16, bc)
    while bc > 64 and n * tiles * cdiv(c, bc) < _multiprocessors(w1):
        bc //= 2
    blocks = cdiv(c, bc)
    feature_hidden_bwd_data_kernel[(blocks * tiles * n,)](
        dpooled, unit, mask, w1, dx, c, k, h, w, th, tw, blocks, tiles, gain, bk, bc, bp,
        *_spreading(h, w, th, tw, bp, kind), bits, _precision(kind), _index(dpooled, dx), num_warps=8, num_stages=3,
    )  # fmt: skip


def _bwd_weight(dpooled, unit, mask, x, k, th, tw, gain, bits, needs_dw) -> tuple[torch.Tensor, torch.Tensor]:
    n, c, h, w = x.shape
    kind = _kind(x)
    bk, bc, bp = {"half": (128, 128, 32), "tf32": (128, 128, 32), "ieee": (32, 64, 32)}[kind]
    bc = power_of_2(c, 16, bc)
    rows, blocks, tiles = cdiv(k, bk), cdiv(c, bc) if needs_dw else 1, cdiv(h * w, bp)
    # Few programs: split the sum over tiles; the parts are added up afterwards, always in the same order.
    steps = cdiv(tiles * n, max(_multiprocessors(x) // (rows * blocks), 1))
    parts = cdiv(tiles * n, steps)
    dw = x.new_empty((parts, k, c) if needs_dw else 0, dtype=torch.float32)
    db = x.new_empty((parts, k), dtype=torch.float32)
    feature_hidden_bwd_weight_kernel[(rows * blocks * parts,)](
        dpooled, unit, mask, x, dw if needs_dw else None, db, n, c, k, h, w, th, tw, *_strides(x), rows, blocks,
        tiles, steps, gain, bk, bc, bp, *_spreading(h, w, th, tw, bp, kind), bits, _precision(kind),
        _index(dpooled, x), num_warps=8, num_stages=2,
    )  # fmt: skip
    return dw.sum(0) if needs_dw else dw, db.sum(0)
