# SPDX-License-Identifier: Apache-2.0
"""The work that is measured of whole networks: training steps, and images of a generator."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .parity.call import Call
from .workloads import MAIN, PATH, STEP, TAPS, Workload, normal, styled_layer

if TYPE_CHECKING:
    from hsr.semantics.timm_encoder import TimmEncoder
    from hsr.training.trainer import Trainer

# As in the settings of training.
_LOW_PRECISION_RESOLUTIONS = 4
_LRELU = {"act": "lrelu"}
_HALVED = {"f": TAPS, "down": 2}
# Operators of networks beside the styled layers, on small tensors.
_OF_GENERATORS = (
    Call("bias_act", "mapping", {"x": (4, 33), "b": (33,)}, _LRELU),
    Call("upsample2d", "skip", {"x": (2, 3, 16, 16)}, {"f": TAPS}),
    Call(
        "modulated_conv2d",
        "to-rgb",
        {"x": (2, 8, 8, 8), "styles": (2, 8), "weight": (3, 8, 1, 1), "bias": (3,)},
        {"demodulate": False},
    ),
)
_OF_DISCRIMINATORS = (
    Call("bias_act", "layer", {"x": (2, 16, 16, 16), "b": (16,)}, _LRELU),
    Call("conv2d", "layer", {"input": (2, 8, 8, 8), "weight": (6, 8, 3, 3)}, {"padding": 1}),
    Call("conv2d_resample", "down", {"x": (2, 6, 8, 10), "w": (5, 6, 3, 3)}, _HALVED | {"padding": 1}),
    Call("conv2d_resample", "skip", {"x": (2, 6, 8, 8), "w": (5, 6, 1, 1)}, _HALVED),
)


def _calls(*others: Call) -> list[Call]:
    """The operators that networks consist of."""
    return [*(call for up in (1, 2) for call in styled_layer(2, 4, 8, 8, up).calls), *others]


def training_step(
    resolution: int,
    channel_base: int,
    channel_max: int,
    batch: int,
    latent: int,
    augpipe: str = "",
    bfloat16: bool = False,
) -> Workload:
    """One step of every phase of StyleGAN2 training without HSR: G main, path length, D main, R1.

    All transforms of `augpipe`, one of `hsr.augment.PIPES`, happen to all images that D sees; empty: none. The
    highest resolutions are in bfloat16 where that is wanted, as many as by default in training.
    """
    from hsr.augment import AugmentPipe, pipe_strengths
    from hsr.losses import GANLoss
    from hsr.models import Discriminator, Generator

    shape = _shape(channel_base, channel_max, bfloat16)
    generator = Generator(latent, 0, latent, resolution, **shape)
    discriminator = Discriminator(0, resolution, **shape)
    augment = AugmentPipe(**pipe_strengths(augpipe)) if augpipe else None
    loss = GANLoss(generator, discriminator, hsr=None, r1_gamma=1.0, augment=augment)
    optimizers: dict[torch.nn.Module, torch.optim.Optimizer] = {
        net: torch.optim.Adam(net.parameters(), 0.002, (0.0, 0.99), fused=True) for net in (generator, discriminator)
    }
    z, real = normal(batch, latent, grad=False), normal(batch, 3, resolution, resolution, grad=False)
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
    return Workload(
        generator_main,
        [z],
        parameters,
        torch.ones([]),
        calls=_calls(*_OF_GENERATORS, *_OF_DISCRIMINATORS),
        steps={STEP: step},
    )


def _shape(channel_base: int, channel_max: int, bfloat16: bool = False) -> dict[str, Any]:
    """What networks are given beside their resolution."""
    low = {"mixed_precision_resolutions": _LOW_PRECISION_RESOLUTIONS if bfloat16 else 0}
    fixed = {"low_precision_dtype": torch.bfloat16, "conv_clamp": None}
    return {"channel_base": channel_base, "channel_max": channel_max, **low, **fixed}


def inference(
    resolution: int, channel_base: int, channel_max: int, batch: int, latent: int, bfloat16: bool = False
) -> Workload:
    """Images of a generator, from latent codes, with constant noise."""
    from hsr.models import Generator

    generator = Generator(latent, 0, latent, resolution, **_shape(channel_base, channel_max, bfloat16)).eval()

    def function(z: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return generator(z, None, noise_mode="const")

    parameters = [*generator.parameters(), *generator.buffers()]
    images = torch.empty(batch, 3, resolution, resolution)
    return Workload(function, [normal(batch, latent, grad=False)], parameters, images, calls=_calls(*_OF_GENERATORS))


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
    z = normal(batch, config.z_dim, grad=False)
    return Workload(generator_main, [z], parameters, torch.ones([]), steps=steps)


def _untrained(name: str, device: torch.device) -> "TimmEncoder":
    """Returns a timm backbone with random weights: its speed is that of the trained one."""
    from hsr.semantics.timm_encoder import TimmEncoder
    from hsr.semantics.timm_weights import import_timm

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pt"
        torch.save(import_timm().create_model(name, pretrained=False, num_classes=0).state_dict(), path)
        return TimmEncoder(name, weights=path, device=device)
