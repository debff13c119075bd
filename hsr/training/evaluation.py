# SPDX-License-Identifier: Apache-2.0
"""What a run is measured by, on encoder features and against real images that training never sees."""

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ..console import tracked
from ..data import ImageDataset
from ..images import generate_images
from ..metrics import frechet_distance, ppl_w
from ..metrics.exact import exact_generator, exact_metrics
from ..models import Generator
from ..semantics.encoders import Encoder
from ..tensors import one_hot

BATCH = 50


class Evaluator:
    """Frechet distance and PPL of generators, with an encoder's features.

    The same random codes serve every generator, and the global random generators are left as they were. Everything
    computes in float32, whatever training uses.

    Args:
        encoder: Gives the features; the metrics carry its name.
        held_out: Real images that training never sees.
        num_images: Generated images, at most this many real ones, and pairs of images for PPL.
        device: Where encoder and generators live.
        seed: Of the latent codes.
        console: Where to show progress; None: standard output.
    """

    def __init__(
        self,
        encoder: Encoder,
        held_out: ImageDataset,
        num_images: int,
        device: torch.device,
        seed: int,
        console: Console | None = None,
    ):
        self.encoder = encoder
        self.num_images = num_images
        self.num_reals = min(num_images, len(held_out))
        self._device = device
        self._console = console
        self._seed = seed
        self._held_out = held_out
        self._reals: Tensor | None = None
        features = f"{encoder.name} features"
        self.frechet_name = f"Metrics/Frechet distance, {features}, {self.num_reals} held-out images"
        self.ppl_name = f"Metrics/PPL in w, {features}"

    def frechet_distance(self, G: Generator) -> float:
        """Returns the Frechet distance between generated and held-out real images."""
        if self._reals is None:
            starts = range(0, self.num_reals, BATCH)
            shown = tracked(starts, f"Reading real images, in batches of {BATCH}", len(starts), self._console)
            positions = (np.arange(i, min(i + BATCH, self.num_reals)) for i in shown)
            self._reals = torch.cat([self._embed(self._held_out.batch(p)) for p in positions])
        random = torch.Generator().manual_seed(self._seed)
        z = torch.randn(self.num_images, G.z_dim, generator=random).to(self._device)
        c = self._classes(G.c_dim, random)
        starts = range(0, self.num_images, BATCH)
        fakes = []
        title = f"Measuring generated images, in batches of {BATCH}"
        with exact_generator(G, self._device) as exact:
            for i in tracked(starts, title, len(starts), self._console):
                classes = None if c is None else c[i : i + BATCH]
                images = generate_images(exact, z[i : i + BATCH], classes, console=self._console)
                fakes.append(self._embed(images))
        return frechet_distance(torch.cat(fakes), self._reals)

    def ppl_w(self, G: Generator) -> float:
        """Returns the perceptual path length in W."""
        c = self._classes(G.c_dim, torch.Generator().manual_seed(self._seed))
        return ppl_w(G, self.encoder, num_samples=self.num_images, seed=self._seed, labels=c, console=self._console)

    def _embed(self, images: Tensor) -> Tensor:
        with exact_metrics(self._device):
            return self.encoder.embed(images.clamp(-1, 1).to(self._device)).cpu()

    def _classes(self, c_dim: int, random: torch.Generator) -> Tensor | None:
        """One-hot classes [num_images, c_dim] as frequent as in the held-out images."""
        if c_dim == 0 or self._held_out.labels is None:
            return None
        drawn = torch.randint(len(self._held_out), [self.num_images], generator=random)
        return one_hot(torch.from_numpy(self._held_out.labels)[drawn].to(self._device), c_dim)
