# SPDX-License-Identifier: Apache-2.0
"""What is measured, and what each case must reach."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

import hsr_kernels as hk

FORWARD, BOTH, STEP = "forward", "forward+backward", "step"
Size = dict[str, Any]
_TAPS = hk.setup_filter([1, 3, 3, 1])


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
        copy: Bandwidth over the fewest bytes that can be moved, as a fraction of a device copy's.
    """

    reference: float | None = None
    compiled: float | None = None
    peak: float | None = None
    copy: float | None = None


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
        dtype: Of the inputs and of what backward starts from; parameters are float32, as training has them.
        reread: What a backward pass has to read again: "inputs", "parameters", "output".
    """

    name: str
    title: str
    build: Callable[..., Workload]
    size: Size
    tiny: Size
    targets: dict[str, Target]
    measure_peak: bool = False
    no_compile: str = ""
    dtype: torch.dtype = torch.float32
    reread: tuple[str, ...] = ()

    def workload(self, *, tiny: bool = False, device: str = "cpu") -> Workload:
        """Builds the work on a device."""
        with torch.device(device):
            work = self.build(**(self.tiny if tiny else self.size))

        def cast(t: torch.Tensor) -> torch.Tensor:
            return t.detach().to(self.dtype).requires_grad_(t.requires_grad)

        if self.dtype == torch.float32:
            return work
        # A loss is float32 whatever its inputs are.
        cotangent = work.cotangent if work.cotangent.ndim == 0 else cast(work.cotangent)
        return replace(work, inputs=[cast(t) for t in work.inputs], cotangent=cotangent)


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


def training_step(
    resolution: int, channel_base: int, channel_max: int, batch: int, latent: int, low_precision: int = 0
) -> Workload:
    """One step of every phase of StyleGAN2 training without HSR: G main, path length, D main, R1.

    On CUDA the `low_precision` highest resolutions run in float16.
    """
    from hsr.losses import GANLoss
    from hsr.models import Discriminator, Generator

    shape: dict[str, Any] = {
        "channel_base": channel_base,
        "channel_max": channel_max,
        "mixed_precision_resolutions": low_precision,
        "conv_clamp": 256.0 if low_precision else None,
    }
    generator = Generator(latent, 0, latent, resolution, **shape)
    discriminator = Discriminator(0, resolution, **shape)
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

_GPU_FIR = {"n": 8, "channels": 128, "side": 256}
# Layers of a generator with 32768 / resolution channels: (resolution, channels in, channels out, batch).
_GPU_LAYERS = ((128, 512, 256, 8), (256, 256, 128, 8), (512, 128, 64, 4), (1024, 64, 32, 4))
_HSR = {"sides": (8, 16, 32, 64), "channels": (512, 512, 512, 512), "hidden": 4096, "dim": 768, "target": 14}
_HSR_TINY = {"n": 1, "sides": (4, 8), "channels": (8, 4), "hidden": 32, "dim": 8, "target": 5}
_LAYOUTS = {"": torch.contiguous_format, ", channels_last": torch.channels_last}


def _short(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]


def _gpu_memory_bound() -> Iterator[Case]:
    for name, op in (("upsample2d", hk.upsample2d), ("downsample2d", hk.downsample2d), ("filter2d", hk.filter2d)):
        size = _GPU_FIR | ({"side": 128} if name == "upsample2d" else {})
        for dtype in (torch.float32, torch.bfloat16):
            for suffix, layout in _LAYOUTS.items():
                yield Case(
                    f"{name}_{_short(dtype)}{'_last' if suffix else ''}",
                    f"{name}, [1,3,3,1], 8x128x{size['side']}x{size['side']}, {_short(dtype)}{suffix}",
                    partial(fir, op),
                    size | {"layout": layout},
                    _FIR_TINY | {"layout": layout},
                    {FORWARD: Target(copy=0.9), BOTH: Target(copy=0.9)},
                    dtype=dtype,
                )
    for dtype in (torch.float32, torch.bfloat16):
        for suffix, layout in _LAYOUTS.items():
            yield Case(
                f"bias_act_{_short(dtype)}{'_last' if suffix else ''}",
                f"bias_act, lrelu + clamp, 8x128x256x256, {_short(dtype)}{suffix}",
                bias_act,
                _GPU_FIR | {"layout": layout},
                _FIR_TINY | {"layout": layout},
                {FORWARD: Target(copy=0.9), BOTH: Target(copy=0.9)},
                dtype=dtype,
                reread=("output",),
            )


def _gpu_layers() -> Iterator[Case]:
    for side, c_in, c_out, n in _GPU_LAYERS:
        for up in (1, 2):
            size = {"n": n, "c_in": c_in if up == 2 else c_out, "c_out": c_out, "side": side, "up": up} | _LAST
            yield Case(
                f"styled{'_up' if up == 2 else ''}_{side}",
                f"styled layer, {size['c_in']} -> {c_out} ch, {'up to ' if up == 2 else ''}{n}x{side}x{side}, fp16",
                styled_layer,
                size,
                (_STYLED_UP_TINY if up == 2 else _STYLED_TINY) | _LAST,
                {FORWARD: Target(), BOTH: Target(1.5, compiled=1.2)},
                dtype=torch.float16,
                reread=("inputs", "parameters", "output"),
            )


GPU_CASES = (
    *_gpu_memory_bound(),
    *_gpu_layers(),
    *(
        Case(
            f"feature_loss_{_short(dtype)}",
            f"feature_projection_loss, batch 16, K=4096, D=768, T=14, {_short(dtype)}",
            feature_loss,
            _HSR | {"n": 16},
            _HSR_TINY,
            {FORWARD: Target(), BOTH: Target(3.0, peak=0.1)},
            measure_peak=True,
            dtype=dtype,
            reread=("inputs", "parameters"),
        )
        for dtype in (torch.float32, torch.bfloat16)
    ),
    Case(
        "training_step_256",
        "training step at 256x256 (paper256): G main, path length, D main, R1; batch 32, fp16 in 4 resolutions",
        training_step,
        {"resolution": 256, "channel_base": 16384, "channel_max": 512, "batch": 32, "latent": 512, "low_precision": 4},
        {"resolution": 8, "channel_base": 64, "channel_max": 8, "batch": 4, "latent": 8, "low_precision": 1},
        {STEP: Target(1.5)},
        no_compile="R1 and path length differentiate twice, which AOTAutograd does not support",
    ),
)
