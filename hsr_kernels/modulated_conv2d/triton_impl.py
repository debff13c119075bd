# SPDX-License-Identifier: Apache-2.0
"""Launches of the Triton kernels of a modulated layer.

The kernels stand in triton_pointwise.py (before and after PyTorch's convolution) and triton_conv.py (with the
convolution inside); the launches that prepare a layer's parameters stand in triton_parameters.py, those after the
convolution of a layer that upsamples in triton_fir_launches.py.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch

from .. import _gpu
from .._tensors import NHWC, dense_image, laid_out_like
from .._triton import cdiv, fits_int32, launch_options, on_device_of, power_of_2
from .gpu_common import as_float32, noise_stride, sum_blocks, sum_parts
from .routes import products
from .triton_common import activation_args, activation_args_with_inverses, input_precision
from .triton_conv import (
    modulated_conv2d_layer_bwd_kernel,
    modulated_conv2d_layer_kernel,
    modulated_conv2d_layer_weight_kernel,
)
from .triton_fir_launches import modulated_conv2d_fir_epilogue as modulated_conv2d_fir_epilogue
from .triton_fir_launches import modulated_conv2d_fir_epilogue_bwd as modulated_conv2d_fir_epilogue_bwd
from .triton_parameters import demodulation as demodulation
from .triton_parameters import demodulation_bwd as demodulation_bwd
from .triton_parameters import demodulation_each as demodulation_each
from .triton_parameters import demodulation_each_bwd as demodulation_each_bwd
from .triton_pointwise import (
    modulated_conv2d_epilogue_bwd_bwd_kernel,
    modulated_conv2d_epilogue_bwd_kernel,
    modulated_conv2d_epilogue_kernel,
    modulated_conv2d_projection_bwd_kernel,
    scale_channels_bwd_bwd_kernel,
    scale_channels_bwd_kernel,
    scale_channels_kernel,
)

_THREADS = 256
# A thread of a pointwise kernel holds this much of each tensor: more would take the registers of other programs.
_BYTES_PER_THREAD = 32
# Pointwise kernels have tiles of two shapes only, as each shape is a compilation.
_TILE_CHANNELS = 32
# Images of no more channels than this have the other shape.
_TILE_CHANNELS_SMALL = 8
# Pointwise kernels that keep sums have about this many programs at most, which take several tiles each.
_PROGRAMS = 4096
# Left to itself, ptxas would spill registers of kernels that keep sums, so that more programs fit.
_MAX_REGISTERS = 128
# A weight gradient adds up this many pixels at a time; in full float32 fewer on chips that need small tiles.
_WEIGHT_TILE_PIXELS, _WEIGHT_TILE_PIXELS_SMALL = 32, 16
# On these chips a forward adds up this many channels at a time: scaling more of them spills registers.
_DEPTH_SMALL = 16
# The partial sums of a weight gradient move no more than this share of the images' bytes.
_MAX_PARTIAL_BYTES_SHARE = 0.11
# A weight gradient has no more partial sums than this.
_MAX_PARTS = 64


class _PointwiseTiling(NamedTuple):
    """How the programs of a pointwise kernel share images [N, C, H, W].

    Attributes:
        n, c, hw: Samples, channels, pixels.
        programs_per_sample: For each block of channels of a sample.
        tiles_per_program: Tiles that one program takes, one after the other.
        tile_pixels, tile_channels: Sides of a tile.
    """

    n: int
    c: int
    hw: int
    programs_per_sample: int
    tiles_per_program: int
    tile_pixels: int
    tile_channels: int

    @classmethod
    def of(cls, images: torch.Tensor, *, keeps_sums: bool = False, elements: int | None = None) -> "_PointwiseTiling":
        """Returns the tiling for images of which a thread holds `elements`, by default _BYTES_PER_THREAD."""
        n, c, h, w = images.shape
        elements = elements or _BYTES_PER_THREAD // images.element_size()
        tile_channels = _TILE_CHANNELS_SMALL if c <= _TILE_CHANNELS_SMALL else _TILE_CHANNELS
        tile_pixels = _THREADS * elements // tile_channels
        tiles = cdiv(h * w, tile_pixels)
        tiles_per_program = 1
        if keeps_sums:
            tiles_per_program = max(min(tiles, n * tiles * cdiv(c, tile_channels) // _PROGRAMS), 1)
        return cls(n, c, h * w, cdiv(tiles, tiles_per_program), tiles_per_program, tile_pixels, tile_channels)

    @property
    def channel_blocks(self) -> int:
        return cdiv(self.c, self.tile_channels)

    @property
    def grid(self) -> tuple[int]:
        return (self.n * self.programs_per_sample * self.channel_blocks,)

    def args(self, channels_last: bool) -> tuple[int, int, int, int, bool, bool, int, int]:
        """What the kernels take from c on: the last four are constants."""
        sizes = (self.c, self.hw, self.programs_per_sample, self.tiles_per_program)
        int64_offsets = not fits_int32(self.c * self.hw)
        return *sizes, channels_last, int64_offsets, self.tile_pixels, self.tile_channels

    def partial_sums(self, kinds: int, like: torch.Tensor) -> torch.Tensor:
        """Makes room for `kinds` of sums per channel: [kinds, N, programs_per_sample, C]."""
        return like.new_empty((kinds, self.n, self.programs_per_sample, self.c), dtype=torch.float32)


class _ProductTiling(NamedTuple):
    """The tiles of an implicit GEMM.

    Attributes:
        rows, columns: Of a program.
        depth: Channels that it adds up at a time.
        stages: Loads in flight.
        max_registers: Of a thread. Without it the assembler would rather spill a few registers, to get by with a round
            number of them, than take one more. Large tiles on chips whose products aren't asynchronous spill with it.
        on_every_chip: Whether max_registers is for chips without asynchronous products too.
    """

    rows: int
    columns: int
    depth: int
    stages: int
    max_registers: int
    on_every_chip: bool = False

    def columns_for(self, channels: int, kernel: int) -> int:
        """Returns no more columns than the channels need."""
        return power_of_2(channels, min(16 if kernel == 1 else 32, self.columns), self.columns)

    def options(self, x: torch.Tensor) -> dict[str, Any]:
        """Returns the options of a launch on the device of x."""
        limited = self.on_every_chip or _gpu.of(x).has_asynchronous_products
        return launch_options(x, _THREADS, self.stages, self.max_registers if limited else None)


# The keys are what `products` returns; "ieee" runs on the ordinary units. No side of a tl.dot may be under 16.
_PRODUCT_TILINGS = {
    "half": _ProductTiling(128, 128, 32, 3, 224),
    "tf32": _ProductTiling(128, 64, 16, 3, 224, True),
    "ieee": _ProductTiling(32, 32, 16, 2, 255, True),
}


def _elements_beside_sums(images: torch.Tensor) -> int:
    """Returns the elements of each tensor that a thread holds, of several tensors and sums.

    Few channels aren't read in vectors, which takes more registers.
    """
    return 4 if images.shape[1] <= _TILE_CHANNELS_SMALL else 8


def scale_channels(x, s):
    u = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    x, layout = dense_image(x)
    tiling = _PointwiseTiling.of(x)
    if x.numel():
        with on_device_of(x):
            scale_channels_kernel[tiling.grid](
                x, as_float32(s), u, *tiling.args(layout == NHWC), **launch_options(x, _THREADS)
            )
    return u


def scale_channels_bwd(du, x, s):
    return _scale_channels_bwd(du, x, s, None)


def scale_channels_fwd_bwd(du, x, s):
    u = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return u, *_scale_channels_bwd(du, x, s, u)


def _scale_channels_bwd(du, x, s, u):
    x, layout = dense_image(x)
    dx, du = torch.empty_like(x), du.contiguous(memory_format=torch.channels_last)
    tiling = _PointwiseTiling.of(x, keeps_sums=True, elements=8)
    sums = tiling.partial_sums(1, x)
    if x.numel():
        with on_device_of(x):
            scale_channels_bwd_kernel[tiling.grid](
                du, x, as_float32(s), dx, u, sums, *tiling.args(layout == NHWC),
                **launch_options(x, _THREADS, max_registers=_MAX_REGISTERS),
            )  # fmt: skip
    return dx, sum_parts(sums[0])


def scale_channels_bwd_bwd(ddx, dds, du, x, s):
    x, layout = dense_image(x)
    ddx, du = laid_out_like(ddx, x), du.contiguous(memory_format=torch.channels_last)
    ddu, gx = torch.empty_like(du), torch.empty_like(x)
    tiling = _PointwiseTiling.of(x, keeps_sums=True, elements=_elements_beside_sums(x))
    sums = tiling.partial_sums(1, x)
    if x.numel():
        with on_device_of(x):
            scale_channels_bwd_bwd_kernel[tiling.grid](
                ddx, as_float32(dds), du, x, as_float32(s), ddu, gx, sums, *tiling.args(layout == NHWC),
                **launch_options(x, _THREADS, max_registers=_MAX_REGISTERS),
            )  # fmt: skip
    return ddu, gx, sum_parts(sums[0])


def modulated_conv2d_epilogue(z, d, noise, b, channels_last, act, alpha, gain, clamp):
    z = z.contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    y = torch.empty(z.shape, dtype=z.dtype, device=z.device, memory_format=memory_format)
    tiling = _PointwiseTiling.of(z)
    if z.numel():
        with on_device_of(z):
            modulated_conv2d_epilogue_kernel[tiling.grid](
                z, as_float32(d), as_float32(noise), as_float32(b), y, noise_stride(noise, tiling.hw),
                *activation_args(act, alpha, gain, clamp), *tiling.args(channels_last),
                **launch_options(z, _THREADS),
            )  # fmt: skip
    return y


def modulated_conv2d_epilogue_bwd(dy, y, d, noise, b, needs_dnoise, act, alpha, gain, clamp):
    y, layout = dense_image(y)
    dy = laid_out_like(dy, y)
    dz = torch.empty(y.shape, dtype=y.dtype, device=y.device, memory_format=torch.channels_last)
    tiling = _PointwiseTiling.of(y, keeps_sums=True, elements=_elements_beside_sums(y))
    sums = tiling.partial_sums(2, y)
    dnoise = sums.new_empty((tiling.channel_blocks, tiling.n, 1, *y.shape[2:])) if needs_dnoise else None
    if y.numel():
        with on_device_of(y):
            modulated_conv2d_epilogue_bwd_kernel[tiling.grid](
                dy, y, as_float32(d), as_float32(noise), as_float32(b), dz, sums, dnoise,
                noise_stride(noise, tiling.hw), *activation_args_with_inverses(act, alpha, gain, clamp), tiling.n,
                *tiling.args(layout == NHWC), **launch_options(y, _THREADS, max_registers=_MAX_REGISTERS),
            )  # fmt: skip
    dd, db = sum_parts(sums)
    return dz, dd, db.sum(0), sum_blocks(dnoise, sums)


def modulated_conv2d_epilogue_bwd_bwd(
    ddz, ratio, ddnoise, ddb, dy, y, d, noise, b, needs_gnoise, act, alpha, gain, clamp
):
    y, layout = dense_image(y)
    dy, ddz = laid_out_like(dy, y), ddz.contiguous(memory_format=torch.channels_last)
    gdy, gy = torch.empty_like(y), torch.empty_like(y)
    tiling = _PointwiseTiling.of(y, keeps_sums=True, elements=_elements_beside_sums(y))
    sums = tiling.partial_sums(3, y)
    gnoise = sums.new_empty((tiling.channel_blocks, tiling.n, 1, *y.shape[2:])) if needs_gnoise else None
    ddnoise = None if ddnoise is None else ddnoise.expand(tiling.n, 1, *y.shape[2:])
    if y.numel():
        max_registers = _MAX_REGISTERS if tiling.tile_channels == _TILE_CHANNELS_SMALL else None
        with on_device_of(y):
            modulated_conv2d_epilogue_bwd_bwd_kernel[tiling.grid](
                ddz, as_float32(ratio), as_float32(ddnoise), as_float32(ddb), dy, y, as_float32(d), as_float32(noise),
                as_float32(b), gdy, gy, gnoise, sums, noise_stride(noise, tiling.hw),
                *activation_args_with_inverses(act, alpha, gain, clamp), tiling.n, *tiling.args(layout == NHWC),
                **launch_options(y, _THREADS, max_registers=max_registers),
            )  # fmt: skip
    return gdy, gy, sum_blocks(gnoise, sums), sum_parts(sums)


def _needs_int64_offsets(*images: torch.Tensor) -> bool:
    return not all(fits_int32(image[0].numel()) for image in images)


def modulated_conv2d_layer(x, w, s, d, noise, b, padding, act, alpha, gain, clamp):
    (n, c, height, width), (o, _, kh, kw) = x.shape, w.shape
    size = height + 2 * padding[0] - kh + 1, width + 2 * padding[1] - kw + 1
    y = torch.empty((n, o, *size), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if not y.numel():
        return y
    x, w = x.contiguous(memory_format=torch.channels_last), w.contiguous(memory_format=torch.channels_last)
    product_kind, out_pixels = products(x.dtype), size[0] * size[1]
    tiling = _PRODUCT_TILINGS[product_kind]
    columns = tiling.columns_for(o, kh)
    depth = _DEPTH_SMALL if _gpu.of(x).needs_small_product_tiles else tiling.depth
    out_blocks, tiles = cdiv(o, columns), cdiv(out_pixels, tiling.rows)
    with on_device_of(x):
        modulated_conv2d_layer_kernel[(out_blocks * tiles * n,)](
            x, w, as_float32(s), as_float32(d), as_float32(noise), as_float32(b), y,
            noise_stride(noise, out_pixels), *activation_args(act, alpha, gain, clamp), c, o, height * width, height,
            width, out_pixels, size[1], *padding, out_blocks, tiles, kh, kw, _needs_int64_offsets(x, y),
            input_precision(product_kind), tiling.rows, columns, depth, **tiling.options(x),
        )  # fmt: skip
    return y


def modulated_conv2d_layer_bwd(dz, w, x, s, padding):
    (n, c, height, width), (o, _, kh, kw) = x.shape, w.shape
    x, dz = x.contiguous(memory_format=torch.channels_last), dz.contiguous(memory_format=torch.channels_last)
    dx, pixels = torch.empty_like(x), height * width
    product_kind = products(x.dtype)
    tiling = _PRODUCT_TILINGS[product_kind]
    columns = tiling.columns_for(c, kh)
    out_blocks, tiles = cdiv(c, columns), cdiv(pixels, tiling.rows)
    sums = x.new_empty((n, tiles, c), dtype=torch.float32)
    if x.numel():
        # The output channels, which are added up, lie next to each other.
        w = w.transpose(0, 1).contiguous(memory_format=torch.channels_last)
        with on_device_of(x):
            modulated_conv2d_layer_bwd_kernel[(out_blocks * tiles * n,)](
                dz, w, x, as_float32(s), dx, sums, c, o, dz.shape[2] * dz.shape[3], *dz.shape[2:], pixels, width,
                kh - 1 - padding[0], kw - 1 - padding[1], out_blocks, tiles, kh, kw, _needs_int64_offsets(x, dz),
                input_precision(product_kind), tiling.rows, columns, tiling.depth, **tiling.options(x),
            )  # fmt: skip
    return dx, sum_parts(sums)


def modulated_conv2d_projection_bwd(dz, w, x, s):
    x, dz = x.contiguous(memory_format=torch.channels_last), dz.contiguous(memory_format=torch.channels_last)
    dx, (o, c), w = torch.empty_like(x), w.shape[:2], w.contiguous()
    tiling = _PointwiseTiling.of(x, keeps_sums=True, elements=_elements_beside_sums(x))
    sums = tiling.partial_sums(1, x)
    dw_sums = sums.new_zeros((tiling.n * tiling.programs_per_sample, o, c, 1, 1))
    if x.numel():
        with on_device_of(x):
            modulated_conv2d_projection_bwd_kernel[tiling.grid](
                dz, w, x, as_float32(s), dx, sums, dw_sums, *tiling.args(True), o,
                **launch_options(x, _THREADS, max_registers=_MAX_REGISTERS),
            )  # fmt: skip
    return dx, sum_parts(sums[0]), dw_sums.sum(0).to(x.dtype)


def modulated_conv2d_layer_weight(x, s, dz, kernel, padding):
    (n, c, height, width), o, (kh, kw) = x.shape, dz.shape[1], kernel
    x, dz = x.contiguous(memory_format=torch.channels_last), dz.contiguous(memory_format=torch.channels_last)
    out_pixels, product_kind = dz.shape[2] * dz.shape[3], products(x.dtype)
    if not (x.numel() and dz.numel()):
        return x.new_zeros((o, kh, kw, c)).permute(0, 3, 1, 2)
    tiling = _PRODUCT_TILINGS[product_kind]
    columns, gpu = tiling.columns_for(o, kh), _gpu.of(x)
    is_small = product_kind == "ieee" and gpu.needs_small_product_tiles
    tile_pixels = _WEIGHT_TILE_PIXELS_SMALL if is_small else _WEIGHT_TILE_PIXELS
    tiles, out_blocks, in_blocks = cdiv(out_pixels, tile_pixels), cdiv(o, columns), cdiv(c, tiling.rows)
    max_parts = int(_MAX_PARTIAL_BYTES_SHARE * (x.nbytes + dz.nbytes) / (2 * 4 * kh * kw * o * c))
    programs = kh * kw * out_blocks * in_blocks
    parts_per_sample, samples_per_part = _split(n, tiles, programs, gpu.processors, min(max_parts, _MAX_PARTS))
    tiles_per_part = cdiv(tiles, parts_per_sample)
    parts_per_sample = cdiv(tiles, tiles_per_part)
    parts = cdiv(n, samples_per_part) * parts_per_sample
    dw = x.new_empty((parts, o, kh, kw, c), dtype=torch.float32)
    with on_device_of(x):
        modulated_conv2d_layer_weight_kernel[(programs * parts,)](
            x, as_float32(s), dz, dw, n, c, o, height * width, height, width, out_pixels, dz.shape[3], *padding,
            out_blocks, tiles, samples_per_part, parts_per_sample, tiles_per_part, kh, kw, _needs_int64_offsets(x, dz),
            input_precision(product_kind), tile_pixels, tiling.rows, columns, **tiling.options(x),
        )  # fmt: skip
    dw = dw[0] if parts == 1 else dw.sum(0)
    return dw.to(x.dtype).permute(0, 3, 1, 2)


@lru_cache(maxsize=256)
def _split(n: int, tiles: int, programs: int, processors: int, max_parts: int) -> tuple[int, int]:
    """Splits the sum of a weight gradient into as few parts as keep the processors busy.

    Args:
        n: Samples.
        tiles: Tiles of a sample.
        programs: Programs of a part.
        processors: Multiprocessors of the GPU.
        max_parts: Parts at most.

    Returns:
        (parts per sample, samples per part), one of them 1.
    """

    def split_into(parts: int) -> tuple[int, int]:
        return (1, cdiv(n, parts)) if parts < n else (min(parts // n, tiles), 1)

    def time(parts_per_sample: int, samples_per_part: int) -> float:
        waves = cdiv(programs * cdiv(n, samples_per_part) * parts_per_sample, processors)
        return waves * samples_per_part / parts_per_sample

    splits = [split_into(parts) for parts in range(1, max(max_parts, 1) + 1)]
    min_time = min(time(*split) for split in splits)
    return next(split for split in splits if time(*split) <= 1.1 * min_time)
