# SPDX-License-Identifier: Apache-2.0
"""Perceptual path length in W.

Source: Karras et al., "A Style-Based Generator Architecture for Generative Adversarial Networks" (2019),
section 4.1, at path ends as in "Analyzing and Improving the Image Quality of StyleGAN" (2020). The perceptual
distance is over the given encoder's features, so values compare only under the same encoder.
"""

from collections.abc import Sequence

import torch
from rich.console import Console
from torch import Tensor

from ..console import track
from ..models import Generator
from ..ranks import Ranks
from ..semantics.encoders import Encoder
from .exact import exact_generator


def perceptual_distance(features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
    """Returns the squared distance [N] of unit-length maps [N, D, T, T]: mean over positions, sum over maps."""
    per_map = [(a - b).square().sum(dim=1).mean(dim=[1, 2]) for a, b in zip(features_a, features_b, strict=True)]
    return torch.stack(per_map).sum(dim=0)


def trimmed_mean(values: Tensor, low: float = 0.01, high: float = 0.99) -> float:
    """Returns the mean of the values [N] within the two quantiles, which cuts off outliers."""
    bounds = values.quantile(torch.tensor([low, high], dtype=values.dtype, device=values.device))
    return values[(values >= bounds[0]) & (values <= bounds[1])].mean().item()


@torch.no_grad()
def ppl_w(
    G: Generator,
    encoder: Encoder,
    *,
    num_samples: int = 1000,
    batch: int = 50,
    eps: float = 1e-4,
    seed: int = 0,
    labels: Tensor | None = None,
    console: Console | None = None,
    ranks: Ranks | None = None,
) -> float:
    """Returns the perceptual path length in W at path ends; lower is smoother.

    Generator and encoder compute in float32 without TF32, whatever training uses: over a step of `eps` the rounding of
    float16 is many times the difference of the images.

    Per sample: distance of the images of w0 and lerp(w0, w1, eps) under the same noise, over eps^2, for w0
    and w1 mapped from random z with one class. The mean is taken between the 1st and the 99th percentile.

    Args:
        G: Generator.
        encoder: Encoder whose features measure the distance.
        num_samples: Number of pairs.
        batch: Pairs per call.
        eps: Step along the path.
        seed: Seed of latent codes and classes; PyTorch's default generators are left as they were.
        labels: One-hot rows [M, c_dim] to draw classes from; needed if G is conditional.
        console: Where to show the progress; None: standard output.
        ranks: The processes that share the work; None: this one does it all.

    Raises:
        ValueError: G is conditional and there are no labels.
    """
    if G.c_dim > 0 and labels is None:
        raise ValueError("labels must be given for a conditional generator")
    device = G.mapping.w_avg.device
    rng = torch.Generator().manual_seed(seed)
    # All numbers are drawn beforehand, so that the value does not depend on the batch.
    z = torch.randn(num_samples, 2, G.z_dim, generator=rng)
    classes = torch.zeros(num_samples, 0)
    if labels is not None:
        classes = labels.cpu()[torch.randint(len(labels), (num_samples,), generator=rng)]
    ranks = Ranks(device) if ranks is None else ranks
    batches = ranks.share(list(zip(z.split(batch), classes.split(batch), strict=True)))
    distances = []
    with exact_generator(G, device) as G:
        for z_pair, c in track(batches, f"Measuring PPL, in batches of {batch} pairs", len(batches), console):
            w0, w1 = (G.mapping(z_end.to(device), c.to(device)) for z_end in z_pair.unbind(dim=1))
            images = G.synthesis(torch.cat([w0, w0.lerp(w1, eps)]), noise_mode="const")
            start_features, end_features = zip(*(maps.chunk(2) for maps in encoder.perceptual(images)), strict=True)
            distances.append((perceptual_distance(start_features, end_features) / eps**2).cpu())
    return trimmed_mean(torch.cat(ranks.gather(distances)).double())
