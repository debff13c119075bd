# SPDX-License-Identifier: Apache-2.0
"""The native CPU kernel of filtered_lrelu, fused: upsampled images are never in memory."""

import torch

from .. import _checks
from .._dispatch import native
from .._tensors import DTYPE_CODES, NCHW, NHWC, address, dense_image, image_format
from ..upfirdn2d.cpu_impl import fir_args
from .geometry import Resamplings, resamplings_of
from .ops import empty_output, mask_shape


def filtered_lrelu(x, fu, fd, b, *args):
    *resampling_args, act, alpha, gain, clamp, needs_mask = args
    resamplings = resamplings_of(*resampling_args)
    y = empty_output(x, resamplings, fu, fd, image_format(x))
    mask = x.new_empty(mask_shape(x, resamplings, fu, fd) if needs_mask else 0, dtype=torch.uint8)
    x, layout = dense_image(x)
    b = None if b is None else b.to(x.dtype).contiguous()
    taps, *fir = _fir_args(x, fu, fd, resamplings)
    native.cpu().filtered_lrelu(
        address(x), address(b), address(y), address(mask), *fir, layout, DTYPE_CODES[x.dtype],
        (act, alpha, gain, clamp), torch.get_num_threads(),
    )  # fmt: skip
    # The arguments hold their address, so the taps must live until here.
    del taps
    return y, mask


def filtered_lrelu_bwd(dy, mask, fu, fd, *args):
    *resampling_args, act, alpha, gain, clamp, channels_last, needs_db = args
    resamplings = resamplings_of(*resampling_args)
    _checks.shape("mask", mask, mask_shape(dy, resamplings, fu, fd))
    memory_format, layout = (torch.channels_last, NHWC) if channels_last else (torch.contiguous_format, NCHW)
    dx = empty_output(dy, resamplings, fu, fd, memory_format)
    db = torch.zeros(dy.shape[1] if needs_db else 0, dtype=torch.float64)
    dy = dy.contiguous(memory_format=memory_format)
    taps, *fir = _fir_args(dy, fu, fd, resamplings)
    native.cpu().filtered_lrelu_bwd(
        address(dy), address(mask.contiguous()), address(dx), address(db) if needs_db else 0, *fir, layout,
        DTYPE_CODES[dy.dtype], (act, alpha, gain, clamp), torch.get_num_threads(),
    )  # fmt: skip
    # The arguments hold their address, so the taps must live until here.
    del taps
    return dx, db


def _fir_args(x: torch.Tensor, fu: torch.Tensor | None, fd: torch.Tensor | None, resamplings: Resamplings):
    """Returns the taps, and what the native functions take of the two resamplings."""
    upsampled_size, size = resamplings.sizes(x.shape[2], x.shape[3], fu, fd)
    up_taps, *up_args = fir_args(x, fu, resamplings.up, upsampled_size)
    # Stands for the upsampled images, which aren't in memory.
    upsampled = x.new_empty(()).expand(*x.shape[:2], *upsampled_size)
    down_taps, *down_args = fir_args(upsampled, fd, resamplings.down, size)
    return (up_taps, down_taps), *up_args, *down_args
