# SPDX-License-Identifier: Apache-2.0
"""The specification of upfirdn2d: plain PyTorch, differentiable to any order."""

import torch
import torch.nn.functional as F

from .geometry import Geometry


def upfirdn2d(x: torch.Tensor, f: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
    """Inserts zeros, pads or crops, filters, keeps every down-th pixel. See `hsr_kernels.upfirdn2d`."""
    n, c, h, w = x.shape
    (upx, upy), (downx, downy) = geometry.up, geometry.down
    if upx > 1 or upy > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, upx - 1, 0, 0, 0, upy - 1]).reshape(n, c, h * upy, w * upx)
    x0, x1, y0, y1 = geometry.padding
    if any(geometry.padding):
        x = F.pad(x, [max(pad, 0) for pad in geometry.padding])
        x = x[:, :, max(-y0, 0) : x.shape[2] - max(-y1, 0), max(-x0, 0) : x.shape[3] - max(-x1, 0)]
    if f is not None:
        x = _filter(x, f, geometry)
    elif geometry.gain != 1:
        x = x * geometry.gain
    if downx > 1 or downy > 1:
        x = x[:, :, ::downy, ::downx]
    return x


def _filter(x: torch.Tensor, f: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Filters each channel; a 1-D filter runs along both axes."""
    channels = x.shape[1]
    f = f.to(torch.promote_types(f.dtype, x.dtype))
    if not geometry.flip_filter:
        # conv2d correlates, so a convolution flips the taps.
        f = f.flip(list(range(f.ndim)))
    if channels == 0:
        # conv2d doesn't take zero groups.
        return x[:, :, f.shape[0] - 1 :, f.shape[-1] - 1 :]
    kernels = [f * geometry.gain] if f.ndim == 2 else [f[None, :] * geometry.gain, f[:, None]]
    # In float16 PyTorch's own convolution by 15 taps or more never returns on CPUs with AMX.
    dtype = torch.float32 if x.dtype == torch.float16 and x.device.type == "cpu" else x.dtype
    for kernel in kernels:
        weight = kernel.to(x.dtype).to(dtype).expand(channels, 1, *kernel.shape)
        x = F.conv2d(x.to(dtype), weight, groups=channels).to(x.dtype)
    return x
