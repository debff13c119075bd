# SPDX-License-Identifier: Apache-2.0
"""The native CPU kernel of upfirdn2d: polyphase, separable wherever the filter is, contiguous or channels_last."""

import numpy as np
import torch

from .._dispatch import native
from .._tensors import DTYPE_CODES, address, dense_image, image_format
from .geometry import Geometry, filter_taps, geometry_of


def prepare_taps(f: torch.Tensor | None, flip_filter: bool, gain: float, dtype: torch.dtype) -> tuple[np.ndarray, bool]:
    """Returns the taps in float64 as a correlation with the gain folded in, and whether the filter is separable.

    Returns:
        (rows of a [height, width] filter, False) or (column taps followed by row taps, True).
    """
    if f is None:
        return np.array([gain, 1.0]), True
    taps = f.detach().double().numpy()
    if not flip_filter:
        taps = np.flip(taps)
    if taps.ndim == 1:
        return np.concatenate([taps * gain, taps]), True
    y, x = np.unravel_index(np.abs(taps).argmax(), taps.shape)
    if taps[y, x] == 0:
        return np.zeros(sum(taps.shape)), True
    column, row = taps[:, x], taps[y] / taps[y, x]
    # A rank-1 filter in float32 carries rounding of that size: for images of at most that precision it is separable.
    rounding = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    if np.abs(np.outer(column, row) - taps).max() <= 2 * rounding * abs(taps[y, x]):
        return np.concatenate([column * gain, row]), True
    return np.ascontiguousarray(taps * gain), False


def fir_args(x: torch.Tensor, f: torch.Tensor | None, geometry: Geometry, size: tuple[int, int]):
    """Returns (taps, filter, sizes, factors and padding): a native function takes all but the taps.

    The filter holds the address of the taps, which must live until that function returns.

    Args:
        x: Images [N, C, H, W].
        f: None, [taps] or [height, width].
        geometry: That of the call.
        size: (H', W') of its output.
    """
    taps, separable = prepare_taps(f, geometry.flip_filter, geometry.gain, x.dtype)
    height, width = filter_taps(f)
    x0, _, y0, _ = geometry.padding
    return (
        taps,
        (taps.ctypes.data, width, height, separable),
        (*x.shape, *size),
        (*geometry.up, *geometry.down, x0, y0),
    )


def upfirdn2d(x, f, up, down, padding, flip_filter, gain):
    geometry = geometry_of(up, down, padding, flip_filter, gain)
    size = geometry.output_size(x.shape[2], x.shape[3], filter_taps(f))
    y = torch.empty((*x.shape[:2], *size), dtype=x.dtype, memory_format=image_format(x))
    x, layout = dense_image(x)
    taps, *args = fir_args(x, f, geometry, size)
    native.cpu().upfirdn2d(address(x), address(y), *args, layout, DTYPE_CODES[x.dtype], torch.get_num_threads())
    # args hold their address, so the taps must live until here.
    del taps
    return y
