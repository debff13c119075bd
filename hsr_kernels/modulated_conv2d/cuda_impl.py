# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels around the convolution of a modulated layer: one pass over memory each.

Sums are deterministic: each block writes its own float32 partial sums, and PyTorch adds those up.
"""

import torch

from .._dispatch import native
from .._tensors import DTYPE_CODES, NHWC, address, dense_image, device_and_stream, laid_out_like
from ..upfirdn2d.cuda_impl import as_taps, fir_args, passes_of, run_passes
from ..upfirdn2d.geometry import Geometry, filter_taps, geometry_of
from ..upfirdn2d.passes import FirPass
from .gpu_common import as_float32, noise_stride, sum_blocks, with_equal_tap_strides

# The kernel with the epilogue in its stores takes filters of this (height, width).
_FUSED_TAPS = (4, 4)


def scale_channels(x, s):
    u = torch.empty_like(x, memory_format=torch.channels_last)
    x, layout = dense_image(x)
    n, c, h, w = x.shape
    s = as_float32(s)
    native.cuda().scale_channels(
        x.data_ptr(), s.data_ptr(), u.data_ptr(), (n, c, h * w), layout, DTYPE_CODES[x.dtype], device_and_stream(x)
    )
    return u


def scale_channels_bwd(du, x, s):
    cuda = native.cuda()
    x, layout = dense_image(x)
    dx, du, s = torch.empty_like(x), du.contiguous(memory_format=torch.channels_last), as_float32(s)
    n, c, h, w = x.shape
    parts, _ = cuda.tile_sums(n, c, h * w)
    partial = x.new_empty((n, c) if parts == 1 else (n, parts, c), dtype=torch.float32)
    cuda.scale_channels_bwd(
        du.data_ptr(), x.data_ptr(), s.data_ptr(), dx.data_ptr(), partial.data_ptr(), (n, c, h * w), layout,
        DTYPE_CODES[x.dtype], device_and_stream(x),
    )  # fmt: skip
    return dx, partial if parts == 1 else partial.sum(1)


def modulated_conv2d_epilogue(z, d, noise, b, channels_last, act, alpha, gain, clamp):
    z = z.contiguous(memory_format=torch.channels_last)
    y = torch.empty_like(z, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    d, noise, b = as_float32(d), as_float32(noise), as_float32(b)
    native.cuda().modulated_conv2d_epilogue(
        z.data_ptr(), y.data_ptr(), *_epilogue_args(d, noise, b, z), tuple(z.shape), int(channels_last),
        DTYPE_CODES[z.dtype], (act, alpha, gain, clamp), device_and_stream(z),
    )  # fmt: skip
    return y


def modulated_conv2d_fir_epilogue(
    x, f, up, down, padding, flip_filter, fir_gain, d, noise, b, channels_last, act, alpha, gain, clamp
):
    geometry, f = geometry_of(up, down, padding, flip_filter, fir_gain), as_taps(f)
    size = geometry.output_size(x.shape[2], x.shape[3], filter_taps(f))
    y = torch.empty(
        (*x.shape[:2], *size), dtype=x.dtype, device=x.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )  # fmt: skip
    x = x.contiguous(memory_format=torch.channels_last)
    fused = FirPass(geometry, f, filter_taps(f))
    if geometry.up != (1, 1) or geometry.down != (1, 1) or fused.taps != _FUSED_TAPS:
        x = run_passes(x, passes_of(f, geometry, NHWC), NHWC, torch.float32)
        fused = FirPass(Geometry(), None, (1, 1))
    d, noise, b = as_float32(d), as_float32(noise), as_float32(b)
    native.cuda().modulated_conv2d_fir_epilogue(
        x.data_ptr(), *fir_args(fused, x.shape, size), DTYPE_CODES[x.dtype], y.data_ptr(), address(d), address(noise),
        noise_stride(noise, size[0] * size[1]), address(b), int(channels_last),
        DTYPE_CODES[y.dtype], (act, alpha, gain, clamp), device_and_stream(x),
    )  # fmt: skip
    return y


def modulated_conv2d_epilogue_bwd(dy, y, d, noise, b, needs_dnoise, act, alpha, gain, clamp):
    y, layout = dense_image(y)
    dy = laid_out_like(dy, y)
    dz = torch.empty_like(y, memory_format=torch.channels_last)
    d, noise, b = as_float32(d), as_float32(noise), as_float32(b)
    sums, dnoise = _partial_sums(y, 2, needs_dnoise)
    native.cuda().modulated_conv2d_epilogue_bwd(
        dy.data_ptr(), y.data_ptr(), dz.data_ptr(), *_epilogue_args(d, noise, b, y), sums.data_ptr(), address(dnoise),
        tuple(y.shape), layout, DTYPE_CODES[y.dtype], (act, alpha, gain, clamp), device_and_stream(y),
    )  # fmt: skip
    dd, db = (sums if sums.ndim == 3 else sums.sum(2)).unbind()
    return dz, dd, db[0] if db.shape[0] == 1 else db.sum(0), sum_blocks(dnoise, sums)


def modulated_conv2d_epilogue_bwd_bwd(
    ddz, ratio, ddnoise, ddb, dy, y, d, noise, b, needs_gnoise, act, alpha, gain, clamp
):
    y, layout = dense_image(y)
    dy, ddz = laid_out_like(dy, y), ddz.contiguous(memory_format=torch.channels_last)
    gdy, gy = torch.empty_like(y), torch.empty_like(y)
    ddnoise = None if ddnoise is None else ddnoise.expand(y.shape[0], 1, *y.shape[2:])
    ratio, ddnoise, ddb = as_float32(ratio), as_float32(ddnoise), as_float32(ddb)
    d, noise, b = as_float32(d), as_float32(noise), as_float32(b)
    sums, gnoise = _partial_sums(y, 3, needs_gnoise)
    native.cuda().modulated_conv2d_epilogue_bwd_bwd(
        ddz.data_ptr(), ratio.data_ptr(), address(ddnoise), ddb.data_ptr(), dy.data_ptr(), y.data_ptr(),
        *_epilogue_args(d, noise, b, y), gdy.data_ptr(), gy.data_ptr(), sums.data_ptr(), address(gnoise),
        tuple(y.shape), layout, DTYPE_CODES[y.dtype], (act, alpha, gain, clamp), device_and_stream(y),
    )  # fmt: skip
    return gdy, gy, sum_blocks(gnoise, sums), sums if sums.ndim == 3 else sums.sum(2)


def demodulation(weight, styles, dtype, flip, channels_last, needs_w, needs_s):
    (weight, layout), styles = dense_image(weight), styles.contiguous()
    (o, c, kh, kw), n = weight.shape, styles.shape[0]
    w = s = None
    if needs_w:
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        w = torch.empty_like(weight, dtype=dtype, memory_format=memory_format)
    if needs_s:
        s = torch.empty_like(styles, dtype=torch.float32)
    d = styles.new_empty((n, o), dtype=torch.float32)
    native.cuda().demodulation(
        weight.data_ptr(), styles.data_ptr(), address(w), address(s), d.data_ptr(), (n, o, c, kh * kw),
        (DTYPE_CODES[weight.dtype], DTYPE_CODES[styles.dtype], DTYPE_CODES[dtype]), dtype == torch.float16, flip,
        layout == NHWC, channels_last, device_and_stream(weight),
    )  # fmt: skip
    return d.new_empty(0, dtype=dtype) if w is None else w, d.new_empty(0) if s is None else s, d


def demodulation_bwd(weight, styles, s, d, dw, ds, dd, dtype, flip, needs_weight, needs_styles):
    (weight, layout), (dw, dw_strides) = dense_image(weight), with_equal_tap_strides(dw)
    styles, s, d, dd = styles.contiguous(), s.contiguous(), d.contiguous(), dd.contiguous()
    ds = None if ds is None else ds.contiguous()
    (o, c, kh, kw), n = weight.shape, styles.shape[0]
    dweight = torch.empty_like(weight) if needs_weight else None
    dstyles = energy = None
    if needs_styles:
        dstyles, energy = torch.empty_like(styles), d.new_empty((o, c))
    native.cuda().demodulation_bwd(
        weight.data_ptr(), styles.data_ptr(), s.data_ptr(), d.data_ptr(), address(dw), dw_strides, address(ds),
        dd.data_ptr(), address(dweight), address(dstyles), address(energy), (n, o, c, kh * kw),
        (DTYPE_CODES[weight.dtype], DTYPE_CODES[styles.dtype], DTYPE_CODES[dtype]), dtype == torch.float16, flip,
        layout == NHWC, device_and_stream(weight),
    )  # fmt: skip
    return weight.new_empty(0) if dweight is None else dweight, styles.new_empty(0) if dstyles is None else dstyles


def _epilogue_args(d, noise, b, images):
    """Returns what every epilogue reads besides its images, as the kernels take it."""
    return address(d), address(noise), noise_stride(noise, images.shape[2] * images.shape[3]), address(b)


def _partial_sums(images, kinds, needs_map):
    """Makes room for sums: per channel [kinds, N, parts, C], or [kinds, N, C] of a single part; per pixel [blocks of
    channels, N, 1, H, W], or None.
    """
    n, c, h, w = images.shape
    parts, blocks = native.cuda().tile_sums(n, c, h * w)
    shape = (kinds, n, c) if parts == 1 else (kinds, n, parts, c)
    sums = images.new_empty(shape, dtype=torch.float32)
    return sums, sums.new_empty((blocks, n, 1, h, w)) if needs_map else None
