# SPDX-License-Identifier: Apache-2.0
"""What is measured, and what each case must reach."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import hsr_kernels as hk

FORWARD, BOTH, STEP = "forward", "forward+backward", "step"
Size = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """A callable with its tensors, ready to run.

    Attributes:
        function: Gives a tensor of the shape and layout of `cotangent`.
        inputs: Tensors passed to `function`: activations, which count as saved where backward keeps them.
        parameters: Tensors passed after the inputs: they live anyway, so they never count as saved.
        cotangent: What backward starts from.
        step: For a whole training step, which does its own backward passes; then `function` is the part of it
            whose saved memory is counted.
    """

    function: Callable[..., torch.Tensor]
    inputs: Sequence[torch.Tensor]
    parameters: Sequence[torch.Tensor]
    cotangent: torch.Tensor
    step: Callable[[], None] | None = None


@dataclass(frozen=True)
class Target:
    """What a phase must reach; None where nothing is demanded.

    Attributes:
        reference: Times faster than the reference backend.
        compiled: Times faster than `torch.compile` of the reference.
        peak: Peak extra memory, as a fraction of the reference's.
    """

    reference: float | None = None
    compiled: float | None = None
    peak: float | None = None


@dataclass(frozen=True)
class Case:
    """One piece of work at its real size, and at a tiny one that shows only that everything runs.

    Attributes:
        name: What `--case` matches.
        title: The line's name in the table.
        build: Called with `size` or `tiny`.
        targets: The phases to time, and what they must reach.
        measure_peak: Measure peak extra memory too.
        no_compile: Why torch.compile can't run it; empty where it can.
    """

    name: str
    title: str
    build: Callable[..., Workload]
    size: Size
    tiny: Size
    targets: dict[str, Target]
    measure_peak: bool = False
    no_compile: str = ""


def _normal(*shape: int, scale: float = 1.0, grad: bool = True) -> torch.Tensor:
    return (torch.randn(shape) * scale).requires_grad_(grad)


def fir(op: Callable[..., torch.Tensor], n: int, channels: int, side: int) -> Workload:
    """A FIR operator with the taps [1, 3, 3, 1] on [n, channels, side, side]."""
    taps = hk.setup_filter([1, 3, 3, 1])
    out = op(torch.empty(1, 1, side, side), taps).shape[-1]
    return Workload(op, [_normal(n, channels, side, side)], [taps], torch.randn(n, channels, out, out))


def bias_act(n: int, channels: int, side: int) -> Workload:
    """Bias, leaky ReLU, gain and a clamp that a few percent of the values reach."""

    def function(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return hk.bias_act(x, b, act="lrelu", clamp=3.0)

    x = _normal(n, channels, side, side)
    return Workload(function, [x], [_normal(channels)], torch.randn_like(x))


def styled_layer(
    n: int, c_in: int, c_out: int, side: int, up: int, layout: torch.memory_format = torch.contiguous_format
) -> Workload:
    """One layer of the synthesis network, to `side` x `side`."""
    taps = hk.setup_filter([1, 3, 3, 1]) if up > 1 else None
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
    return Workload(function, [x, styles], [_normal(c_out, c_in, 3, 3), _normal(c_out), strength], cotangent)


def feature_loss(n: int, sides: Sequence[int], channels: Sequence[int], hidden: int, dim: int, target: int) -> Workload:
    """The HSR loss over all its scales."""
    features = [_normal(n, c, side, side) for c, side in zip(channels, sides, strict=True)]
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

    return Workload(function, [*features, *targets], [t for head in heads for t in head], torch.ones([]))


def training_step(resolution: int, channel_base: int, channel_max: int, batch: int, latent: int) -> Workload:
    """One step of every phase of StyleGAN2 training without HSR: G main, path length, D main, R1."""
    from hsr.losses import GANLoss
    from hsr.models import Discriminator, Generator

    generator = Generator(latent, 0, latent, resolution, channel_base=channel_base, channel_max=channel_max)
    discriminator = Discriminator(0, resolution, channel_base=channel_base, channel_max=channel_max)
    loss = GANLoss(generator, discriminator, hsr=None, r1_gamma=1.0)
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
    return Workload(generator_main, [z], parameters, torch.ones([]), step)


_FIR, _FIR_TINY = {"n": 4, "channels": 128, "side": 128}, {"n": 1, "channels": 4, "side": 16}
_STYLED = {"n": 8, "c_in": 128, "c_out": 128, "side": 64, "up": 1}
_STYLED_TINY = {"n": 2, "c_in": 4, "c_out": 8, "side": 8, "up": 1}
_STYLED_UP = _STYLED | {"c_in": 256, "up": 2}
_STYLED_UP_TINY = _STYLED_TINY | {"up": 2}
_LAST = {"layout": torch.channels_last}

CASES = (
    Case(
        "upsample2d",
        "upsample2d, [1,3,3,1], 4x128x128x128",
        partial(fir, hk.upsample2d),
        _FIR,
        _FIR_TINY,
        {FORWARD: Target(8.0), BOTH: Target(6.0)},
    ),
    Case(
        "downsample2d",
        "downsample2d, [1,3,3,1], 4x128x128x128",
        partial(fir, hk.downsample2d),
        _FIR,
        _FIR_TINY,
        {FORWARD: Target(), BOTH: Target(4.0)},
    ),
    Case(
        "filter2d",
        "filter2d, [1,3,3,1], 4x128x128x128",
        partial(fir, hk.filter2d),
        _FIR,
        _FIR_TINY,
        {FORWARD: Target(), BOTH: Target(3.0)},
    ),
    Case(
        "bias_act",
        "bias_act, lrelu + clamp, 4x128x128x128",
        bias_act,
        _FIR,
        _FIR_TINY,
        {FORWARD: Target(), BOTH: Target(2.5, compiled=1.0)},
    ),
    Case(
        "styled",
        "styled layer, 128 ch, 8x64x64",
        styled_layer,
        _STYLED,
        _STYLED_TINY,
        {FORWARD: Target(), BOTH: Target(1.3)},
    ),
    Case(
        "styled_up",
        "styled layer, 256 -> 128 ch, up to 8x64x64",
        styled_layer,
        _STYLED_UP,
        _STYLED_UP_TINY,
        {FORWARD: Target(), BOTH: Target(1.5)},
    ),
    Case(
        "styled_channels_last",
        "styled layer, 128 ch, 8x64x64, channels_last",
        styled_layer,
        _STYLED | _LAST,
        _STYLED_TINY | _LAST,
        {FORWARD: Target(), BOTH: Target()},
    ),
    Case(
        "styled_up_channels_last",
        "styled layer, 256 -> 128 ch, up to 8x64x64, channels_last",
        styled_layer,
        _STYLED_UP | _LAST,
        _STYLED_UP_TINY | _LAST,
        {FORWARD: Target(), BOTH: Target()},
    ),
    Case(
        "feature_loss",
        "feature_projection_loss, batch 2, K=4096, D=768, T=14",
        feature_loss,
        {
            "n": 2,
            "sides": (8, 16, 32, 64),
            "channels": (512, 512, 512, 256),
            "hidden": 4096,
            "dim": 768,
            "target": 14,
        },
        {"n": 1, "sides": (4, 8), "channels": (8, 4), "hidden": 32, "dim": 8, "target": 5},
        {FORWARD: Target(), BOTH: Target(2.5, peak=1 / 3)},
        measure_peak=True,
    ),
    Case(
        "training_step",
        "training step at 64x64: G main, path length, D main, R1; batch 8",
        training_step,
        {"resolution": 64, "channel_base": 8192, "channel_max": 256, "batch": 8, "latent": 512},
        {"resolution": 8, "channel_base": 64, "channel_max": 8, "batch": 4, "latent": 8},
        {STEP: Target(1.5)},
        no_compile="R1 and path length differentiate twice, which AOTAutograd does not support",
    ),
)
