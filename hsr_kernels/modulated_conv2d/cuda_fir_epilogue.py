# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernel of a FIR with the epilogue of a modulated layer riding on it."""

import torch

from .. import _native
from .._registry import DTYPE_CODES, NHWC, address, place
from ..upfirdn2d.cuda_impl import as_taps, fir_args, passes_of, run_passes
from ..upfirdn2d.geometry import Geometry, filter_taps, geometry_of
from ..upfirdn2d.passes import FirPass
from .vectors import as_float, stride_of

_LAST = torch.channels_last
_SAME_SIZE = (1, 1)
_TAPS = (4, 4)  # height, width of the filter that the epilogue rides on


def modulated_conv2d_fir_epilogue(
    x, f, up, down, padding, flip_filter, fir_gain, d, noise, b, channels_last, act, alpha, gain, clamp
):
    geometry, f = geometry_of(up, down, padding, flip_filter, fir_gain), as_taps(f)
    size = geometry.output_size(x.shape[2], x.shape[3], filter_taps(f))
    y = torch.empty(
        (*x.shape[:2], *size), dtype=x.dtype, device=x.device,
        memory_format=_LAST if channels_last else torch.contiguous_format,
    )  # fmt: skip
    x = x.contiguous(memory_format=_LAST)
    step = FirPass(geometry, f, filter_taps(f))
    if geometry.up != _SAME_SIZE or geometry.down != _SAME_SIZE or step.taps != _TAPS:
        x = run_passes(x, passes_of(f, geometry, NHWC), NHWC, torch.float32)
        step = FirPass(Geometry(), None, (1, 1))
    d, noise, b = as_float(d), as_float(noise), as_float(b)
    _native.cuda().modulated_conv2d_fir_epilogue(
        x.data_ptr(), *fir_args(step, x.shape, size), DTYPE_CODES[x.dtype], y.data_ptr(), address(d), address(noise),
        stride_of(noise, size[0] * size[1]), address(b), int(channels_last),
        DTYPE_CODES[y.dtype], (act, alpha, gain, clamp), place(x),
    )  # fmt: skip
    return y
