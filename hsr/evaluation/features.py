# SPDX-License-Identifier: Apache-2.0
"""Features of real and of generated images, for the metrics that compare the two."""

from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from rich.console import Console
from torch import Tensor

from ..console import track
from ..data import ImageDataset
from ..errors import UserError
from ..files import cache_folder, replacing
from ..metrics.exact import exact_generator, exact_metrics
from ..models import Generator
from ..ranks import Ranks
from ..semantics.encoders import Encoder

BATCH_SIZE = 50


def choose_reals(dataset: ImageDataset, maximum: int) -> ImageDataset:
    """Returns at most so many of the images, chosen at random, always the same ones."""
    if len(dataset) <= maximum:
        return dataset
    order = np.random.default_rng(0).permutation(len(dataset))
    return dataset.subset(np.sort(order[:maximum]))


def real_features(
    dataset: ImageDataset,
    encoder: Encoder,
    device: torch.device,
    *,
    batch: int = BATCH_SIZE,
    console: Console | None = None,
    ranks: Ranks | None = None,
) -> Tensor:
    """Returns the features [N, E] of a data set's images, in float32 on the CPU.

    They are read from the cache of this user, or else left there, in a file whose name has a hash of the images and one
    of the network.

    Args:
        dataset: Real images.
        encoder: Network of the features.
        device: Where the network is.
        batch: Images per call.
        console: Where to show the progress; None: standard output.
        ranks: The processes that share the work; None: this one does it all.
    """
    ranks = Ranks(device) if ranks is None else ranks
    path = cache_folder() / f"features-{dataset.fingerprint()}-{encoder.fingerprint()}.safetensors"
    # What the main process has found decides, as several machines may have different caches.
    cached = ranks.from_main(_read(path, len(dataset)) if ranks.is_main else None)
    if cached is not None:
        return cached
    starts = ranks.share(range(0, len(dataset), batch))
    shares = []
    for start in track(starts, f"Reading real images, in batches of {batch}", len(starts), console):
        images = dataset.batch(np.arange(start, min(start + batch, len(dataset))))
        shares.append(embed(encoder, images, device))
    features = torch.cat(ranks.gather(shares))
    if ranks.is_main:
        _write(features, path)
    return features


def generated_features(
    G: Generator,
    encoder: Encoder,
    z: Tensor,
    c: Tensor | None,
    device: torch.device,
    *,
    batch: int = BATCH_SIZE,
    console: Console | None = None,
    ranks: Ranks | None = None,
) -> Tensor:
    """Returns the features [N, E] of a generator's images, in float32 on the CPU.

    Images are made in float32 with the noise that the network keeps, and without truncation.

    Args:
        G: Generator.
        encoder: Network of the features.
        z: [N, z_dim] latent codes.
        c: [N, c_dim] one-hot classes; None for an unconditional generator.
        device: Where both networks are.
        batch: Images per call.
        console: Where to show the progress; None: standard output.
        ranks: The processes that share the work; None: this one does it all.
    """
    ranks = Ranks(device) if ranks is None else ranks
    starts = ranks.share(range(0, len(z), batch))
    shares = []
    with torch.no_grad(), exact_generator(G, device) as exact:
        for start in track(starts, f"Measuring generated images, in batches of {batch}", len(starts), console):
            classes = None if c is None else c[start : start + batch].to(device)
            images = exact(z[start : start + batch].to(device), classes, noise_mode="const")
            shares.append(embed(encoder, images, device))
    return torch.cat(ranks.gather(shares))


def embed(encoder: Encoder, images: Tensor, device: torch.device) -> Tensor:
    """Returns the features [N, E] of images [N, 3, H, W], cut to [-1, 1] as files are, in float32 on the CPU."""
    with exact_metrics(device):
        return encoder.embed(images.clamp(-1, 1).to(device)).float().cpu()


def _read(path: Path, count: int) -> Tensor | None:
    """Returns the features in a file of the cache, or None where it has none of so many images."""
    try:
        features = safetensors.torch.load_file(path)["features"]
    except Exception:
        # Whatever is wrong with the cache, the features are computed again.
        return None
    return features if features.ndim == 2 and len(features) == count else None


def _write(features: Tensor, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            safetensors.torch.save_file({"features": features.contiguous()}, part)
    except (OSError, UserError):
        # The cache saves time alone.
        return
