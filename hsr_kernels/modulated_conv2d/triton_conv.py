# SPDX-License-Identifier: Apache-2.0
"""The modulated convolution as one kernel: an implicit GEMM, with the style scale in its loads and the epilogue in its
stores, so that neither the scaled input nor the convolution's result is ever in memory.

    layer         y = clamp(act(conv(x * s, w) * d + noise + b) * gain)
    layer_bwd     du = the convolution's transpose of dz; dx = du * s, ds = sum(du * x)
    layer_weight  dw = the convolution of x * s with dz

Images are channels_last. The rows of a tile are pixels of one sample, so that a sample's vectors sit in registers; its
columns are channels. The sum runs over kernel rows outside, blocks of channels inside, and a kernel row's taps
unrolled: loads of one row of taps are in flight together, and no loop runs over taps and channels in one, which Triton
has been seen to miscompile (pytorch issue 173068).

Sums are deterministic: each program keeps its own float32 partial sums, and PyTorch adds those up.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .._triton import cdiv, fits_int32, on_device_of, power_of_2
from .gpu_common import as_float, per_sample, stride_of
from .routes import products
from .triton_common import channel_vector, leaky, noise_tile, numbers

_LAST = torch.channels_last
_PLAIN = ["noise_stride", "pad_y", "pad_x", "blocks", "tiles", "width", "out_width", "height", "out_pixels", "pixels"]
_PIXELS = 32  # that a weight gradient adds up at a time
_SUMS, _PARTS = 0.11, 64  # its partial sums: bytes moved by them, as a share of the images', and how many, at most


class _Tile(NamedTuple):
    """Rows and columns of a program, what it adds up at a time, loads in flight, and registers of a thread, at most.

    Without the last the assembler would rather spill a few registers, to get by with a round number of them, than take
    one more. Large tiles on chips whose products aren't asynchronous spill with it instead.
    """

    rows: int
    columns: int
    depth: int
    stages: int
    registers: int
    everywhere: bool = False  # the limit is for all chips

    def columns_of(self, channels: int, kernel: int) -> int:
        """No more columns than the channels need."""
        return power_of_2(channels, min(16 if kernel == 1 else 32, self.columns), self.columns)

    def options(self, x: torch.Tensor) -> dict[str, int | None]:
        limited = self.everywhere or (x.is_cuda and torch.cuda.get_device_capability(x.device)[0] in (9, 10))
        return {"num_warps": 8, "num_stages": self.stages, "maxnreg": self.registers if limited else None}


# By how tl.dot multiplies: 16-bit, tf32, or float32 on the ordinary units. No side of a tl.dot may be under 16.
_TILES = {
    "half": _Tile(128, 128, 32, 3, 224),
    "tf32": _Tile(128, 64, 16, 3, 224, True),
    "ieee": _Tile(32, 32, 16, 2, 255, True),
}


@triton.jit
def _convolve(
    x, w, s, pixel, out, c, o, height, width, out_width, pad_y, pad_x,
    FLIP: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[pixels, out channels] of the correlation of a sample x (times s) with w [o, KH, KW, c], in float32."""
    row, column = pixel // out_width - pad_y, pixel % out_width - pad_x
    total = tl.zeros([pixel.shape[0], out.shape[0]], tl.float32)
    for ky in range(KH):
        at_row = (row + ky) * width + column
        within_rows = (row + ky >= 0) & (row + ky < height)
        for first in range(0, c, DEPTH):
            channel = first + tl.arange(0, DEPTH)
            known = channel < c
            if s is not None:
                scale = tl.load(s + channel, mask=known, other=0.0)[None, :]
            for kx in tl.static_range(KW):
                inside = within_rows & (column + kx >= 0) & (column + kx < width)
                at = (at_row + kx)[:, None] * c + channel[None, :]
                v = tl.load(x + at, mask=inside[:, None] & known[None, :], other=0.0)
                if s is not None:
                    v = (v.to(tl.float32) * scale).to(v.dtype)
                tap = (KH - 1 - ky) * KW + KW - 1 - kx if FLIP else ky * KW + kx
                at = (tap * c + channel)[:, None] + out[None, :] * (KH * KW * c)
                weights = tl.load(w + at, mask=known[:, None] & (out < o)[None, :], other=0.0)
                total = tl.dot(v, weights, total, input_precision=PRECISION)
    return total


@triton.jit
def _place(blocks, tiles, PIXELS: tl.constexpr, OUT: tl.constexpr, WIDE: tl.constexpr):
    """This program's sample, tile, pixels and output channels; neighbours share the pixels that they read."""
    program = tl.program_id(0)
    out = program % blocks * OUT + tl.arange(0, OUT)
    tile = program // blocks % tiles
    pixel = tile * PIXELS + tl.arange(0, PIXELS)
    if WIDE:
        pixel, out = pixel.to(tl.int64), out.to(tl.int64)
    return (program // blocks // tiles).to(tl.int64), tile, pixel, out


@triton.jit(do_not_specialize=_PLAIN)
def modulated_conv2d_layer_kernel(
    x, w, s, d, noise, b, y, noise_stride, alpha, gain, clamp, c, o, pixels, height, width, out_pixels, out_width,
    pad_y, pad_x, blocks, tiles,
    KH: tl.constexpr, KW: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    PIXELS: tl.constexpr, OUT: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A tile of y [PIXELS, OUT]."""
    sample, _, pixel, out = _place(blocks, tiles, PIXELS, OUT, WIDE)
    scale = None if s is None else s + sample * c
    value = _convolve(
        x + sample * c * pixels, w, scale, pixel, out, c, o, height, width, out_width, pad_y, pad_x,
        False, KH, KW, DEPTH, PRECISION,
    )  # fmt: skip
    value *= channel_vector(d, sample * o + out, out < o, 1.0)[None, :]
    value += noise_tile(noise, sample * noise_stride, pixel, out_pixels)
    value += channel_vector(b, out, out < o, 0.0)[None, :]
    value = leaky(value, alpha) * gain
    value = tl.where(value > clamp, clamp, tl.where(value < -clamp, -clamp, value))  # NaN stays NaN
    to = y + sample * o * out_pixels + (pixel[:, None] * o + out[None, :])
    tl.store(to, value.to(y.dtype.element_ty), mask=(pixel < out_pixels)[:, None] & (out < o)[None, :])


@triton.jit(do_not_specialize=_PLAIN)
def modulated_conv2d_layer_bwd_kernel(
    dz, w, x, s, dx, sums, c, o, pixels, height, width, out_pixels, out_width, pad_y, pad_x, blocks, tiles,
    KH: tl.constexpr, KW: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    PIXELS: tl.constexpr, OUT: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A tile of dx [PIXELS, OUT], OUT being channels of x, and its part of ds; w [c, KH, KW, o], dz channels_last."""
    sample, tile, pixel, channel = _place(blocks, tiles, PIXELS, OUT, WIDE)
    du = _convolve(
        dz + sample * o * pixels, w, None, pixel, channel, o, c, height, width, out_width, pad_y, pad_x,
        True, KH, KW, DEPTH, PRECISION,
    )  # fmt: skip
    at = sample * c * out_pixels + (pixel[:, None] * c + channel[None, :])
    inside = (pixel < out_pixels)[:, None] & (channel < c)[None, :]
    dot = du * tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(sums + (sample * tiles + tile) * c + channel, tl.sum(dot, 0), mask=channel < c)
    scale = tl.load(s + sample * c + channel, mask=channel < c, other=0.0)
    tl.store(dx + at, (du * scale[None, :]).to(dx.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=[*_PLAIN, "n", "samples", "splits", "share"])
def modulated_conv2d_layer_weight_kernel(
    x, s, dz, dw, n, c, o, pixels, height, width, out_pixels, out_width, pad_y, pad_x, blocks, tiles,
    samples, splits, share,
    KH: tl.constexpr, KW: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    PIXELS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """dw [parts, o, KH * KW, c]: a part is `samples` samples, or `share` of the tiles of one; dz is channels_last."""
    program = tl.program_id(0)
    tap = program % (KH * KW)
    out = program // (KH * KW) % blocks * OUT + tl.arange(0, OUT)
    program = program // (KH * KW) // blocks
    across = tl.cdiv(c, IN)
    channel = program % across * IN + tl.arange(0, IN)
    part = program // across
    first, split = part // splits * samples, part % splits
    ky, kx = tap // KW - pad_y, tap % KW - pad_x
    total = tl.zeros([IN, OUT], tl.float32)
    for sample in range(first, tl.minimum(first + samples, n)):
        place = tl.cast(sample, tl.int64)
        image, gradient = x + place * c * pixels, dz + place * o * out_pixels
        dot = tl.zeros([IN, OUT], tl.float32)
        for tile in range(split * share, tl.minimum((split + 1) * share, tiles)):
            pixel = tile * PIXELS + tl.arange(0, PIXELS)
            if WIDE:
                pixel = pixel.to(tl.int64)
            row, column = pixel // out_width + ky, pixel % out_width + kx
            known = pixel < out_pixels
            inside = known & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            at = (row * width + column)[:, None] * c + channel[None, :]
            v = tl.load(image + at, mask=inside[:, None] & (channel < c)[None, :], other=0.0)
            at = pixel[:, None] * o + out[None, :]
            g = tl.load(gradient + at, mask=known[:, None] & (out < o)[None, :], other=0.0)
            dot = tl.dot(tl.trans(v), g, dot, input_precision=PRECISION)
        # The scale belongs to a sample's sum: nothing needs to be scaled on the way into it.
        total += dot * tl.load(s + place * c + channel, mask=channel < c, other=0.0)[:, None]
    at = out[None, :] * (KH * KW * c) + tap * c + channel[:, None]
    tl.store(dw + part.to(tl.int64) * o * KH * KW * c + at, total, mask=(channel < c)[:, None] & (out < o)[None, :])


def _precision(kind: str) -> str:
    return "tf32" if kind == "tf32" else "ieee"


def _wide(*images: torch.Tensor) -> bool:
    """Whether offsets within a sample need 64 bits."""
    return not all(fits_int32(image[0].numel()) for image in images)


def modulated_conv2d_layer(x, w, s, d, noise, b, padding, act, alpha, gain, clamp):
    (n, c, height, width), (o, _, kh, kw) = x.shape, w.shape
    size = height + 2 * padding[0] - kh + 1, width + 2 * padding[1] - kw + 1
    y = torch.empty((n, o, *size), dtype=x.dtype, device=x.device, memory_format=_LAST)
    if not y.numel():
        return y
    x, w = x.contiguous(memory_format=_LAST), w.contiguous(memory_format=_LAST)
    kind, out_pixels = products(x.dtype), size[0] * size[1]
    tile = _TILES[kind]
    columns = tile.columns_of(o, kh)
    blocks, tiles = cdiv(o, columns), cdiv(out_pixels, tile.rows)
    with on_device_of(x):
        modulated_conv2d_layer_kernel[(blocks * tiles * n,)](
            x, w, as_float(s), as_float(d), as_float(noise), as_float(b), y,
            stride_of(noise, out_pixels), *numbers(act, alpha, gain, clamp), c, o, height * width, height, width,
            out_pixels, size[1], *padding, blocks, tiles, kh, kw, _wide(x, y), _precision(kind), tile.rows,
            columns, tile.depth, **tile.options(x),
        )  # fmt: skip
    return y


def modulated_conv2d_layer_bwd(dz, w, x, s, padding):
    (n, c, height, width), (o, _, kh, kw) = x.shape, w.shape
    x, dz = x.contiguous(memory_format=_LAST), dz.contiguous(memory_format=_LAST)
    dx, pixels = torch.empty_like(x), height * width
    kind = products(x.dtype)
    tile = _TILES[kind]
    columns = tile.columns_of(c, kh)
    blocks, tiles = cdiv(c, columns), cdiv(pixels, tile.rows)
    sums = x.new_empty((n, tiles, c), dtype=torch.float32)
    if x.numel():
        w = w.transpose(0, 1).contiguous(memory_format=_LAST)  # what is added up lies next to each other
        with on_device_of(x):
            modulated_conv2d_layer_bwd_kernel[(blocks * tiles * n,)](
                dz, w, x, as_float(s), dx, sums, c, o, dz.shape[2] * dz.shape[3], *dz.shape[2:], pixels, width,
                kh - 1 - padding[0], kw - 1 - padding[1], blocks, tiles, kh, kw, _wide(x, dz),
                _precision(kind), tile.rows, columns, tile.depth, **tile.options(x),
            )  # fmt: skip
    return dx, per_sample(sums)


def modulated_conv2d_layer_weight(x, s, dz, kernel, padding):
    (n, c, height, width), o, (kh, kw) = x.shape, dz.shape[1], kernel
    x, dz = x.contiguous(memory_format=_LAST), dz.contiguous(memory_format=_LAST)
    out_pixels, kind = dz.shape[2] * dz.shape[3], products(x.dtype)
    if not (x.numel() and dz.numel()):
        return x.new_zeros((o, kh, kw, c)).permute(0, 3, 1, 2)
    tile = _TILES[kind]
    columns = tile.columns_of(o, kh)
    tiles, blocks, across = cdiv(out_pixels, _PIXELS), cdiv(o, columns), cdiv(c, tile.rows)
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1
    most = int(_SUMS * (x.nbytes + dz.nbytes) / (2 * 4 * kh * kw * o * c))
    splits, samples = _split(n, tiles, kh * kw * blocks * across, processors, min(most, _PARTS))
    share = cdiv(tiles, splits)
    splits = cdiv(tiles, share)
    parts = cdiv(n, samples) * splits
    dw = x.new_empty((parts, o, kh, kw, c), dtype=torch.float32)
    with on_device_of(x):
        modulated_conv2d_layer_weight_kernel[(kh * kw * blocks * across * parts,)](
            x, as_float(s), dz, dw, n, c, o, height * width, height, width, out_pixels, dz.shape[3], *padding,
            blocks, tiles, samples, splits, share, kh, kw, _wide(x, dz), _precision(kind), _PIXELS,
            tile.rows, columns, **tile.options(x),
        )  # fmt: skip
    dw = dw[0] if parts == 1 else dw.sum(0)
    return dw.to(x.dtype).permute(0, 3, 1, 2)


@lru_cache(maxsize=256)
def _split(n: int, tiles: int, programs: int, processors: int, most: int) -> tuple[int, int]:
    """(parts of a sample, samples of a part), one of them 1: as few parts, of `most`, as keep the processors busy."""

    def shared(parts: int) -> tuple[int, int]:
        return (1, cdiv(n, parts)) if parts < n else (min(parts // n, tiles), 1)

    def time(splits: int, samples: int) -> float:
        return cdiv(programs * cdiv(n, samples) * splits, processors) * samples / splits

    ways = [shared(parts) for parts in range(1, max(most, 1) + 1)]
    least = min(time(*way) for way in ways)
    return next(way for way in ways if time(*way) <= 1.1 * least)
