# SPDX-License-Identifier: Apache-2.0
"""A family of three bilinear maps, closed under differentiation, on public PyTorch functions only.

    convolution            y = w * x            dx: transposed convolution,  dw: weight gradient
    transposed convolution y = w^T x            dx: convolution,             dw: weight gradient, roles exchanged
    weight gradient        g(x, dy)             dx: transposed convolution,  d(dy): convolution

Each backward goes through `.apply` of the others, so every order exists, and each order runs as an ordinary
convolution: PyTorch's own double backward instead convolves with image-sized kernels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch.nn.grad import conv2d_weight

from .._dispatch.functions import Function
from . import cpu_impl
from .reference import complete
from .weight_gradients import weight_gradients_disabled

_conv2d = complete(F.conv2d)
_conv_transpose2d = complete(F.conv_transpose2d)


@dataclass(frozen=True)
class ConvolutionOptions:
    """The arguments of a convolution other than its tensors; pairs are (y, x)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    output_padding: tuple[int, int] = (0, 0)

    def transposed(self, image: Sequence[int], out: torch.Size, kernel: torch.Size) -> "ConvolutionOptions":
        """Returns those of the transposed convolution from images of shape `out` to the size that `image` ends with."""
        y, x = (
            image[i] - ((out[i] - 1) * self.stride[i] - 2 * self.padding[i] + self.dilation[i] * (kernel[i] - 1) + 1)
            for i in (-2, -1)
        )
        return replace(self, output_padding=(y, x))

    def without_output_padding(self) -> "ConvolutionOptions":
        return replace(self, output_padding=(0, 0))


@Function
class Conv2d(torch.autograd.Function):
    """y = conv2d(x, w) + b."""

    @staticmethod
    def forward(x, w, b, options):
        return _conv2d(x, w, b, options.stride, options.padding, options.dilation, options.groups)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, w, _, ctx.options = inputs
        ctx.save_for_backward(x, w)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = ConvTranspose2d.apply(dy, w, None, ctx.options.transposed(x.shape, dy.shape, w.shape))
        if ctx.needs_input_grad[1] and not weight_gradients_disabled():
            dw = WeightGradient.apply(x, dy, w.shape, ctx.options)
        if ctx.needs_input_grad[2]:
            db = dy.sum([0, 2, 3])
        return dx, dw, db, None


@Function
class ConvTranspose2d(torch.autograd.Function):
    """y = conv_transpose2d(x, w) + b; also the input gradient of a convolution."""

    @staticmethod
    def forward(x, w, b, options):
        if cpu_impl.is_faster(x, w, options):
            return cpu_impl.conv_transpose2d(x, w, b, options)
        return _conv_transpose2d(
            x, w, b, options.stride, options.padding, options.output_padding, options.groups, options.dilation
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, w, _, ctx.options = inputs
        ctx.save_for_backward(x, w)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = Conv2d.apply(dy, w, None, ctx.options.without_output_padding())
        if ctx.needs_input_grad[1] and not weight_gradients_disabled():
            dw = WeightGradient.apply(dy, x, w.shape, ctx.options.without_output_padding())
        if ctx.needs_input_grad[2]:
            db = dy.sum([0, 2, 3])
        return dx, dw, db, None


@Function
class WeightGradient(torch.autograd.Function):
    """dw of a convolution from its input x and the gradient dy of its output."""

    @staticmethod
    def forward(x, dy, shape, options):
        return conv2d_weight(x, shape, dy, options.stride, options.padding, options.dilation, options.groups)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, dy, _, ctx.options = inputs
        ctx.save_for_backward(x, dy)

    @staticmethod
    def backward(ctx, ddw):
        x, dy = ctx.saved_tensors
        dx = ddy = None
        if ctx.needs_input_grad[0]:
            dx = ConvTranspose2d.apply(dy, ddw, None, ctx.options.transposed(x.shape, dy.shape, ddw.shape))
        if ctx.needs_input_grad[1]:
            ddy = Conv2d.apply(x, ddw, None, ctx.options)
        return dx, ddy, None, None


def conv2d(x, w, b=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    """Computes torch.nn.functional.conv2d, whose arguments it takes, with pairs given as pairs."""
    return Conv2d.apply(x, w, b, ConvolutionOptions(stride, padding, dilation, groups))


def conv_transpose2d(x, w, b=None, stride=(1, 1), padding=(0, 0), output_padding=(0, 0), groups=1, dilation=(1, 1)):
    """Computes torch.nn.functional.conv_transpose2d, whose arguments it takes, with pairs given as pairs."""
    return ConvTranspose2d.apply(x, w, b, ConvolutionOptions(stride, padding, dilation, groups, output_padding))
