# SPDX-License-Identifier: Apache-2.0
"""The work that is measured: operators, a layer, the HSR loss and training steps, as callables with their tensors."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

import hsr_kernels as hk

if TYPE_CHECKING:
    from hsr.semantics.timm_encoder import TimmEncoder
    from hsr.training.trainer import Trainer

FORWARD, BOTH = "forward", "forward+backward"
# A training step: with all its phases, without R1 (which is rare), and of the two main phases alone (which is usual).
STEP, PATH, MAIN = "step", "step without R1", "step of main phases"
# Training on so many images, with steps of each kind as they are scheduled.
SCHEDULE = "1000 images"
_TAPS = hk.setup_filter([1, 3, 3, 1])
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
        steps: For training, which does its own backward passes: name -> a whole step; then `function` is the part
            of it whose saved memory is counted.
    """

    function: Callable[..., torch.Tensor]
    inputs: Sequence[torch.Tensor]
    parameters: Sequence[torch.Tensor]
    cotangent: torch.Tensor
    flops: float = 0.0
    steps: Mapping[str, Callable[[], None]] = field(default_factory=dict)


def _normal(*shape: int, scale: float = 1.0, grad: bool = True) -> torch.Tensor:
    return (torch.randn(shape) * scale).requires_grad_(grad)


def fir(
    op: Callable[..., torch.Tensor],
    n: int,
    channels: int,
    side: int,
    layout: torch.memory_format = torch.contiguous_format,
) -> Workload:
    """A FIR operator with the taps [1, 3, 3, 1] on [n, channels, side, side]."""
    taps = _TAPS.to(torch.get_default_device())
    out = op(torch.empty(1, 1, side, side, device="cpu"), _TAPS).shape[-1]
    x = torch.randn(n, channels, side, side).contiguous(memory_format=layout).requires_grad_()
    return Workload(op, [x], [taps], torch.randn(n, channels, out, out).contiguous(memory_format=layout))


def bias_act(n: int, channels: int, side: int, layout: torch.memory_format = torch.contiguous_format) -> Workload:
    """Bias, leaky ReLU, gain and a clamp that a few percent of the values reach."""

    def function(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return hk.bias_act(x, b, act="lrelu", clamp=3.0)

    x = torch.randn(n, channels, side, side).contiguous(memory_format=layout).requires_grad_()
    return Workload(function, [x], [_normal(channels)], torch.randn_like(x))


def filtered_lrelu(
    n: int, channels: int, side: int, radial: bool = False, layout: torch.memory_format = torch.contiguous_format
) -> Workload:
    """The activation of a StyleGAN3 layer to `side` x `side`, with 12 taps; downsampling with a `radial` filter or not.

    The layer's convolution, which isn't part of it, leaves two pixels more.
    """
    fu, fd = (f.to(torch.get_default_device()) for f in (_SINC12, _RADIAL12 if radial else _SINC12))

    def function(x: torch.Tensor, b: torch.Tensor, fu: torch.Tensor, fd: torch.Tensor) -> torch.Tensor:
        return hk.filtered_lrelu(x, fu, fd, b, up=2, down=2, padding=(9, 8, 9, 8), clamp=256.0)

    x = torch.randn(n, channels, side + 2, side + 2).contiguous(memory_format=layout).requires_grad_()
    cotangent = torch.randn(n, channels, side, side).contiguous(memory_format=layout)
    return Workload(function, [x], [_normal(channels), fu, fd], cotangent)


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
    taps = _TAPS.to(torch.get_default_device()) if up > 1 else None
    noise = _normal(n, 1, side, side, grad=False)

    def function(
        x: torch.Tensor,
        styles: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        strength: torch.Tensor,
    ) -> torch.Tensor:
        return hk.modulated_conv2d(
            x,
            weight,
            styles,
            noise * strength,
            up=up,
            padding=1,
            resample_filter=taps,
            bias=bias,
            act="lrelu",
            clamp=256.0,
        )

    x = torch.randn(n, c_in, side // up, side // up).contiguous(memory_format=layout).requires_grad_()
    styles = (1 + 0.1 * torch.randn(n, c_in)).requires_grad_()
    strength = torch.tensor(0.1, requires_grad=True)
    cotangent = torch.randn(n, c_out, side, side).contiguous(memory_format=layout)
    parameters = [_normal(c_out, c_in, 3, 3), _normal(c_out), strength]
    # Upsampling, each of the smaller image's pixels is multiplied by the kernel; demodulation is one more product.
    flops = 2.0 * n * c_in * c_out * (9 * (side // up) ** 2 + 1)
    return Workload(function, [x, styles], parameters, cotangent, flops)


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
        _normal(n, c, side, side).detach().contiguous(memory_format=layout).requires_grad_()
        for c, side in zip(channels, sides, strict=True)
    ]
    targets = [_normal(n, dim, target, target, grad=False) for _ in sides]
    heads = [
        (
            _normal(hidden, c, scale=c**-0.5),
            _normal(hidden),
            _normal(dim, hidden, scale=hidden**-0.5),
            _normal(dim),
        )
        for c in channels
    ]
    scales = len(sides)

    def function(*tensors: torch.Tensor) -> torch.Tensor:
        flat = tensors[2 * scales :]
        grouped = [(flat[i], flat[i + 1], flat[i + 2], flat[i + 3]) for i in range(0, len(flat), 4)]
        return hk.feature_projection_loss(tensors[:scales], tensors[scales : 2 * scales], grouped).sum()

    # The hidden layer, then the second one on as few pixels as pooling leaves.
    flops = sum(
        2.0 * n * hidden * (c * side**2 + dim * min(side, target) ** 2) for c, side in zip(channels, sides, strict=True)
    )
    return Workload(function, [*features, *targets], [t for head in heads for t in head], torch.ones([]), flops)


def training_step(
    resolution: int, channel_base: int, channel_max: int, batch: int, latent: int, augpipe: str = ""
) -> Workload:
    """One step of every phase of StyleGAN2 training without HSR: G main, path length, D main, R1.

    All transforms of `augpipe`, one of `hsr.augment.PIPES`, happen to all images that D sees; empty: none.
    """
    from hsr.augment import AugmentPipe, pipe_strengths
    from hsr.losses import GANLoss
    from hsr.models import Discriminator, Generator

    shape: dict[str, Any] = {
        "channel_base": channel_base,
        "channel_max": channel_max,
        "mixed_precision_resolutions": 0,
        "conv_clamp": None,
    }
    generator = Generator(latent, 0, latent, resolution, **shape)
    discriminator = Discriminator(0, resolution, **shape)
    augment = AugmentPipe(**pipe_strengths(augpipe)) if augpipe else None
    loss = GANLoss(generator, discriminator, hsr=None, r1_gamma=1.0, augment=augment)
    optimizers: dict[torch.nn.Module, torch.optim.Optimizer] = {
        net: torch.optim.Adam(net.parameters(), 0.002, (0.0, 0.99)) for net in (generator, discriminator)
    }
    z, real = _normal(batch, latent, grad=False), _normal(batch, 3, resolution, resolution, grad=False)
    phases: list[tuple[torch.nn.Module, Callable[[], torch.Tensor]]] = [
        (generator, lambda: loss.generator_main(z, None)[0]),
        (generator, lambda: loss.generator_path_length(z, None)[0]),
        (discriminator, lambda: loss.discriminator_main(real, None, z, None)[0]),
        (discriminator, lambda: loss.discriminator_r1(real, None)[0]),
    ]

    def train(network: torch.nn.Module) -> None:
        for other in optimizers:
            other.requires_grad_(other is network)

    def step() -> None:
        for network, objective in phases:
            train(network)
            optimizers[network].zero_grad(set_to_none=True)
            objective().backward()
            optimizers[network].step()

    def generator_main(z: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        train(generator)
        return loss.generator_main(z, None)[0]

    parameters = [t for net in optimizers for t in (*net.parameters(), *net.buffers())]
    return Workload(generator_main, [z], parameters, torch.ones([]), steps={STEP: step})


@dataclass(frozen=True)
class _Noise:
    """What a trainer asks of a data set, for images of noise; the data sets of `hsr.data` need an image library."""

    resolution: int
    classes: tuple[int, ...] = ()
    labels: None = None


def trainer(resolution: int, batch: int, encoder: str, **changes: Any) -> "Trainer":
    """Returns a trainer in the settings of the preset paper256, on images without classes; see `training`."""
    from hsr.config import preset
    from hsr.training.trainer import Trainer

    device = torch.get_default_device()
    settings: dict[str, Any] = {"batch": batch, "hsr_weight": 1.0 if encoder else 0.0, "hsr_precision": "bfloat16"}
    # A captured phase would run on the backend of its capture, whatever is asked for later.
    settings |= {"cuda_graphs": "off", **changes}
    config = replace(preset("paper256", resolution, device.type), **settings)
    noise: Any = _Noise(resolution)
    return Trainer(config, noise, _untrained(encoder, device) if encoder else None, device)


def training(resolution: int, batch: int, encoder: str, **changes: Any) -> Workload:
    """Steps of the trainer in the settings of the preset paper256, on images of noise.

    Args:
        resolution, batch: Of the images.
        encoder: A timm model's name for HSR in bfloat16 with that model, untrained; empty for training without HSR.
        changes: Other settings.
    """
    trained = trainer(resolution, batch, encoder, **changes)
    config = trained.config
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 3, resolution, resolution), dtype=np.uint8)
    images = torch.from_numpy(pixels).to(trained.device)
    labels = torch.zeros(batch, dtype=torch.int64)

    def step(number: int) -> Callable[[], None]:
        def run() -> None:
            # The number decides on the phases.
            trained.steps = number
            trained.step(images, labels)

        return run

    def generator_main(z: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        trained.G.requires_grad_(True)
        return trained.loss.generator_main(z, None)[0]

    assert config.r1_interval % config.path_length_interval == 0 and config.path_length_interval > 1
    steps = {STEP: step(0), PATH: step(config.path_length_interval), MAIN: step(1)}
    parameters = [t for net in trained.modules().values() for t in (*net.parameters(), *net.buffers())]
    z = _normal(batch, config.z_dim, grad=False)
    return Workload(generator_main, [z], parameters, torch.ones([]), steps=steps)


def _untrained(name: str, device: torch.device) -> "TimmEncoder":
    """Returns a timm backbone with random weights: its speed is that of the trained one."""
    from hsr.semantics.timm_encoder import TimmEncoder
    from hsr.semantics.timm_weights import import_timm

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pt"
        torch.save(import_timm().create_model(name, pretrained=False, num_classes=0).state_dict(), path)
        return TimmEncoder(name, weights=path, device=device)
