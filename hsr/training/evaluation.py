# SPDX-License-Identifier: Apache-2.0
"""The metrics of a run, on encoder features and against real images: held-out ones, or those of the training."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from torch import Tensor

from ..data import ImageDataset
from ..evaluation.features import choose_reals, generated_features, real_features
from ..metrics import frechet_distance, manifold_metrics, path_lengths, trimmed_mean
from ..models import Generator
from ..ranks import Ranks
from ..semantics.encoders import Encoder
from ..tensors import one_hot


@dataclass(frozen=True)
class Metric:
    """A metric of generators.

    Attributes:
        title: What logs call it.
        is_distance: Lower is better; else higher is.
        needs_reals: It compares with real images.
    """

    title: str
    is_distance: bool = False
    needs_reals: bool = True

    def is_better(self, value: float, previous: float) -> bool:
        """Returns whether a value is better than a previous one."""
        return value < previous if self.is_distance else value > previous


# By the names in `hsr.config.METRICS`.
METRICS = {
    "frechet": Metric("Frechet distance", is_distance=True),
    "ppl_w": Metric("PPL in w", is_distance=True, needs_reals=False),
    "precision": Metric("Precision"),
    "recall": Metric("Recall"),
    "density": Metric("Density"),
    "coverage": Metric("Coverage"),
}


class Evaluator:
    """Metrics of generators, with an encoder's features.

    Every generator gets the same random codes, and the global random generators are left as they were. Everything is
    computed in float32, whatever training uses.

    Args:
        encoder: Encoder of the features; the metrics carry its name.
        reals: Real images to compare with.
        num_images: Number of generated images, of pairs of images for PPL, and at most of real images, which are chosen
            at random where there are more, the same ones for any seed.
        device: Device of the encoder and the generators.
        seed: Seed of the latent codes.
        console: Where to show the progress; None: standard output.
        reals_kind: What the metrics call the real images: held-out or training.
        ranks: The processes that share the work; None: this one does it all.
    """

    def __init__(
        self,
        encoder: Encoder,
        reals: ImageDataset,
        num_images: int,
        device: torch.device,
        seed: int,
        console: Console | None = None,
        reals_kind: str = "held-out",
        ranks: Ranks | None = None,
    ):
        self.encoder = encoder
        self.num_images = num_images
        self.num_reals = min(num_images, len(reals))
        self._device = device
        self._console = console
        self._seed = seed
        self._reals_kind = reals_kind
        self._ranks = Ranks(device) if ranks is None else ranks
        self._reals = choose_reals(reals, num_images)
        self._reals_features: Tensor | None = None

    def measure(self, metrics: Sequence[str], G: Generator) -> dict[str, float]:
        """Returns the values of the named metrics of `METRICS`, by their titles in logs."""
        values: dict[str, float] = {}
        comparisons = [metric for metric in metrics if METRICS[metric].needs_reals]
        if comparisons:
            reals, fakes = self._real_features(), self._generated_features(G)
            if "frechet" in comparisons:
                values["frechet"] = frechet_distance(fakes, reals, self._console)
            if comparisons != ["frechet"]:
                values |= manifold_metrics(reals, fakes)
        if "ppl_w" in metrics:
            values["ppl_w"] = self._ppl_w(G)
        # Machines may round differently, and all processes must decide alike.
        values = self._ranks.from_main(values)
        return {self.title(metric): values[metric] for metric in metrics}

    def title(self, metric: str) -> str:
        """Returns the title of a metric in logs, which says what it was measured with."""
        features = f"{self.encoder.name} features"
        reals = f", {self.num_reals} {self._reals_kind} images" if METRICS[metric].needs_reals else ""
        return f"Metrics/{METRICS[metric].title}, {features}{reals}"

    def _real_features(self) -> Tensor:
        if self._reals_features is None:
            self._reals_features = real_features(
                self._reals, self.encoder, self._device, console=self._console, ranks=self._ranks
            )
        return self._reals_features

    def _generated_features(self, G: Generator) -> Tensor:
        rng = torch.Generator().manual_seed(self._seed)
        z = torch.randn(self.num_images, G.z_dim, generator=rng)
        c = self._classes(G.c_dim, rng)
        return generated_features(G, self.encoder, z, c, self._device, console=self._console, ranks=self._ranks)

    def _ppl_w(self, G: Generator) -> float:
        c = self._classes(G.c_dim, torch.Generator().manual_seed(self._seed))
        lengths = path_lengths(
            G,
            self.encoder,
            num_pairs=self.num_images,
            seed=self._seed,
            labels=c,
            console=self._console,
            ranks=self._ranks,
        )
        return trimmed_mean(lengths)

    def _classes(self, c_dim: int, rng: torch.Generator) -> Tensor | None:
        """Returns one-hot classes [num_images, c_dim] with the frequencies of the real images."""
        if c_dim == 0 or self._reals.labels is None:
            return None
        positions = torch.randint(len(self._reals), [self.num_images], generator=rng)
        return one_hot(torch.from_numpy(self._reals.labels)[positions].to(self._device), c_dim)
