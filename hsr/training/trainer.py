# SPDX-License-Identifier: Apache-2.0
"""Networks, optimizers and one training step."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..config import PATH_LENGTH_SHRINK, Config
from ..losses import GANLoss, Stats
from ..models.build import build_discriminator, build_generator
from ..parts import WHOLE, BatchPart, RandomState, computing
from ..ranks import Ranks
from ..semantics.alignment import Alignment
from ..semantics.encoders import Encoder
from ..semantics.regularizer import SemanticRegularizer
from ..tensors import one_hot, to_float
from .adaptation import build_adaptation, build_pipe
from .ema import ema_decay, update_ema
from .freezing import trainable_parameters
from .graphs import Batch, build_graphs

# The images need libraries that the trainer itself does without.
if TYPE_CHECKING:
    from ..data import ImageDataset

# Number of random codes whose path lengths give the initial mean if training starts from given weights.
PATH_LENGTH_SAMPLES = 64
# The phases of a step, by the network that each trains. The penalties on path lengths and R1 are applied lazily.
PHASES = {"G main": "G", "G path length": "G", "D main": "D", "D R1": "D"}
# A phase whose updates are skipped this many times in a row doesn't train any more.
MAX_SKIPPED_STREAK = 32


def hsr_dtype(config: Config, device: torch.device) -> torch.dtype | None:
    """Returns the dtype that HSR's encoder and loss compute in, or None for that of the weights."""
    if config.hsr_precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else None
    return torch.bfloat16 if config.hsr_precision == "bfloat16" else None


class Trainer:
    """The networks in training and their optimizers.

    Regularization runs lazily (Karras et al. 2020, appendix B): every `interval` steps, weighted by
    `interval`, with Adam's learning rate and betas corrected for the additional steps. An update whose gradients aren't
    all finite is skipped and counted: a float16 overflow must not poison Adam's moments. As published, losses aren't
    scaled for float16.

    No step waits for a GPU, but for those that capture a phase as a CUDA graph, once. Where `config.batch_gpu` is less
    than the batch, each phase adds the gradients of parts of the batch, with the result of the undivided batch.

    Args:
        config: Settings; the global random generators must be seeded already.
        dataset: Images to train on, with their resolution and classes.
        encoder: Frozen encoder, or None for the baseline.
        device: Device of the networks.
        ranks: The processes that train together; None: this one by itself.

    Attributes:
        steps: Training steps done.
        images_seen: Real images shown so far.
        classes: The data's labels in the networks' order, empty for unconditional networks.
        pipe: Augmentation of what D sees, or None.
        adaptation: Control of the pipe's p, or None where that is fixed.
        skipped_updates: Number of updates of G and of D that were skipped so far, int64 scalars on the device.
        skipped_streaks: Number of the latest updates of each phase that were skipped in a row, int64 scalars there.
        graphs: What runs the phases, captured or not.
        timer: Makes the context that each phase runs in, by its name; it may measure the phase.
    """

    def __init__(
        self,
        config: Config,
        dataset: "ImageDataset",
        encoder: Encoder | None,
        device: torch.device,
        ranks: Ranks | None = None,
    ):
        config.require_channels(dataset.resolution)
        self.config = config
        self.device = device
        self.ranks = Ranks(device) if ranks is None else ranks
        self.classes = dataset.classes if config.conditional else ()
        self.c_dim = len(self.classes)
        self._labels = None
        if self.c_dim and dataset.labels is not None:
            self._labels = torch.from_numpy(dataset.labels).to(device)
        self.graphs = build_graphs(config, device, self.ranks.count)
        # The parts of a batch that this process computes, one after another.
        self._parts_here = self.ranks.part.split(config.parts_per_process(self.ranks.count))
        self.G = build_generator(config, dataset.resolution, self.c_dim).to(device)
        self.D = build_discriminator(config, dataset.resolution, self.c_dim).to(device)
        self.hsr = None
        if encoder is not None and config.hsr_weight > 0:
            precision, alignment = hsr_dtype(config, device), Alignment.from_config(config)
            self.hsr = SemanticRegularizer(encoder, self.G, config.hsr_hidden, precision, alignment).to(device)
        self.G_ema = copy.deepcopy(self.G).eval().requires_grad_(False)
        self.pipe = build_pipe(config, device)
        self.adaptation = build_adaptation(config, self.pipe, self.ranks)
        self.loss = GANLoss(
            self.G,
            self.D,
            hsr=self.hsr,
            hsr_weight=config.hsr_weight,
            r1_gamma=config.gamma,
            pl_weight=config.path_length_weight,
            pl_batch_shrink=PATH_LENGTH_SHRINK,
            style_mixing_prob=config.style_mixing,
            augment=self.pipe,
            on_real_logits=None if self.adaptation is None else self.adaptation.collect,
            share=self.ranks.part,
            mean_over_processes=self.ranks.mean,
        ).to(device)
        self.opt_G = self._generator_adam()
        self.opt_D = self._adam(trainable_parameters(self.D, config.frozen_layers), config.r1_interval)
        self.ranks.copy_from_main([t for module in self.modules().values() for t in module.state_dict().values()])
        self.steps = 0
        self.images_seen = 0
        self.skipped_updates = {name: torch.zeros([], dtype=torch.int64, device=device) for name in ("G", "D")}
        self.skipped_streaks = {name: torch.zeros([], dtype=torch.int64, device=device) for name in PHASES}
        self.timer: Callable[[str], AbstractContextManager] = nullcontext

    def _generator_adam(self) -> torch.optim.Adam:
        """Returns the optimizer of the generator and of the heads, which are a group of their own by their own rate."""
        config, heads = self.config, [] if self.hsr is None else list(self.hsr.parameters())
        if not heads or config.hsr_learning_rate is None:
            return self._adam([*self.G.parameters(), *heads], config.path_length_interval)
        optimizer = self._adam(list(self.G.parameters()), config.path_length_interval)
        rate = optimizer.defaults["lr"] * config.hsr_learning_rate / config.learning_rate
        optimizer.add_param_group({"params": heads, "lr": rate})
        return optimizer

    def _adam(self, parameters: list[nn.Parameter], interval: int) -> torch.optim.Adam:
        # Without lazy regularization (an interval of 0) no additional steps need a correction.
        correction = interval / (interval + 1) if interval > 0 else 1.0
        betas = (self.config.beta1**correction, self.config.beta2**correction)
        rate = self.config.learning_rate * correction
        # Captured or not, its counts of steps stay on the device.
        is_captured = not self.graphs.reason
        return torch.optim.Adam(parameters, lr=rate, betas=betas, eps=1e-8, fused=True, capturable=is_captured)

    def modules(self) -> dict[str, nn.Module]:
        """Returns the networks whose weights make up a checkpoint, by their name in it."""
        modules: dict[str, nn.Module] = {"G": self.G, "D": self.D, "G_ema": self.G_ema}
        return modules if self.hsr is None else modules | {"hsr": self.hsr}

    def step(self, images: Tensor, labels: Tensor) -> Stats:
        """Trains on one batch.

        Args:
            images: Real images, [N, 3, R, R] uint8; of several processes each has its part of the batch.
            labels: Their classes, [N] int64.

        Returns:
            Scalar statistics of the batch by name.
        """
        config = self.config
        batch = self.graphs.hold(images, labels, self.device)
        stats = self._run("G main", self._generator_main, batch)
        if config.path_length_weight > 0 and self._is_due(config.path_length_interval):
            stats |= self._run("G path length", self._generator_path_length, batch)
        stats |= self._run("D main", self._discriminator_main, batch)
        if config.gamma > 0 and self._is_due(config.r1_interval):
            stats |= self._run("D R1", self._discriminator_r1, batch)
        n = len(images) * self.ranks.count
        self.ranks.sum_(list(stats.values()))
        self.steps += 1
        self.images_seen += n
        if self.adaptation is not None:
            stats |= self.adaptation.adjust(self.steps)
        with self.timer("EMA"):
            update_ema(self.G_ema, self.G, ema_decay(n, self.images_seen, config.ema_kimg, config.ema_rampup))
        return stats

    def _run(self, name: str, phase: Callable[[Batch], Stats], batch: Batch) -> Stats:
        with self.timer(name):
            return self.graphs.run(name, lambda: self._train(name, phase, batch))

    def _train(self, name: str, phase: Callable[[Batch], Stats], batch: Batch) -> Stats:
        """Trains one network: freezes the other, and takes an optimizer step with the gradients of a phase."""
        network = PHASES[name]
        optimizer = self._start_phase(network)
        stats = phase(batch)
        is_skipped = self._update(optimizer)
        self.skipped_updates[network] += is_skipped
        self.skipped_streaks[name].add_(1).mul_(is_skipped)
        return stats

    def _generator_main(self, batch: Batch) -> Stats:
        z, c = self._latents(len(batch.images) * self.ranks.count)
        if self._parts_here != [WHOLE]:
            with torch.no_grad():
                self.G.mapping(z, c, update_w_avg=True)
        return self._accumulate(lambda part: self.loss.generator_main(part.take(z), part.take(c)))

    def _generator_path_length(self, batch: Batch) -> Stats:
        z, c = self._latents(len(batch.images) * self.ranks.count)
        if len(self._parts_here) > 1:
            # Every part's penalty depends on the lengths of all, so those are measured first, of the same draws.
            state = RandomState(self.device)
            self.loss.follow_path_length(self._mean_path_length(z, c))
            state.restore()
        interval = self.config.path_length_interval
        return self._accumulate(lambda part: self.loss.generator_path_length(part.take(z), part.take(c)), interval)

    def _discriminator_main(self, batch: Batch) -> Stats:
        z, c = self._latents(len(batch.images) * self.ranks.count)
        real_c = one_hot(batch.labels, self.c_dim)

        def loss(part: BatchPart) -> tuple[Tensor, Stats]:
            own = self._part_of_share(part)
            return self.loss.discriminator_main(
                to_float(own.take(batch.images)), own.take(real_c), part.take(z), part.take(c)
            )

        return self._accumulate(loss)

    def _discriminator_r1(self, batch: Batch) -> Stats:
        real_c = one_hot(batch.labels, self.c_dim)

        def loss(part: BatchPart) -> tuple[Tensor, Stats]:
            own = self._part_of_share(part)
            return self.loss.discriminator_r1(to_float(own.take(batch.images)), own.take(real_c))

        return self._accumulate(loss, self.config.r1_interval)

    def _accumulate(self, loss: Callable[[BatchPart], tuple[Tensor, Stats]], factor: float = 1) -> Stats:
        """Adds the gradients of `factor` times a loss, the mean of its parts', and returns its share of statistics.

        The sum of the shares of all processes is the batch's mean.
        """
        stats: Stats = {}
        for part in self._parts():
            value, part_stats = loss(part)
            (value * (factor / part.count)).backward()
            for name, statistic in part_stats.items():
                share = statistic / part.count
                stats[name] = stats[name] + share if name in stats else share
        return stats

    def _parts(self) -> Iterator[BatchPart]:
        """Yields this process's parts of a batch; meanwhile, random draws are as in the undivided batch."""
        state = RandomState(self.device) if len(self._parts_here) > 1 else None
        for part in self._parts_here:
            if state is not None:
                state.restore()
            with computing(part):
                yield part

    def _part_of_share(self, part: BatchPart) -> BatchPart:
        """Returns one of this process's parts of the batch as a part of its share of the images."""
        return BatchPart(part.index // self.ranks.count, part.count // self.ranks.count)

    def _is_due(self, interval: int) -> bool:
        """Returns whether this step is one of those every `interval` steps (0: never)."""
        return interval > 0 and self.steps % interval == 0

    def _start_phase(self, network: str) -> torch.optim.Adam:
        """Freezes the other network, and makes what is trained ready for gradients; returns its optimizer."""
        frozen, optimizer = {"G": (self.D, self.opt_G), "D": (self.G, self.opt_D)}[network]
        frozen.requires_grad_(False)
        # Those that the optimizer hasn't got are frozen for good.
        for parameter in _trained_parameters(optimizer):
            parameter.requires_grad_(True)
        optimizer.zero_grad(set_to_none=True)
        return optimizer

    def _update(self, optimizer: torch.optim.Adam) -> Tensor:
        """Takes a step unless a gradient isn't finite, and returns whether it was skipped, a scalar on the device."""
        gradients = [parameter.grad for parameter in _trained_parameters(optimizer) if parameter.grad is not None]
        self.ranks.sum_(gradients)
        # A largest magnitude is finite if all are, and unlike a sum it cannot overflow.
        is_skipped = ~torch.stack(torch._foreach_norm(gradients, float("inf"))).isfinite().all()
        # Fused optimizers read this on the device, so that no step waits for its value.
        optimizer.found_inf = is_skipped.float()  # type: ignore[attr-defined]
        optimizer.step()
        return is_skipped

    def stalled_phases(self) -> list[str]:
        """Returns the phases whose updates are persistently skipped; reading that waits for the device."""
        return [name for name, streak in self.skipped_streaks.items() if streak.item() >= MAX_SKIPPED_STREAK]

    def start_path_length_mean(self) -> None:
        """Sets the mean of path lengths to the generator's own, for training that starts from weights.

        A mean of 0 would take hundreds of steps to rise to it, and path lengths would be penalised meanwhile.
        PyTorch's default generators are left as they were.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        # As in a step of training, so they fit in memory.
        samples_per_batch = max(1, self.config.batch // self.loss.pl_batch_shrink)
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.config.seed)
            batches = range(-(-PATH_LENGTH_SAMPLES // samples_per_batch))
            means = [self._mean_path_length(*self._latents(self.config.batch)) for _ in batches]
        mean = torch.stack(means).mean()
        if mean.isfinite():
            self.loss.pl_mean.copy_(mean)

    def _mean_path_length(self, z: Tensor, c: Tensor | None) -> Tensor:
        """Returns the mean of the path lengths that a batch is penalised for, a scalar."""
        means = [self.loss.mean_path_length(part.take(z), part.take(c)) for part in self._parts()]
        return self.ranks.mean(torch.stack(means).mean())

    def _latents(self, n: int) -> tuple[Tensor, Tensor | None]:
        """Returns random latent codes [n, z_dim] and classes [n, c_dim], distributed as in the data."""
        return torch.randn(n, self.config.z_dim, device=self.device), self.random_classes(n)

    def random_classes(self, n: int) -> Tensor | None:
        """Returns one-hot classes [n, c_dim] drawn from the data, or None without classes."""
        if self._labels is None:
            return None
        positions = torch.randint(len(self._labels), [n], device=self.device)
        return one_hot(self._labels[positions], self.c_dim)


def _trained_parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
