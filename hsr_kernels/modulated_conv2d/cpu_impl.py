# SPDX-License-Identifier: Apache-2.0
"""Native CPU kernels around the convolution of a modulated layer.

The convolution runs in channels_last, where it is fastest; the prologue and the epilogue change layouts on the way.
Images between them are [N, C, H, W] in channels_last; d is [N, O], noise [N or 1, 1, H, W], b [O]: all in the
accumulation dtype.
"""

import torch

from .._dispatch import native
from .._tensors import DTYPE_CODES, accumulation_dtype, address, dense_image, laid_out_like
from ..upfirdn2d.cpu_impl import fir_args
from ..upfirdn2d.geometry import filter_taps, geometry_of


def _noise_and_stride(noise: torch.Tensor | None, dtype: torch.dtype) -> tuple[torch.Tensor | None, int]:
    """Returns noise as a dense [N or 1, 1, H, W], and its stride between samples."""
    if noise is None:
        return None, 0
    return _dense(noise, dtype), noise[0].numel() if noise.shape[0] > 1 else 0


def scale_channels(x, s):
    u = torch.empty(x.shape, dtype=x.dtype, memory_format=torch.channels_last)
    x, layout = dense_image(x)
    n, c, h, w = x.shape
    s = _dense(s, x.dtype)
    native.cpu().scale_channels(
        address(x),
        address(s),
        address(u),
        (n, c, h * w),
        layout,
        DTYPE_CODES[x.dtype],
        torch.get_num_threads(),
    )
    return u


def scale_channels_bwd(du, x, s):
    x, layout = dense_image(x)
    dx = torch.empty_like(x)
    n, c, h, w = x.shape
    du, s = du.contiguous(memory_format=torch.channels_last), _dense(s, x.dtype)
    ds = torch.zeros((n, c), dtype=torch.float64)
    native.cpu().scale_channels_bwd(
        address(du), address(x), address(s), address(dx), address(ds), (n, c, h * w), layout,
        DTYPE_CODES[x.dtype], torch.get_num_threads(),
    )  # fmt: skip
    return dx, ds.to(s.dtype)


def modulated_conv2d_epilogue(z, d, noise, b, channels_last, act, alpha, gain, clamp):
    z = z.contiguous(memory_format=torch.channels_last)
    n, c, h, w = z.shape
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    y = torch.empty(z.shape, dtype=z.dtype, memory_format=memory_format)
    noise, stride = _noise_and_stride(noise, y.dtype)
    d, b = _dense(d, y.dtype), _dense(b, y.dtype)
    native.cpu().modulated_conv2d_epilogue(
        address(z), address(y), address(d), address(noise), stride, address(b), (n, c, h, w), int(channels_last),
        DTYPE_CODES[z.dtype], (act, alpha, gain, clamp), torch.get_num_threads(),
    )  # fmt: skip
    return y


def modulated_conv2d_fir_epilogue(
    x, f, up, down, padding, flip_filter, fir_gain, d, noise, b, channels_last, act, alpha, gain, clamp
):
    geometry = geometry_of(up, down, padding, flip_filter, fir_gain)
    x = x.contiguous(memory_format=torch.channels_last)
    size = geometry.output_size(x.shape[2], x.shape[3], filter_taps(f))
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    y = torch.empty((*x.shape[:2], *size), dtype=x.dtype, memory_format=memory_format)
    noise, stride = _noise_and_stride(noise, y.dtype)
    d, b = _dense(d, y.dtype), _dense(b, y.dtype)
    taps, *args = fir_args(x, f, geometry, size)
    native.cpu().modulated_conv2d_fir_epilogue(
        address(x), *args, address(y), address(d), address(noise), stride, address(b), int(channels_last),
        DTYPE_CODES[x.dtype], (act, alpha, gain, clamp), torch.get_num_threads(),
    )  # fmt: skip
    # args hold their address, so the taps must live until here.
    del taps
    return y


def modulated_conv2d_epilogue_bwd(dy, y, d, noise, b, needs_dnoise, act, alpha, gain, clamp):
    y, layout = dense_image(y)
    dy = laid_out_like(dy, y)
    n, c, h, w = y.shape
    dz = torch.empty(y.shape, dtype=y.dtype, memory_format=torch.channels_last)
    noise, stride = _noise_and_stride(noise, y.dtype)
    d, b = _dense(d, y.dtype), _dense(b, y.dtype)
    dd = torch.zeros((n, c), dtype=torch.float64)
    db = torch.zeros(c, dtype=torch.float64)
    dnoise = torch.empty((n, 1, h, w) if needs_dnoise else 0, dtype=accumulation_dtype(y.dtype))
    native.cpu().modulated_conv2d_epilogue_bwd(
        address(dy), address(y), address(dz), address(d), address(noise), stride, address(b), address(dd),
        address(db), address(dnoise) if needs_dnoise else 0, (n, c, h, w), layout, DTYPE_CODES[y.dtype],
        (act, alpha, gain, clamp), torch.get_num_threads(),
    )  # fmt: skip
    return dz, dd.to(dnoise.dtype), db.to(dnoise.dtype), dnoise


def modulated_conv2d_epilogue_bwd_bwd(
    ddz, ratio, ddnoise, ddb, dy, y, d, noise, b, needs_gnoise, act, alpha, gain, clamp
):
    y, layout = dense_image(y)
    dy, ddz = laid_out_like(dy, y), ddz.contiguous(memory_format=torch.channels_last)
    n, c, h, w = y.shape
    gdy, gy = torch.empty_like(y), torch.empty_like(y)
    noise, stride = _noise_and_stride(noise, y.dtype)
    d, b, ratio, ddb = (_dense(vector, y.dtype) for vector in (d, b, ratio, ddb))
    ddnoise = None if ddnoise is None else _dense(ddnoise.expand(n, 1, h, w), y.dtype)
    sums = torch.zeros((3, n, c), dtype=torch.float64)
    gnoise = torch.empty((n, 1, h, w) if needs_gnoise else 0, dtype=accumulation_dtype(y.dtype))
    native.cpu().modulated_conv2d_epilogue_bwd_bwd(
        address(ddz), address(ratio), address(ddnoise), address(ddb), address(dy), address(y), address(d),
        address(noise), stride, address(b), address(gdy), address(gy), address(gnoise) if needs_gnoise else 0,
        address(sums), (n, c, h, w), layout, DTYPE_CODES[y.dtype], (act, alpha, gain, clamp), torch.get_num_threads(),
    )  # fmt: skip
    return gdy, gy, gnoise, sums.to(gnoise.dtype)


def _dense(vector, dtype):
    """Returns `vector` as the kernels read it: without gaps, in the accumulation dtype for images of `dtype`."""
    return None if vector is None else vector.to(accumulation_dtype(dtype)).contiguous()
