# SPDX-License-Identifier: Apache-2.0
"""The work that is measured: operators, a layer and the HSR loss, as callables with their tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

import hsr_kernels as hk

from .parity.call import Call

FORWARD, BOTH = "forward", "forward+backward"
# The backward pass without the forward pass before it, and the backward pass of that one, as R1 and path length have.
BACKWARD, SECOND = "backward", "second order"
# A training step: with all its phases, without R1 (which is rare), and of the two main phases alone (which is usual).
STEP, PATH, MAIN = "step", "step without R1", "step of main phases"
# Training on so many images, with steps of each kind as they are scheduled.
SCHEDULE = "1000 images"
TAPS = hk.setup_filter([1, 3, 3, 1])
_AXIS = torch.arange(12.0) - 5.5
# Low-pass filters along both axes, and by the distance from the centre.
_SINC12 = hk.setup_filter(torch.sinc(_AXIS / 2))
_RADIAL12 = hk.setup_filter(torch.sinc((_AXIS.square() + _AXIS.square()[:, None]).sqrt() / 2))


@dataclass(frozen=True)
class Workload:
    """A callable with its tensors, ready to run.

    Attributes:
        function: Returns a tensor of the shape and layout of `cotangent`.
        inputs: Tensors passed to `function`: activations, which count as saved where backward keeps them.
        parameters: Tensors passed after the inputs: they live anyway, so they never count as saved.
        cotangent: What backward starts from.
        flops: The fewest multiplications and additions of a forward pass, in convolutions and matrix products.
        filter_flops: The fewest of a forward pass in FIRs, whose taps no derivative is taken of.
        calls: The operators in it, as the tests hold them against the float64 reference. Where it is one operator's
            call, inputs and parameters begin with this call's tensors.
        steps: For training, which does its own backward passes: name -> a whole step; then `function` is the part
            of it whose saved memory is counted.
    """

    function: Callable[..., torch.Tensor]
    inputs: Sequence[torch.Tensor]
    parameters: Sequence[torch.Tensor]
    cotangent: torch.Tensor
    flops: float = 0.0
    filter_flops: float = 0.0
    calls: Sequence[Call] = ()
    steps: Mapping[str, Callable[[], None]] = field(default_factory=dict)

    @property
    def is_network(self) -> bool:
        """Whether it is more than one operator's call."""
        return len(self.calls) != 1

    @property
    def leaves(self) -> list[torch.Tensor]:
        """The tensors that derivatives are taken with respect to."""
        return [t for t in (*self.inputs, *self.parameters) if t.requires_grad]


def normal(*shape: int, scale: float = 1.0, grad: bool = True) -> torch.Tensor:
    """Normal random numbers."""
    return (torch.randn(shape) * scale).requires_grad_(grad)


def _fir_flops(images: int, side: int, out: int, taps: int, up: int = 1, *, separable: bool = True) -> float:
    """The fewest multiplications and additions of a FIR: taps on inserted zeros are left out; rows first, then columns.

    Args:
        images: How many planes there are.
        side, out: Of the input and of the output.
        taps: Along each axis.
        up: The factor of upsampling.
        separable: Whether it is done in rows and columns.
    """
    products = taps / up
    return 2.0 * images * (side * out + out**2) * products if separable else 2.0 * images * out**2 * products**2


def fir(
    op: Callable[..., torch.Tensor],
    n: int,
    channels: int,
    side: int,
    layout: torch.memory_format = torch.contiguous_format,
) -> Workload:
    """A FIR operator with the taps [1, 3, 3, 1] on [n, channels, side, side]."""
    taps = TAPS.to(torch.get_default_device())
    out = op(torch.empty(1, 1, side, side, device="cpu"), TAPS).shape[-1]
    x = torch.randn(n, channels, side, side).contiguous(memory_format=layout).requires_grad_()
    cotangent = torch.randn(n, channels, out, out).contiguous(memory_format=layout)
    call = Call(op.__name__, f"benchmark-{side}", {"x": (n, channels, side, side)}, {"f": TAPS})
    flops = _fir_flops(n * channels, side, out, TAPS.shape[0], max(out // side, 1))
    return Workload(op, [x], [taps], cotangent, filter_flops=flops, calls=[call])


def bias_act(
    n: int,
    channels: int,
    side: int,
    layout: torch.memory_format = torch.contiguous_format,
    clamp: float | None = 3.0,
) -> Workload:
    """Bias, leaky ReLU, gain and a clamp that a few percent of the values reach."""
    options: dict[str, Any] = {"act": "lrelu", "clamp": clamp}

    def function(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return hk.bias_act(x, b, **options)

    x = torch.randn(n, channels, side, side).contiguous(memory_format=layout).requires_grad_()
    call = Call("bias_act", f"benchmark-{side}", {"x": (n, channels, side, side), "b": (channels,)}, options)
    return Workload(function, [x], [normal(channels)], torch.randn_like(x), calls=[call])


def filtered_lrelu(
    n: int, channels: int, side: int, radial: bool = False, layout: torch.memory_format = torch.contiguous_format
) -> Workload:
    """The activation of a StyleGAN3 layer to `side` x `side`, with 12 taps; downsampling with a `radial` filter or not.

    The layer's convolution, which isn't part of it, leaves two pixels more.
    """
    filters = {"fu": _SINC12, "fd": _RADIAL12 if radial else _SINC12}
    options: dict[str, Any] = {"up": 2, "down": 2, "padding": (9, 8, 9, 8), "clamp": 256.0}
    fu, fd = (f.to(torch.get_default_device()) for f in filters.values())

    def function(x: torch.Tensor, b: torch.Tensor, fu: torch.Tensor, fd: torch.Tensor) -> torch.Tensor:
        return hk.filtered_lrelu(x, fu, fd, b, **options)

    shape, upsampled = (n, channels, side + 2, side + 2), 2 * side + 10
    x = torch.randn(*shape).contiguous(memory_format=layout).requires_grad_()
    cotangent = torch.randn(n, channels, side, side).contiguous(memory_format=layout)
    call = Call("filtered_lrelu", f"benchmark-{side}", {"x": shape, "b": (channels,)}, filters | options)
    flops = _fir_flops(n * channels, side + 2, upsampled, 12, 2)
    flops += _fir_flops(n * channels, upsampled, side, 12, separable=not radial)
    return Workload(function, [x], [normal(channels), fu, fd], cotangent, filter_flops=flops, calls=[call])


@dataclass(frozen=True)
class ImageOperator:
    """An operator on images that is memory-bound.

    Attributes:
        operator: The public function whose backends decide on which ones it can run.
        details: Its arguments, for titles.
        build: Takes n, channels, side and layout.
        reread: What a backward pass has to read again, as in `Case`.
    """

    operator: str
    details: str
    build: Callable[..., Workload]
    reread: tuple[str, ...] = ()


# By the name of their cases, on CPUs and on GPUs.
IMAGE_OPERATORS = {
    "bias_act": ImageOperator("bias_act", "lrelu + clamp", bias_act, reread=("output",)),
    "upsample2d": ImageOperator("upfirdn2d", "[1,3,3,1]", partial(fir, hk.upsample2d)),
    "downsample2d": ImageOperator("upfirdn2d", "[1,3,3,1]", partial(fir, hk.downsample2d)),
    "filter2d": ImageOperator("upfirdn2d", "[1,3,3,1]", partial(fir, hk.filter2d)),
}


def styled_layer(
    n: int, c_in: int, c_out: int, side: int, up: int, layout: torch.memory_format = torch.contiguous_format
) -> Workload:
    """One layer of the synthesis network, to `side` x `side`."""
    taps = TAPS.to(torch.get_default_device()) if up > 1 else None
    noise = normal(n, 1, side, side, grad=False)
    options: dict[str, Any] = {"up": up, "padding": 1, "act": "lrelu", "clamp": 256.0}

    def function(
        x: torch.Tensor,
        styles: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        strength: torch.Tensor,
    ) -> torch.Tensor:
        return hk.modulated_conv2d(x, weight, styles, noise * strength, resample_filter=taps, bias=bias, **options)

    x = torch.randn(n, c_in, side // up, side // up).contiguous(memory_format=layout).requires_grad_()
    styles = (1 + 0.1 * torch.randn(n, c_in)).requires_grad_()
    strength = torch.tensor(0.1, requires_grad=True)
    cotangent = torch.randn(n, c_out, side, side).contiguous(memory_format=layout)
    parameters = [normal(c_out, c_in, 3, 3), normal(c_out), strength]
    shapes = {"x": (*x.shape,), "styles": (n, c_in), "weight": (c_out, c_in, 3, 3), "bias": (c_out,)}
    shapes |= {"noise": (n, 1, side, side)}
    constants = {"resample_filter": TAPS if up > 1 else None}
    call = Call("modulated_conv2d", f"benchmark-{side}", shapes, constants | options)
    # Upsampling, each of the smaller image's pixels is multiplied by the kernel; demodulation is one more product.
    flops = 2.0 * n * c_in * c_out * (9 * (side // up) ** 2 + 1)
    filter_flops = _fir_flops(n * c_out, side, side, TAPS.shape[0]) if up > 1 else 0.0
    return Workload(function, [x, styles], parameters, cotangent, flops, filter_flops, [call])


def bare_convolution(layer: Workload, up: int, phase: str) -> Callable[[], Any]:
    """Returns a call of the convolution inside a styled layer alone, by cuDNN, in the same dtype and layout."""
    x, weight = layer.inputs[0], layer.parameters[0]
    w = weight.detach().to(x.dtype).to(memory_format=torch.channels_last).requires_grad_()

    def convolve() -> torch.Tensor:
        return F.conv2d(x, w, padding=1) if up == 1 else F.conv_transpose2d(x, w.transpose(0, 1), stride=up)

    if phase == FORWARD:
        return lambda: convolve().detach()
    v = torch.randn_like(convolve())
    return lambda: torch.autograd.grad(convolve(), (x, w), v)


def feature_loss(
    n: int,
    sides: Sequence[int],
    channels: Sequence[int],
    hidden: int,
    dim: int,
    target: int,
    layout: torch.memory_format = torch.contiguous_format,
) -> Workload:
    """The HSR loss over all its scales; `layout` is that of the features."""
    features = [
        normal(n, c, side, side).detach().contiguous(memory_format=layout).requires_grad_()
        for c, side in zip(channels, sides, strict=True)
    ]
    targets = [normal(n, dim, target, target, grad=False) for _ in sides]
    heads = [
        (
            normal(hidden, c, scale=c**-0.5),
            normal(hidden),
            normal(dim, hidden, scale=hidden**-0.5),
            normal(dim),
        )
        for c in channels
    ]
    scales = len(sides)

    def function(*tensors: torch.Tensor) -> torch.Tensor:
        flat = tensors[2 * scales :]
        grouped = [(flat[i], flat[i + 1], flat[i + 2], flat[i + 3]) for i in range(0, len(flat), 4)]
        return hk.feature_projection_loss(tensors[:scales], tensors[scales : 2 * scales], grouped).sum()

    names = [f"{name}.{i}" for name in ("features", "targets") for i in range(scales)]
    names += [f"{name}.{i}" for i in range(scales) for name in ("w1", "b1", "w2", "b2")]
    tensors = [*features, *targets, *(t for head in heads for t in head)]
    shapes = {name: tuple(t.shape) for name, t in zip(names, tensors, strict=True)}
    call = Call("feature_projection_loss", f"benchmark-{hidden}", shapes, {}, tuple(names[scales : 2 * scales]))
    # The hidden layer, then the second one on as few pixels as pooling leaves.
    flops = sum(
        2.0 * n * hidden * (c * side**2 + dim * min(side, target) ** 2) for c, side in zip(channels, sides, strict=True)
    )
    parameters = [t for head in heads for t in head]
    return Workload(function, [*features, *targets], parameters, torch.ones([]), flops, calls=[call])
