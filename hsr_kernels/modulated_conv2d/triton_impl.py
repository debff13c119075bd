# SPDX-License-Identifier: Apache-2.0
"""Triton kernels around the convolution of a modulated layer: one pass over memory each.

They work on tiles of [pixels, channels] that never cross a sample, so that a sample's vectors are read once. Images on
the convolution's side (u, z and their gradients) are channels_last; on the other side (x, y and theirs) they have
either layout, and tiles are wide enough in both directions for whole sectors of memory.

Sums are deterministic: each program keeps its own float32 partial sums, and PyTorch adds those up.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .._tensors import NHWC, dense_image, laid_out_like
from .._triton import cdiv, fits_int32, on_device_of
from .gpu_common import as_float, per_pixel, per_sample, stride_of
from .triton_common import channel_vector, leaky, noise_tile, numbers
from .triton_conv import modulated_conv2d_layer as modulated_conv2d_layer
from .triton_conv import modulated_conv2d_layer_bwd as modulated_conv2d_layer_bwd
from .triton_conv import modulated_conv2d_layer_weight as modulated_conv2d_layer_weight
from .triton_fir_epilogue import modulated_conv2d_fir_epilogue as modulated_conv2d_fir_epilogue

_LAST = torch.channels_last
_WARPS = 8
_THREADS = 32 * _WARPS
_BYTES = 32  # of a tensor that a thread holds; more would take the registers of other programs
_CHANNELS, _FEW = 32, 8  # channels in a tile; of images that have few. Two shapes only, as each is a compilation
_PROGRAMS = 4096  # where sums are kept, programs take several tiles each rather than be more than this
_REGISTERS = 128  # that a thread may take: left to itself, ptxas would spill some for more programs
_PLAIN = ["n", "programs", "tiles", "noise_stride"]  # not worth a compilation for their values


@triton.jit
def _share(c, programs, tiles, CHANNELS: tl.constexpr, WIDE: tl.constexpr):
    """This program's sample, place among the rows of partial sums, first tile, and channels."""
    blocks = tl.cdiv(c, CHANNELS)
    row = tl.program_id(0) // blocks
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    first = row % programs * tiles
    if WIDE:
        first, channel = first.to(tl.int64), channel.to(tl.int64)
    return (row // programs).to(tl.int64), row.to(tl.int64), first, channel


@triton.jit
def _at(pixel, channel, c, hw, LAST: tl.constexpr):
    """Offsets of a tile [pixels, channels] inside its sample."""
    if LAST:
        return pixel[:, None] * c + channel[None, :]
    else:
        return channel[None, :] * hw + pixel[:, None]


@triton.jit
def _read(x, at, inside):
    return tl.load(x + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _write(x, at, value, inside):
    tl.store(x + at, value.to(x.dtype.element_ty), mask=inside)


@triton.jit
def _invert(y, alpha, inv_alpha, gain, inv_gain, clamp):
    """From y: dy/dpre, pre, and dpre/dy where the first isn't 0 (elsewhere the others are finite and never matter)."""
    t = y * inv_gain
    slope = tl.where(tl.abs(y) < clamp, tl.where(t > 0, gain, gain * alpha), 0.0)
    inverse = tl.where(t > 0, 1.0, inv_alpha)
    return slope, t * inverse, inverse * inv_gain


@triton.jit(do_not_specialize=_PLAIN)
def scale_channels_kernel(
    x, s, u, c, hw, programs, tiles,
    LAST: tl.constexpr, WIDE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    sample, _, first, channel = _share(c, programs, tiles, CHANNELS, WIDE)
    image = sample * c * hw
    pixel = first * PIXELS + tl.arange(0, PIXELS)
    inside = (pixel < hw)[:, None] & (channel < c)[None, :]
    value = _read(x + image, _at(pixel, channel, c, hw, LAST), inside)
    value *= channel_vector(s, sample * c + channel, channel < c, 1.0)[None, :]
    _write(u + image, _at(pixel, channel, c, hw, True), value, inside)


@triton.jit(do_not_specialize=_PLAIN)
def scale_channels_bwd_kernel(
    du, x, s, dx, sums, c, hw, programs, tiles,
    LAST: tl.constexpr, WIDE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dx = du * s; sums: du * x."""
    sample, row, first, channel = _share(c, programs, tiles, CHANNELS, WIDE)
    image = sample * c * hw
    scale = channel_vector(s, sample * c + channel, channel < c, 1.0)[None, :]
    dot = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for tile in range(tiles):
        pixel = (first + tile) * PIXELS + tl.arange(0, PIXELS)
        inside = (pixel < hw)[:, None] & (channel < c)[None, :]
        at = _at(pixel, channel, c, hw, LAST)
        g = _read(du + image, _at(pixel, channel, c, hw, True), inside)
        dot += g * _read(x + image, at, inside)
        _write(dx + image, at, g * scale, inside)
    tl.store(sums + row * c + channel, tl.sum(dot, 0), mask=channel < c)


@triton.jit(do_not_specialize=_PLAIN)
def modulated_conv2d_epilogue_kernel(
    z, d, noise, b, y, noise_stride, alpha, gain, clamp, c, hw, programs, tiles,
    LAST: tl.constexpr, WIDE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    sample, _, first, channel = _share(c, programs, tiles, CHANNELS, WIDE)
    image = sample * c * hw
    pixel = first * PIXELS + tl.arange(0, PIXELS)
    inside = (pixel < hw)[:, None] & (channel < c)[None, :]
    value = _read(z + image, _at(pixel, channel, c, hw, True), inside)
    value *= channel_vector(d, sample * c + channel, channel < c, 1.0)[None, :]
    value += noise_tile(noise, sample * noise_stride, pixel, hw) + channel_vector(b, channel, channel < c, 0.0)[None, :]
    value = leaky(value, alpha) * gain
    value = tl.where(value > clamp, clamp, tl.where(value < -clamp, -clamp, value))  # NaN stays NaN
    _write(y + image, _at(pixel, channel, c, hw, LAST), value, inside)


@triton.jit(do_not_specialize=_PLAIN)
def modulated_conv2d_epilogue_bwd_kernel(
    dy, y, d, noise, b, dz, sums, dnoise, noise_stride, alpha, inv_alpha, gain, inv_gain, clamp,
    n, c, hw, programs, tiles,
    LAST: tl.constexpr, WIDE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dz = dpre * d with dpre = dy * dy/dpre; sums: dd and db; dnoise: the sums over each block of channels."""
    sample, row, first, channel = _share(c, programs, tiles, CHANNELS, WIDE)
    image, known = sample * c * hw, channel < c
    scale = channel_vector(d, sample * c + channel, known, 1.0)
    bias = channel_vector(b, channel, known, 0.0)[None, :]
    dd, db = tl.zeros([PIXELS, CHANNELS], tl.float32), tl.zeros([PIXELS, CHANNELS], tl.float32)
    for tile in range(tiles):
        pixel = (first + tile) * PIXELS + tl.arange(0, PIXELS)
        inside = (pixel < hw)[:, None] & known[None, :]
        at = _at(pixel, channel, c, hw, LAST)
        slope, pre, _ = _invert(_read(y + image, at, inside), alpha, inv_alpha, gain, inv_gain, clamp)
        dpre = _read(dy + image, at, inside) * slope
        dd += dpre * (pre - (noise_tile(noise, sample * noise_stride, pixel, hw) + bias))
        db += dpre
        if dnoise is not None:
            plane = (tl.program_id(0) % tl.cdiv(c, CHANNELS) * n + sample) * hw
            tl.store(dnoise + plane + pixel, tl.sum(dpre, 1), mask=pixel < hw)
        _write(dz + image, _at(pixel, channel, c, hw, True), dpre * scale[None, :], inside)
    at = row * c + channel
    tl.store(sums + at, tl.sum(dd, 0) / scale, mask=known)
    tl.store(sums + n * programs * c + at, tl.sum(db, 0), mask=known)


@triton.jit(do_not_specialize=_PLAIN)
def modulated_conv2d_epilogue_bwd_bwd_kernel(
    ddz, ratio, ddnoise, ddb, dy, y, d, noise, b, gdy, gy, gnoise, sums,
    noise_stride, alpha, inv_alpha, gain, inv_gain, clamp, n, c, hw, programs, tiles,
    LAST: tl.constexpr, WIDE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """With zd = z * d told from y, and nothing where the activation doesn't pass:

    gdy = dy/dpre * (ddz * d + ratio * zd + ddnoise + ddb), gy = ratio * dpre * dpre/dy; sums: ddz * dpre, dpre * zd and
    dpre; gnoise: the sums of -ratio * dpre over each block of channels.
    """
    sample, row, first, channel = _share(c, programs, tiles, CHANNELS, WIDE)
    image, known = sample * c * hw, channel < c
    scale = channel_vector(d, sample * c + channel, known, 1.0)[None, :]
    weight = channel_vector(ratio, sample * c + channel, known, 0.0)[None, :]
    bias, dd_bias = channel_vector(b, channel, known, 0.0)[None, :], channel_vector(ddb, channel, known, 0.0)[None, :]
    dot = tl.zeros([PIXELS, CHANNELS], tl.float32)
    dot_zd, total = dot, dot
    for tile in range(tiles):
        pixel = (first + tile) * PIXELS + tl.arange(0, PIXELS)
        inside = (pixel < hw)[:, None] & known[None, :]
        at = _at(pixel, channel, c, hw, LAST)
        # Read first: where layouts differ, Triton computes in that of the later loads, and only this one changes.
        g = _read(ddz + image, _at(pixel, channel, c, hw, True), inside)
        slope, pre, inverse = _invert(_read(y + image, at, inside), alpha, inv_alpha, gain, inv_gain, clamp)
        dpre = _read(dy + image, at, inside) * slope
        zd = pre - (noise_tile(noise, sample * noise_stride, pixel, hw) + bias)
        dot += g * dpre
        dot_zd += dpre * zd
        total += dpre
        weighted = weight * dpre
        if gnoise is not None:
            plane = (tl.program_id(0) % tl.cdiv(c, CHANNELS) * n + sample) * hw
            tl.store(gnoise + plane + pixel, -tl.sum(weighted, 1), mask=pixel < hw)
        added = noise_tile(ddnoise, sample * hw, pixel, hw) + dd_bias
        _write(gdy + image, at, slope * (g * scale + weight * zd + added), inside)
        _write(gy + image, at, weighted * inverse, inside)
    at = row * c + channel
    rows = n * programs * c
    tl.store(sums + at, tl.sum(dot, 0), mask=known)
    tl.store(sums + rows + at, tl.sum(dot_zd, 0), mask=known)
    tl.store(sums + 2 * rows + at, tl.sum(total, 0), mask=known)


class _Share(NamedTuple):
    """How programs share out images: `programs` for each sample and block of channels, of `tiles` tiles each."""

    n: int
    c: int
    hw: int
    programs: int
    tiles: int
    pixels: int  # of a tile
    channels: int  # of a tile

    @property
    def blocks(self) -> int:
        return cdiv(self.c, self.channels)

    @property
    def grid(self) -> tuple[int]:
        return (self.n * self.programs * self.blocks,)

    def args(self, last: bool) -> tuple[bool, bool, int, int]:
        """LAST, WIDE, PIXELS and CHANNELS of the kernels."""
        return last, not fits_int32(self.c * self.hw), self.pixels, self.channels

    def partial_sums(self, kinds: int, like: torch.Tensor) -> torch.Tensor:
        return like.new_empty((kinds, self.n, self.programs, self.c), dtype=torch.float32)


def _share_out(images: torch.Tensor, *, sums: bool = False, held: int | None = None) -> _Share:
    """Shares out [N, C, H, W]; a thread holds `held` elements of each tensor, by default those in _BYTES."""
    n, c, h, w = images.shape
    held = held or _BYTES // images.element_size()
    channels = _FEW if c <= _FEW else _CHANNELS
    pixels = _THREADS * held // channels
    per_sample = cdiv(h * w, pixels)
    tiles = max(min(per_sample, n * per_sample * cdiv(c, channels) // _PROGRAMS), 1) if sums else 1
    return _Share(n, c, h * w, cdiv(per_sample, tiles), tiles, pixels, channels)


def _with_inverses(alpha: float, gain: float, clamp: float) -> tuple[float, float, float, float, float]:
    return alpha, 1 / alpha if alpha else 0.0, gain, 1 / gain, clamp


def _held(images: torch.Tensor) -> int:
    """Elements that a thread holds of several tensors and sums; few channels aren't read in vectors, and take more."""
    return 4 if images.shape[1] <= _FEW else 8


def scale_channels(x, s):
    u = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=_LAST)
    x, layout = dense_image(x)
    by = _share_out(x)
    if x.numel():
        with on_device_of(x):
            scale_channels_kernel[by.grid](
                x, as_float(s), u, by.c, by.hw, by.programs, by.tiles, *by.args(layout == NHWC), num_warps=_WARPS
            )
    return u


def scale_channels_bwd(du, x, s):
    x, layout = dense_image(x)
    dx, du = torch.empty_like(x), du.contiguous(memory_format=_LAST)
    by = _share_out(x, sums=True, held=8)
    sums = by.partial_sums(1, x)
    if x.numel():
        with on_device_of(x):
            scale_channels_bwd_kernel[by.grid](
                du, x, as_float(s), dx, sums, by.c, by.hw, by.programs, by.tiles, *by.args(layout == NHWC),
                num_warps=_WARPS,
            )  # fmt: skip
    return dx, per_sample(sums[0])


def modulated_conv2d_epilogue(z, d, noise, b, channels_last, act, alpha, gain, clamp):
    z = z.contiguous(memory_format=_LAST)
    memory_format = _LAST if channels_last else torch.contiguous_format
    y = torch.empty(z.shape, dtype=z.dtype, device=z.device, memory_format=memory_format)
    by = _share_out(z)
    if z.numel():
        with on_device_of(z):
            modulated_conv2d_epilogue_kernel[by.grid](
                z, as_float(d), as_float(noise), as_float(b), y, stride_of(noise, by.hw),
                *numbers(act, alpha, gain, clamp), by.c, by.hw, by.programs, by.tiles, *by.args(channels_last),
                num_warps=_WARPS,
            )  # fmt: skip
    return y


def modulated_conv2d_epilogue_bwd(dy, y, d, noise, b, needs_dnoise, act, alpha, gain, clamp):
    y, layout = dense_image(y)
    dy = laid_out_like(dy, y)
    dz = torch.empty(y.shape, dtype=y.dtype, device=y.device, memory_format=_LAST)
    by = _share_out(y, sums=True, held=_held(y))
    sums = by.partial_sums(2, y)
    dnoise = sums.new_empty((by.blocks, by.n, 1, *y.shape[2:])) if needs_dnoise else None
    if y.numel():
        with on_device_of(y):
            modulated_conv2d_epilogue_bwd_kernel[by.grid](
                dy, y, as_float(d), as_float(noise), as_float(b), dz, sums, dnoise, stride_of(noise, by.hw),
                *_with_inverses(*numbers(act, alpha, gain, clamp)), by.n, by.c, by.hw, by.programs, by.tiles,
                *by.args(layout == NHWC), num_warps=_WARPS, maxnreg=_REGISTERS,
            )  # fmt: skip
    return dz, per_sample(sums[0]), sums[1].sum((0, 1), dtype=torch.float64).float(), per_pixel(dnoise, sums)


def modulated_conv2d_epilogue_bwd_bwd(
    ddz, ratio, ddnoise, ddb, dy, y, d, noise, b, needs_gnoise, act, alpha, gain, clamp
):
    y, layout = dense_image(y)
    dy, ddz = laid_out_like(dy, y), ddz.contiguous(memory_format=_LAST)
    gdy, gy = torch.empty_like(y), torch.empty_like(y)
    by = _share_out(y, sums=True, held=_held(y))
    sums = by.partial_sums(3, y)
    gnoise = sums.new_empty((by.blocks, by.n, 1, *y.shape[2:])) if needs_gnoise else None
    ddnoise = None if ddnoise is None else ddnoise.expand(by.n, 1, *y.shape[2:])
    if y.numel():
        with on_device_of(y):
            modulated_conv2d_epilogue_bwd_bwd_kernel[by.grid](
                ddz, as_float(ratio), as_float(ddnoise), as_float(ddb), dy, y, as_float(d), as_float(noise),
                as_float(b), gdy, gy, gnoise, sums, stride_of(noise, by.hw),
                *_with_inverses(*numbers(act, alpha, gain, clamp)), by.n, by.c, by.hw, by.programs, by.tiles,
                *by.args(layout == NHWC), num_warps=_WARPS, maxnreg=_REGISTERS if by.channels == _FEW else None,
            )  # fmt: skip
    return gdy, gy, per_pixel(gnoise, sums), per_sample(sums)
