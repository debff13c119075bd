# SPDX-License-Identifier: Apache-2.0
"""Networks, optimizers and one training step."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..config import Config
from ..data import ImageDataset, one_hot, to_float
from ..losses import GANLoss
from ..models import Discriminator, Generator
from ..semantics.encoders import Encoder
from ..semantics.regularizer import SemanticRegularizer
from .ema import ema_decay, update_ema


def build_generator(config: Config, resolution: int, c_dim: int) -> Generator:
    """Makes an untrained generator for images of `resolution` pixels and `c_dim` classes."""
    return Generator(
        config.z_dim,
        c_dim,
        config.w_dim,
        resolution,
        mapping_layers=config.mapping_layers,
        channel_base=config.channel_base,
        channel_max=config.channel_max,
        mixed_precision_resolutions=config.mixed_precision_resolutions,
        conv_clamp=config.conv_clamp,
    )


def build_discriminator(config: Config, resolution: int, c_dim: int) -> Discriminator:
    """Makes an untrained discriminator for images of `resolution` pixels and `c_dim` classes."""
    return Discriminator(
        c_dim,
        resolution,
        channel_base=config.channel_base,
        channel_max=config.channel_max,
        minibatch_std_group=config.minibatch_std_group,
        mapping_layers=config.mapping_layers,
        mixed_precision_resolutions=config.mixed_precision_resolutions,
        conv_clamp=config.conv_clamp,
    )


class Trainer:
    """The networks in training and their optimizers.

    Regularization runs lazily (Karras et al. 2020, appendix B): every `interval` steps, weighted by
    `interval`, with Adam's learning rate and betas corrected for the additional steps.

    Args:
        config: Settings; the global random generators must be seeded already.
        dataset: Images to train on; gives resolution and classes.
        encoder: Frozen encoder, or None for the baseline.
        device: Where the networks live.

    Attributes:
        steps: Training steps done.
        images_seen: Real images shown so far.
    """

    def __init__(self, config: Config, dataset: ImageDataset, encoder: Encoder | None, device: torch.device):
        self.config = config
        self.device = device
        self.c_dim = dataset.num_classes if config.conditional else 0
        self._labels = torch.from_numpy(dataset.labels) if self.c_dim and dataset.labels is not None else None
        self.G = build_generator(config, dataset.resolution, self.c_dim).to(device)
        self.D = build_discriminator(config, dataset.resolution, self.c_dim).to(device)
        self.hsr = None
        if encoder is not None and config.hsr_weight > 0:
            precision = torch.bfloat16 if config.hsr_precision == "bfloat16" else None
            self.hsr = SemanticRegularizer(encoder, self.G, config.hsr_hidden, precision).to(device)
        self.G_ema = copy.deepcopy(self.G).eval().requires_grad_(False)
        self.loss = GANLoss(
            self.G,
            self.D,
            hsr=self.hsr,
            hsr_weight=config.hsr_weight,
            r1_gamma=config.gamma,
            pl_weight=config.path_length_weight,
            style_mixing_prob=config.style_mixing,
        ).to(device)
        generator_side = [*self.G.parameters(), *(self.hsr.parameters() if self.hsr is not None else ())]
        self.opt_G = self._adam(generator_side, config.path_length_interval)
        self.opt_D = self._adam(list(self.D.parameters()), config.r1_interval)
        self.steps = 0
        self.images_seen = 0

    def _adam(self, parameters: list[nn.Parameter], interval: int) -> torch.optim.Adam:
        correction = interval / (interval + 1)
        betas = (self.config.beta1**correction, self.config.beta2**correction)
        rate = self.config.learning_rate * correction
        return torch.optim.Adam(parameters, lr=rate, betas=betas, eps=1e-8, fused=True)

    def modules(self) -> dict[str, nn.Module]:
        """Returns the networks whose weights make up a checkpoint, by their name in it."""
        named: dict[str, nn.Module] = {"G": self.G, "D": self.D, "G_ema": self.G_ema}
        return named if self.hsr is None else named | {"hsr": self.hsr}

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Trains on one batch.

        Args:
            images: Real images, [N, 3, R, R] uint8.
            labels: Their classes, [N] int64.

        Returns:
            Scalar statistics by name.
        """
        config = self.config
        real = to_float(images.to(self.device))
        real_c = self._one_hot(labels)
        n = len(images)
        with self._phase(self.G, self.D, self.opt_G):
            loss, stats = self.loss.generator_main(*self._latents(n))
            loss.backward()
        if config.path_length_weight > 0 and self.steps % config.path_length_interval == 0:
            with self._phase(self.G, self.D, self.opt_G):
                loss, more = self.loss.generator_path_length(*self._latents(n))
                (loss * config.path_length_interval).backward()
            stats |= more
        with self._phase(self.D, self.G, self.opt_D):
            loss, more = self.loss.discriminator_main(real, real_c, *self._latents(n))
            loss.backward()
        stats |= more
        if config.gamma > 0 and self.steps % config.r1_interval == 0:
            with self._phase(self.D, self.G, self.opt_D):
                loss, more = self.loss.discriminator_r1(real, real_c)
                (loss * config.r1_interval).backward()
            stats |= more
        self.steps += 1
        self.images_seen += n
        update_ema(self.G_ema, self.G, ema_decay(n, self.images_seen, config.ema_kimg, config.ema_rampup))
        return stats

    @contextmanager
    def _phase(self, active: nn.Module, frozen: nn.Module, optimizer: torch.optim.Adam) -> Iterator[None]:
        """Freezes the other network, and takes an optimizer step with the gradients of the body."""
        frozen.requires_grad_(False)
        active.requires_grad_(True)
        optimizer.zero_grad(set_to_none=True)
        yield
        if self.device.type == "cuda" and self.config.mixed_precision_resolutions > 0:
            # A float16 overflow must not poison Adam's moments.
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        optimizer.step()

    def _one_hot(self, labels: Tensor) -> Tensor | None:
        c = one_hot(labels, self.c_dim)
        return None if c is None else c.to(self.device)

    def _latents(self, n: int) -> tuple[Tensor, Tensor | None]:
        """Random latent codes [n, z_dim] and classes [n, c_dim], distributed as in the data."""
        return torch.randn(n, self.config.z_dim, device=self.device), self.random_classes(n)

    def random_classes(self, n: int) -> Tensor | None:
        """Returns one-hot classes [n, c_dim] drawn from the data, or None without classes."""
        if self._labels is None:
            return None
        return self._one_hot(self._labels[torch.randint(len(self._labels), [n])])
