# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels of upfirdn2d: any strides of the filter; images contiguous or channels_last, others are copied."""

from collections.abc import Callable

import torch

from .._dispatch import native
from .._tensors import DTYPE_CODES, NCHW, NHWC, dense_image, device_and_stream, stream
from .geometry import Geometry, filter_taps, geometry_of
from .passes import FirPass, along_each_axis

Launch = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]

_FORMATS = {NCHW: torch.contiguous_format, NHWC: torch.channels_last}
# An outer product of no more taps along an axis is multiplied out and applied in one pass.
_MAX_OUTER_TAPS = 4
# The kernels that work on tiles have these (up, down).
_TILED_FACTORS = (((1, 1), (1, 1)), ((2, 2), (1, 1)), ((1, 1), (2, 2)))
# On contiguous images they apply an outer product of this many taps along both axes in one pass.
_TILED_OUTER_TAPS = 12


def fir_args(fir_pass: FirPass, shape: torch.Size, size: tuple[int, int]) -> tuple:
    """Returns (filter, sizes, factors and padding) of a pass over images, as the native functions take them.

    Args:
        fir_pass: The pass.
        shape: [N, C, H, W], that of its input.
        size: (H', W') of its output.
    """
    g = fir_pass.geometry
    f, *f_layout = fir_pass.filter_args
    height, width = fir_pass.taps
    pad_x, _, pad_y, _ = g.padding
    if f is None:
        taps = (0, 1, 1, False, 0, 0, 0, g.gain)
    else:
        taps = (f.data_ptr(), width, height, f.ndim == 1, *f_layout, g.gain)
    return taps, (*shape, *size), (*g.up, *g.down, pad_x, pad_y)


def as_taps(f: torch.Tensor | None) -> torch.Tensor | None:
    """Returns the filter as the kernels read it; its strides don't matter."""
    return f if f is None or f.dtype == torch.float32 else f.float()


def passes_of(f: torch.Tensor | None, geometry: Geometry, layout: int) -> list[FirPass]:
    """Returns the launches that a call takes: two for an axis of many taps, unless a kernel has both axes at once.

    Args:
        f: As `as_taps` returns it.
        geometry: That of the call.
        layout: NCHW or NHWC.
    """
    single = FirPass(geometry, f, filter_taps(f))
    if f is None or f.ndim == 2 or f.shape[0] <= _MAX_OUTER_TAPS:
        return [single]
    if layout == NCHW and f.shape[0] == _TILED_OUTER_TAPS and (geometry.up, geometry.down) in _TILED_FACTORS:
        return [single]
    return along_each_axis(single)


def run_passes(x: torch.Tensor, passes: list[FirPass], layout: int, dtype: torch.dtype) -> torch.Tensor:
    """Runs passes over dense images of a layout, which is kept; returns the output of the last one, in `dtype`."""
    launch = native.cuda().upfirdn2d
    memory_format = _FORMATS[layout]
    for i, fir_pass in enumerate(passes, start=1):
        shape = x.shape
        size = fir_pass.geometry.output_size(shape[2], shape[3], fir_pass.taps)
        y = torch.empty(
            (shape[0], shape[1], *size), dtype=dtype if i == len(passes) else torch.float32, device=x.device,
            memory_format=memory_format,
        )  # fmt: skip
        launch(
            x.data_ptr(), y.data_ptr(), *fir_args(fir_pass, shape, size), layout, DTYPE_CODES[x.dtype],
            DTYPE_CODES[y.dtype], device_and_stream(x),
        )  # fmt: skip
        x = y
    return x


def upfirdn2d(x, f, up, down, padding, flip_filter, gain):
    x, layout = dense_image(x)
    geometry = geometry_of(up, down, padding, flip_filter, gain)
    return run_passes(x, passes_of(as_taps(f), geometry, layout), layout, x.dtype)


def prepare_launch(x: torch.Tensor, f: torch.Tensor | None, geometry: Geometry) -> Launch | None:
    """Returns a launch for tensors like these; None where they would have to be copied, or take two launches."""
    images, layout = dense_image(x)
    if images is not x or not x.numel() or (f is not None and f.dtype != torch.float32):
        return None
    passes = passes_of(f, geometry, layout)
    if len(passes) > 1:
        return None
    run, device_index, dtype_code = native.cuda().upfirdn2d, x.get_device(), DTYPE_CODES[x.dtype]
    size = geometry.output_size(x.shape[2], x.shape[3], filter_taps(f))
    (_, *taps), sizes, resampling = fir_args(passes[0], x.shape, size)
    shape, dtype, device, memory_format = sizes[:2] + size, x.dtype, x.device, _FORMATS[layout]

    def launch(x: torch.Tensor, f: torch.Tensor | None) -> torch.Tensor:
        y = torch.empty(shape, dtype=dtype, device=device, memory_format=memory_format)
        filter = (0 if f is None else f.data_ptr(), *taps)
        run(
            x.data_ptr(), y.data_ptr(), filter, sizes, resampling, layout, dtype_code, dtype_code,
            (device_index, stream(device_index)),
        )  # fmt: skip
        return y

    return launch
