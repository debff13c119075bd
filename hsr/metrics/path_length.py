# SPDX-License-Identifier: Apache-2.0
"""Perceptual path lengths.

Source: Karras et al., "A Style-Based Generator Architecture for Generative Adversarial Networks" (2019),
section 4.1, at path ends as in "Analyzing and Improving the Image Quality of StyleGAN" (2020). The perceptual
distance is over the given encoder's features, so values compare only under the same encoder.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ..console import track
from ..models import Generator
from ..ranks import Ranks
from ..semantics.encoders import Encoder
from .estimate import Estimate, bootstrap
from .exact import exact_generator

# Of a normal distribution, 95% lie within so many standard deviations.
NORMAL_QUANTILE = 1.96


class Path(NamedTuple):
    """What path length is measured along.

    Attributes:
        space: "z": the arc between unit codes z; "w": the straight line between codes w.
        sampling: "full": at a uniformly random point of the path; "end": at its start.
    """

    space: Literal["z", "w"]
    sampling: Literal["full", "end"]


# By the names of the metrics. `ppl2_wend` is the one of StyleGAN2.
PATHS = {
    "ppl2_wend": Path("w", "end"),
    "ppl_zfull": Path("z", "full"),
    "ppl_wfull": Path("w", "full"),
    "ppl_zend": Path("z", "end"),
}


def path_lengths(
    G: Generator,
    encoder: Encoder,
    path: str = "ppl2_wend",
    *,
    num_pairs: int = 50_000,
    batch: int = 50,
    eps: float = 1e-4,
    seed: int = 0,
    labels: Tensor | None = None,
    console: Console | None = None,
    ranks: Ranks | None = None,
) -> Tensor:
    """Returns the path lengths of all pairs, float64 [num_pairs] on the CPU; lower is smoother.

    Generator and encoder compute in float32 without TF32, whatever training uses (in float64 if that is their dtype):
    over a step of `eps` the rounding of float16 is many times the difference of the images.

    Per pair of random codes: the perceptual distance of the whole images at t and t + eps of the path between them,
    with the same constant noise and one class, over eps^2.

    Args:
        G: Generator.
        encoder: Encoder whose features measure the distance.
        path: A name in `PATHS`.
        num_pairs: Number of pairs.
        batch: Pairs per call.
        eps: Step along the path.
        seed: Seed of latent codes, classes and points; PyTorch's default generators are left as they were.
        labels: One-hot rows [M, c_dim] to draw classes from; needed if G is conditional.
        console: Where to show the progress; None: standard output.
        ranks: The processes that share the work; None: this one does it all.

    Raises:
        ValueError: There is no such path, or G is conditional and there are no labels.
    """
    if path not in PATHS:
        raise ValueError(f"path must be one of {', '.join(PATHS)}, got {path!r}")
    space, sampling = PATHS[path]
    draws = _draws(num_pairs, G, labels, sampling, seed)

    def ends(G: Generator, z: Tensor, c: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return _path_ends(G, space, z, c, t, eps)

    title = f"Measuring {path}, in batches of {batch} pairs"
    return _distances(G, encoder, ends, draws, batch, title, console, ranks) / eps**2


def end_distances(
    G: Generator,
    encoder: Encoder,
    *,
    num_pairs: int = 50_000,
    batch: int = 50,
    seed: int = 0,
    labels: Tensor | None = None,
    console: Console | None = None,
    ranks: Ranks | None = None,
) -> Tensor:
    """Returns the squared perceptual distances between the ends of the lines in W that `path_lengths` measures.

    Arguments, precision, result and errors are as there.
    """
    draws = _draws(num_pairs, G, labels, "end", seed)

    def ends(G: Generator, z: Tensor, c: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return _mapped(G, z, c)

    title = f"Measuring distances of ends, in batches of {batch} pairs"
    return _distances(G, encoder, ends, draws, batch, title, console, ranks)


@torch.no_grad()
def _distances(
    G: Generator,
    encoder: Encoder,
    ends: Callable[[Generator, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    draws: tuple[Tensor, Tensor, Tensor],
    batch: int,
    title: str,
    console: Console | None,
    ranks: Ranks | None,
) -> Tensor:
    """Returns the perceptual distances of the images of two codes w each, float64 on the CPU.

    `ends` makes the codes of a generator, pairs z [N, 2, z_dim], classes [N, c_dim] and points t [N].
    """
    device = G.mapping.w_avg.device
    ranks = Ranks(device) if ranks is None else ranks
    batches = ranks.share(list(zip(*(drawn.split(batch) for drawn in draws), strict=True)))
    distances = []
    with exact_generator(G, device) as G:
        for z_pair, c, t in track(batches, title, len(batches), console):
            codes = torch.cat(ends(G, z_pair.to(device), c.to(device), t.to(device)))
            images = G.synthesis(codes, noise_mode="const")
            start_features, end_features = zip(*(maps.chunk(2) for maps in encoder.perceptual(images)), strict=True)
            distances.append(perceptual_distance(start_features, end_features).double().cpu())
    return torch.cat(ranks.gather(distances))


def perceptual_distance(features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
    """Returns the squared distance [N] of unit-length maps [N, D, T, T]: mean over positions, sum over maps."""
    per_map = [(a - b).square().sum(dim=1).mean(dim=[1, 2]) for a, b in zip(features_a, features_b, strict=True)]
    return torch.stack(per_map).sum(dim=0)


def trimmed_mean(values: Tensor) -> float:
    """Returns the mean, in float64, of the values [N] from the 1st to the 99th percentile, which cuts off outliers.

    A percentile between two values is the lower one at the low end and the higher one at the high end.
    """
    ordered = values.double().sort().values.cpu().numpy()
    return _trimmed_mean(ordered, np.ones(len(ordered), dtype=np.int64))


def path_length_estimate(
    lengths: Tensor, resamples: int = 1000, seed: int = 0, console: Console | None = None
) -> Estimate:
    """Returns the trimmed mean of path lengths [N], N >= 2, with its 95% interval by bootstrap over the pairs."""
    return bootstrap(lengths, _trimmed_mean, resamples, seed, console)


def relative_path_length(lengths: Tensor, distances: Tensor) -> Estimate:
    """Returns the mean of path lengths [N] over the mean squared distance [N] of the paths' ends, N >= 2.

    Of lines in W, measured anywhere on them, that is 1 if the features of the images go straight and evenly from one
    end to the other, and more if they don't: the mean square of a speed is never below the square of its mean. It is
    the same for images that differ little as for images that differ much. The 95% interval is by the delta method.

    Raises:
        ValueError: There are too few pairs, or all ends are alike.
    """
    if lengths.shape != distances.shape or lengths.ndim != 1 or len(lengths) < 2 or not distances.mean() > 0:
        raise ValueError(f"there must be pairs of different ends, [N] with N >= 2, got {tuple(lengths.shape)}")
    value = (lengths.mean() / distances.mean()).item()
    error = (lengths - value * distances).std().item() / (distances.mean().item() * math.sqrt(len(lengths)))
    return Estimate(value, value - NORMAL_QUANTILE * error, value + NORMAL_QUANTILE * error)


def _draws(
    num_pairs: int, G: Generator, labels: Tensor | None, sampling: str, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns all pairs of z [N, 2, z_dim], classes [N, c_dim] and points t [N] of the paths, float64.

    They are drawn beforehand, so that the value does not depend on batches and processes.
    """
    if G.c_dim > 0 and labels is None:
        raise ValueError("labels must be given for a conditional generator")
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(num_pairs, 2, G.z_dim, generator=rng)
    c = torch.zeros(num_pairs, 0)
    if labels is not None:
        c = labels.cpu()[torch.randint(len(labels), (num_pairs,), generator=rng)]
    t = torch.zeros(num_pairs, dtype=torch.float64)
    if sampling == "full":
        t = torch.rand(num_pairs, dtype=torch.float64, generator=rng)
    return z, c, t


def _path_ends(G: Generator, space: str, z: Tensor, c: Tensor, t: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Returns the codes w at t [N] and t + eps of the path between z[:, 0] and z[:, 1], in the networks' dtype."""
    if space == "z":
        # Float64, as the step is small beside the codes.
        z0, z1 = z.double().unbind(dim=1)
        return _mapped(G, torch.stack([_slerp(z0, z1, t), _slerp(z0, z1, t + eps)], dim=1), c)
    w0, w1 = _mapped(G, z, c)
    step = w1 - w0
    start = w0 + t.to(w0.dtype).reshape(-1, *[1] * (w0.ndim - 1)) * step
    return start, start + eps * step


def _mapped(G: Generator, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the codes w of pairs z [N, 2, z_dim] of one class each, in the networks' dtype."""
    dtype = G.mapping.w_avg.dtype
    w0, w1 = (G.mapping(z_end.to(dtype), c.to(dtype)) for z_end in z.unbind(dim=1))
    return w0, w1


def _slerp(z0: Tensor, z1: Tensor, t: Tensor) -> Tensor:
    """Returns the unit codes [N, z_dim] at fractions t [N] of the arcs from z0 to z1, both scaled to unit length."""
    z0, z1 = (_unit(z) for z in (z0, z1))
    cosine = (z0 * z1).sum(dim=1, keepdim=True)
    angle = t[:, None] * cosine.clamp(-1, 1).arccos()
    return angle.cos() * z0 + angle.sin() * _unit(z1 - cosine * z0)


def _unit(z: Tensor) -> Tensor:
    """Returns the codes [N, z_dim] scaled to unit length."""
    return torch.nn.functional.normalize(z, dim=1)


def _trimmed_mean(values: np.ndarray, counts: np.ndarray) -> float:
    """Returns the trimmed mean of sorted values [N] that occur `counts` [N] times."""
    ends = counts.cumsum()
    # In integers, as 0.99 times a number may round up to the next position.
    last = int(ends[-1]) - 1
    low = values[np.searchsorted(ends, last // 100, side="right")]
    high = values[np.searchsorted(ends, -(-99 * last // 100), side="right")]
    kept = slice(np.searchsorted(values, low, side="left"), np.searchsorted(values, high, side="right"))
    return float(values[kept] @ counts[kept] / counts[kept].sum())
