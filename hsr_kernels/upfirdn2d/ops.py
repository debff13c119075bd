# SPDX-License-Identifier: Apache-2.0
"""The native operator of upfirdn2d that its backends implement."""

import torch

from .._dispatch.library import define
from .._tensors import image_format
from .geometry import filter_taps, geometry_of


def _fake_upfirdn2d(x, f, up, down, padding, flip_filter, gain):
    geometry = geometry_of(up, down, padding, flip_filter, gain)
    size = geometry.output_size(x.shape[2], x.shape[3], filter_taps(f))
    return torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=image_format(x))


upfirdn2d = define(
    "upfirdn2d(Tensor x, Tensor? f, int[] up, int[] down, int[] padding, bool flip_filter, float gain) -> Tensor",
    __package__,
    fake=_fake_upfirdn2d,
)
