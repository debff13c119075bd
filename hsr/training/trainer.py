# SPDX-License-Identifier: Apache-2.0
"""Networks, optimizers and one training step."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ..config import Config
from ..losses import GANLoss, Stats
from ..models.build import build_discriminator, build_generator
from ..semantics.alignment import Alignment
from ..semantics.encoders import Encoder
from ..semantics.regularizer import SemanticRegularizer
from ..tensors import one_hot, to_float
from .adaptation import build_adaptation, build_pipe
from .ema import ema_decay, update_ema
from .freezing import trainable_parameters

# The images need libraries that the trainer itself does without.
if TYPE_CHECKING:
    from ..data import ImageDataset

# Number of random codes whose path lengths give the initial mean if training starts from given weights.
PATH_LENGTH_SAMPLES = 64


def hsr_dtype(config: Config, device: torch.device) -> torch.dtype | None:
    """Returns the dtype that HSR's encoder and loss compute in, or None for that of the weights."""
    if config.hsr_precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else None
    return torch.bfloat16 if config.hsr_precision == "bfloat16" else None


class Trainer:
    """The networks in training and their optimizers.

    Regularization runs lazily (Karras et al. 2020, appendix B): every `interval` steps, weighted by
    `interval`, with Adam's learning rate and betas corrected for the additional steps. An update whose gradients aren't
    all finite is skipped and counted: a float16 overflow must not poison Adam's moments.

    Args:
        config: Settings; the global random generators must be seeded already.
        dataset: Images to train on, with their resolution and classes.
        encoder: Frozen encoder, or None for the baseline.
        device: Device of the networks.

    Attributes:
        steps: Training steps done.
        images_seen: Real images shown so far.
        classes: The data's labels in the networks' order, empty for unconditional networks.
        pipe: Augmentation of what D sees, or None.
        adaptation: Control of the pipe's p, or None where that is fixed.
        skipped_updates: Number of updates of G and of D that were skipped so far, int64 scalars on the device.
    """

    def __init__(self, config: Config, dataset: "ImageDataset", encoder: Encoder | None, device: torch.device):
        config.require_channels(dataset.resolution)
        self.config = config
        self.device = device
        self.classes = dataset.classes if config.conditional else ()
        self.c_dim = len(self.classes)
        self._labels = torch.from_numpy(dataset.labels) if self.c_dim and dataset.labels is not None else None
        self.G = build_generator(config, dataset.resolution, self.c_dim).to(device)
        self.D = build_discriminator(config, dataset.resolution, self.c_dim).to(device)
        self.hsr = None
        if encoder is not None and config.hsr_weight > 0:
            precision, alignment = hsr_dtype(config, device), Alignment.from_config(config)
            self.hsr = SemanticRegularizer(encoder, self.G, config.hsr_hidden, precision, alignment).to(device)
        self.G_ema = copy.deepcopy(self.G).eval().requires_grad_(False)
        self.pipe = build_pipe(config, device)
        self.adaptation = build_adaptation(config, self.pipe)
        self.loss = GANLoss(
            self.G,
            self.D,
            hsr=self.hsr,
            hsr_weight=config.hsr_weight,
            r1_gamma=config.gamma,
            pl_weight=config.path_length_weight,
            style_mixing_prob=config.style_mixing,
            augment=self.pipe,
            on_real_logits=None if self.adaptation is None else self.adaptation.collect,
        ).to(device)
        generator_side = [*self.G.parameters(), *(self.hsr.parameters() if self.hsr is not None else ())]
        self.opt_G = self._adam(generator_side, config.path_length_interval)
        self.opt_D = self._adam(trainable_parameters(self.D, config.frozen_layers), config.r1_interval)
        self.steps = 0
        self.images_seen = 0
        self.skipped_updates = {name: torch.zeros([], dtype=torch.int64, device=device) for name in ("G", "D")}

    def _adam(self, parameters: list[nn.Parameter], interval: int) -> torch.optim.Adam:
        # Without lazy regularization (an interval of 0) no additional steps need a correction.
        correction = interval / (interval + 1) if interval > 0 else 1.0
        betas = (self.config.beta1**correction, self.config.beta2**correction)
        rate = self.config.learning_rate * correction
        return torch.optim.Adam(parameters, lr=rate, betas=betas, eps=1e-8, fused=True)

    def modules(self) -> dict[str, nn.Module]:
        """Returns the networks whose weights make up a checkpoint, by their name in it."""
        modules: dict[str, nn.Module] = {"G": self.G, "D": self.D, "G_ema": self.G_ema}
        return modules if self.hsr is None else modules | {"hsr": self.hsr}

    def step(self, images: Tensor, labels: Tensor) -> Stats:
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
        with self._phase("G"):
            loss, stats = self.loss.generator_main(*self._latents(n))
            loss.backward()
        if config.path_length_weight > 0 and self._is_due(config.path_length_interval):
            with self._phase("G"):
                loss, phase_stats = self.loss.generator_path_length(*self._latents(n))
                (loss * config.path_length_interval).backward()
            stats |= phase_stats
        with self._phase("D"):
            loss, phase_stats = self.loss.discriminator_main(real, real_c, *self._latents(n))
            loss.backward()
        stats |= phase_stats
        if config.gamma > 0 and self._is_due(config.r1_interval):
            with self._phase("D"):
                loss, phase_stats = self.loss.discriminator_r1(real, real_c)
                (loss * config.r1_interval).backward()
            stats |= phase_stats
        self.steps += 1
        self.images_seen += n
        if self.adaptation is not None:
            stats |= self.adaptation.adjust(self.steps)
        update_ema(self.G_ema, self.G, ema_decay(n, self.images_seen, config.ema_kimg, config.ema_rampup))
        return stats

    def _is_due(self, interval: int) -> bool:
        """Returns whether this step is one of those every `interval` steps (0: never)."""
        return interval > 0 and self.steps % interval == 0

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Trains one network, "G" or "D": freezes the other, and takes an optimizer step with the body's gradients."""
        frozen, optimizer = {"G": (self.D, self.opt_G), "D": (self.G, self.opt_D)}[name]
        frozen.requires_grad_(False)
        # Those that the optimizer hasn't got are frozen for good.
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for parameter in trained:
            parameter.requires_grad_(True)
        optimizer.zero_grad(set_to_none=True)
        yield
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        # The largest magnitude is finite if all are, and unlike a sum it cannot overflow.
        is_skipped = ~get_total_norm(gradients, norm_type=float("inf")).isfinite()
        # Fused optimizers read this on the device, so that no step waits for its value.
        optimizer.found_inf = is_skipped.float()  # type: ignore[attr-defined]
        optimizer.step()
        self.skipped_updates[name] += is_skipped

    def start_path_length_mean(self) -> None:
        """Sets the mean of path lengths to the generator's own, for training that starts from weights.

        A mean of 0 would take hundreds of steps to rise to it, and path lengths would be penalised meanwhile.
        PyTorch's default generators are left as they were.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        # A step of training takes as many samples at a time, so they fit in memory.
        n = max(1, self.config.batch // self.loss.pl_batch_shrink)
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.config.seed)
            batches = range(-(-PATH_LENGTH_SAMPLES // n))
            lengths = [self.loss.path_lengths(*self._latents(n)).detach() for _ in batches]
        mean = torch.cat(lengths).mean()
        if mean.isfinite():
            self.loss.pl_mean.copy_(mean)

    def _one_hot(self, labels: Tensor) -> Tensor | None:
        return one_hot(labels.to(self.device), self.c_dim)

    def _latents(self, n: int) -> tuple[Tensor, Tensor | None]:
        """Returns random latent codes [n, z_dim] and classes [n, c_dim], distributed as in the data."""
        return torch.randn(n, self.config.z_dim, device=self.device), self.random_classes(n)

    def random_classes(self, n: int) -> Tensor | None:
        """Returns one-hot classes [n, c_dim] drawn from the data, or None without classes."""
        if self._labels is None:
            return None
        return self._one_hot(self._labels[torch.randint(len(self._labels), [n])])
