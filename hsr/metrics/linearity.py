# SPDX-License-Identifier: Apache-2.0
"""Attribute Linearity Score: how evenly attributes change along an edit.

Source: Karmali et al., "Hierarchical Semantic Regularization of Latent Spaces in StyleGANs" (2022).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .estimate import Estimate, bootstrap, counted_mean


@dataclass(frozen=True)
class Linearity:
    """How evenly A attributes change along edits of T frames; lower is more linear.

    An edit that does nothing is perfectly linear, so `ranges` belongs beside every score.

    Attributes:
        deviations: [T, A], the score of each frame and attribute: mean over sequences of |d|, zero at both ends.
        mean: Mean of `deviations` over attributes and the T - 2 frames between the ends, which are zero by definition;
            its interval is a bootstrap over sequences, for the same sigma.
        squared_sum: The other summary, of the released code: per attribute the sum over frames of the squared
            deviation, then the mean over attributes.
        sigma: [A], the scale of each attribute's scores.
        ranges: [A], mean over sequences of |last - first score|, in sigmas.
    """

    deviations: Tensor
    mean: Estimate
    squared_sum: float
    sigma: Tensor
    ranges: Tensor


def linearity(scores: Tensor, sigma: Tensor | None = None, *, resamples: int = 1000, seed: int = 0) -> Linearity:
    """Returns the Attribute Linearity Score of edits, in float64.

    d_t = (a_0 + (a_{T-1} - a_0) t / (T - 1) - a_t) / sigma for the scores a_t of a sequence's frames.

    Args:
        scores: [S, T, A], attribute scores of the T >= 3 frames of S >= 2 sequences.
        sigma: [A], the scale of each attribute: `frame_sigma` of all models that are compared; None: of these scores.
        resamples: Resamples of the interval.
        seed: Seed of the resamples.

    Raises:
        ValueError: A shape does not fit, a score is not finite, or a sigma is not finite or negative.
    """
    scores = _checked(scores)
    sigma = frame_sigma([scores]) if sigma is None else sigma.double().to(scores.device)
    if sigma.shape != scores.shape[2:]:
        raise ValueError(f"sigma must be [{scores.shape[2]}], got {tuple(sigma.shape)}")
    if not ((sigma >= 0) & sigma.isfinite()).all():
        raise ValueError("sigma must be finite and not negative")
    # What never varies lies on its line, by no sigmas.
    unit = sigma.masked_fill(sigma == 0, torch.inf)
    first, last = scores[:, :1], scores[:, -1:]
    t = torch.linspace(0, 1, scores.shape[1], dtype=torch.float64, device=scores.device)[:, None]
    deviations = ((first + (last - first) * t - scores) / unit).abs()
    # By definition, where rounding would leave something.
    deviations[:, [0, -1]] = 0
    per_frame = deviations.mean(dim=0)
    per_sequence = deviations[:, 1:-1].mean(dim=[1, 2])
    return Linearity(
        deviations=per_frame,
        mean=bootstrap(per_sequence, counted_mean, resamples, seed),
        squared_sum=per_frame.square().sum(dim=0).mean().item(),
        sigma=sigma,
        ranges=((last - first).abs().mean(dim=[0, 1]) / unit),
    )


def frame_sigma(scores: Sequence[Tensor]) -> Tensor:
    """Returns the standard deviation [A], float64, of attribute scores over all frames of all models.

    Args:
        scores: One [S, T, A] per model; S and T may differ.

    Raises:
        ValueError: A shape does not fit, or a score is not finite.
    """
    frames = [_checked(model).flatten(0, 1) for model in scores]
    if len({model.shape[1] for model in frames}) != 1:
        raise ValueError(f"all models must have the same attributes, got {[model.shape[1] for model in frames]}")
    return torch.cat([model.to(frames[0].device) for model in frames]).std(dim=0, correction=0)


def _checked(scores: Tensor) -> Tensor:
    if scores.ndim != 3 or scores.shape[0] < 2 or scores.shape[1] < 3 or scores.shape[2] < 1:
        raise ValueError(f"scores must be [S, T, A] with S >= 2, T >= 3 and A >= 1, got {tuple(scores.shape)}")
    if not scores.isfinite().all():
        raise ValueError("scores must be finite")
    return scores.detach().double()
