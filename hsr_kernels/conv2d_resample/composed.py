# SPDX-License-Identifier: Apache-2.0
"""conv2d_resample from this package's own operators, each of which picks its backend."""

import functools

import torch

from ..conv2d import autograd as _conv2d
from ..upfirdn2d import autograd as _fir
from . import reference


def _pair(function):
    """Lets a stride be an int, as plans have it."""

    @functools.wraps(function)
    def call(x: torch.Tensor, w: torch.Tensor, *, stride: int, padding: tuple[int, int], groups: int):
        return function(x, w, stride=(stride, stride), padding=padding, groups=groups)

    return call


conv2d_resample = functools.partial(
    reference.conv2d_resample,
    fir=_fir.upfirdn2d,
    conv=_pair(_conv2d.conv2d),
    conv_transpose=_pair(_conv2d.conv_transpose2d),
)
