# SPDX-License-Identifier: Apache-2.0
"""The metrics of a run, on encoder features and against real images: held-out ones, or those of the training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ..console import track
from ..data import ImageDataset
from ..images import generate_images
from ..metrics import frechet_distance, manifold_metrics, ppl_w
from ..metrics.exact import exact_generator, exact_metrics
from ..models import Generator
from ..ranks import Ranks
from ..semantics.encoders import Encoder
from ..tensors import one_hot

BATCH_SIZE = 50


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
        order = np.random.default_rng(0).permutation(len(reals))
        self._reals = reals.subset(np.sort(order[:num_images]))
        self._reals_features: Tensor | None = None

    def measure(self, metrics: Sequence[str], G: Generator) -> dict[str, float]:
        """Returns the values of the named metrics of `METRICS`, by their titles in logs."""
        values: dict[str, float] = {}
        comparisons = [metric for metric in metrics if METRICS[metric].needs_reals]
        if comparisons:
            reals, fakes = self._real_features(), self._generated_features(G)
            if "frechet" in comparisons:
                values["frechet"] = frechet_distance(fakes, reals)
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
            starts = self._ranks.share(range(0, self.num_reals, BATCH_SIZE))
            batches = track(starts, f"Reading real images, in batches of {BATCH_SIZE}", len(starts), self._console)
            positions = (np.arange(i, min(i + BATCH_SIZE, self.num_reals)) for i in batches)
            shares = [self._embed(self._reals.batch(p)) for p in positions]
            self._reals_features = torch.cat(self._ranks.gather(shares))
        return self._reals_features

    def _generated_features(self, G: Generator) -> Tensor:
        rng = torch.Generator().manual_seed(self._seed)
        z = torch.randn(self.num_images, G.z_dim, generator=rng).to(self._device)
        c = self._classes(G.c_dim, rng)
        starts = self._ranks.share(range(0, self.num_images, BATCH_SIZE))
        features = []
        title = f"Measuring generated images, in batches of {BATCH_SIZE}"
        with exact_generator(G, self._device) as exact:
            for i in track(starts, title, len(starts), self._console):
                classes = None if c is None else c[i : i + BATCH_SIZE]
                images = generate_images(exact, z[i : i + BATCH_SIZE], classes, console=self._console)
                features.append(self._embed(images))
        return torch.cat(self._ranks.gather(features))

    def _ppl_w(self, G: Generator) -> float:
        c = self._classes(G.c_dim, torch.Generator().manual_seed(self._seed))
        return ppl_w(
            G,
            self.encoder,
            num_samples=self.num_images,
            seed=self._seed,
            labels=c,
            console=self._console,
            ranks=self._ranks,
        )

    def _embed(self, images: Tensor) -> Tensor:
        with exact_metrics(self._device):
            return self.encoder.embed(images.clamp(-1, 1).to(self._device)).cpu()

    def _classes(self, c_dim: int, rng: torch.Generator) -> Tensor | None:
        """Returns one-hot classes [num_images, c_dim] with the frequencies of the real images."""
        if c_dim == 0 or self._reals.labels is None:
            return None
        positions = torch.randint(len(self._reals), [self.num_images], generator=rng)
        return one_hot(torch.from_numpy(self._reals.labels)[positions].to(self._device), c_dim)
