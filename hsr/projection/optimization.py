# SPDX-License-Identifier: Apache-2.0
"""The search for the latent code and the noise whose image is nearest to a photo.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020), appendix D. Other than there, the
noise begins as the network's own constant maps, with which the other commands show a code.
"""

import math
from dataclasses import dataclass

import torch
from rich.console import Console
from torch import Tensor
from torch.func import functional_call

from ..console import track
from ..metrics.exact import exact_generator
from ..models import Generator
from ..semantics.encoders import Encoder
from .objective import Distances, PhotoDistance, noise_correlation

# Codes that the mean and the spread of W are measured on, and how many are mapped at a time.
NUM_CODES, CODES_AT_A_TIME = 10_000, 2500
NOISE_BUFFER = "noise_const"
# Shares of all steps: the rise of the learning rate at the start, its fall at the end, the random walk of the code.
RISE, FALL, WALK = 0.05, 0.25, 0.75
# Size of the random walk at its start, in standard deviations of w.
WALK_SIZE = 0.05


@dataclass(frozen=True)
class ProjectionSettings:
    """How a photo is projected.

    Attributes:
        space: "w": one code for all layers; "w+": a code for each.
        steps: Steps of the optimizer.
        learning_rate: The largest one.
        pixel_weight: Weight of the mean squared difference of pixels, beside the perceptual distance.
        noise_weight: Weight of the noise's correlation.
        seed: Seed of everything that is drawn.
    """

    space: str = "w"
    steps: int = 300
    learning_rate: float = 0.1
    pixel_weight: float = 1.0
    noise_weight: float = 1e5
    seed: int = 0


@dataclass(frozen=True)
class Start:
    """Where a projection may begin.

    Attributes:
        mean: Mean code [w_dim] of a class, or of all codes.
        deviation: Root of the mean squared distance of codes from it.
    """

    mean: Tensor
    deviation: float


@dataclass(frozen=True)
class Projection:
    """A projected photo.

    Attributes:
        w: Its code [num_ws, w_dim].
        noise: Its noise maps [R, R] by the names of the layers.
        image: The image [1, 3, R, R] of these, in [-1, 1] as a picture shows it.
        start: Number of the start that it began at.
        before, after: Distances of the image from the photo at the start and at the end.
    """

    w: Tensor
    noise: dict[str, Tensor]
    image: Tensor
    start: int
    before: Distances
    after: Distances


@torch.no_grad()
def find_starts(G: Generator, classes: Tensor | None, seed: int) -> list[Start]:
    """Returns the start of each class of one-hot rows [N, c_dim], or the one of a generator without classes."""
    device = G.mapping.w_avg.device
    z = torch.randn(NUM_CODES, G.z_dim, generator=torch.Generator().manual_seed(seed)).to(device)
    starts = []
    for row in [None] if classes is None else classes.to(device):
        parts = z.split(CODES_AT_A_TIME)
        w = torch.cat([G.mapping.map(part, None if row is None else row.expand(len(part), -1)) for part in parts])
        mean = w.mean(dim=0)
        starts.append(Start(mean, (w - mean).square().sum(dim=1).mean().sqrt().item()))
    return starts


def project(
    G: Generator,
    encoder: Encoder,
    photo: Tensor,
    starts: list[Start],
    settings: ProjectionSettings,
    *,
    title: str = "Projecting",
    console: Console | None = None,
) -> Projection:
    """Projects a photo, in float32 without TF32.

    Args:
        G: Generator, whose weights need no gradients.
        encoder: Network of the perceptual distance.
        photo: The photo, [1, 3, R, R] in [-1, 1] on the generator's device.
        starts: Where to begin, of which the nearest one is taken.
        settings: How to search.
        title: The work, as the progress calls it.
        console: Where to show the progress; None: standard output.
    """
    with exact_generator(G, photo.device) as exact:
        return _Search(exact, PhotoDistance(encoder, photo), settings).run(starts, title, console)


def learning_rate_at(progress: float) -> float:
    """Returns the share of the learning rate at a share of the steps: it rises linearly and falls by a cosine."""
    fall = min(1.0, (1.0 - progress) / FALL)
    return (0.5 - 0.5 * math.cos(math.pi * fall)) * min(1.0, progress / RISE)


@dataclass(frozen=True)
class _Candidate:
    """A code, its noise maps, and the loss that they have."""

    loss: float
    w: Tensor
    noise: list[Tensor]


class _Search:
    def __init__(self, G: Generator, distance: PhotoDistance, settings: ProjectionSettings) -> None:
        self._synthesis, self._distance, self._settings = G.synthesis, distance, settings
        self._num_ws = G.num_ws
        named = G.synthesis.named_buffers()
        self._noise = {name: value.detach().clone() for name, value in named if name.endswith(NOISE_BUFFER)}

    def run(self, starts: list[Start], title: str, console: Console | None) -> Projection:
        chosen, before = self._nearest(starts)
        start, settings = starts[chosen], self._settings
        w = start.mean.repeat(1 if settings.space == "w" else self._num_ws, 1).requires_grad_()
        noise = [value.requires_grad_() for value in self._noise.values()]
        optimizer = torch.optim.Adam([w, *noise])
        draws = torch.Generator().manual_seed(settings.seed)
        latest = before
        # The optimizer's last step isn't always its best one.
        best: _Candidate | None = None

        def note() -> str:
            return f"distance {latest.perceptual.item():.3f}"

        for step in track(range(settings.steps), title, settings.steps, console, note):
            progress = step / settings.steps
            walk = WALK_SIZE * start.deviation * max(0.0, 1.0 - progress / WALK) ** 2
            optimizer.param_groups[0]["lr"] = settings.learning_rate * learning_rate_at((step + 1) / settings.steps)
            walked = w + walk * torch.randn(w.shape, generator=draws).to(w.device)
            latest = self._distance(self._image(walked))
            loss = self._loss(latest, noise)
            if walk == 0.0:
                best = _better(best, loss, w, noise)
            gradients = torch.autograd.grad(loss, [w, *noise])
            for value, gradient in zip([w, *noise], gradients, strict=True):
                value.grad = gradient
            optimizer.step()
            _standardize(noise)
        with torch.no_grad():
            best = _better(best, self._loss(self._distance(self._image(w)), noise), w, noise)
            for value, kept in zip(noise, best.noise, strict=True):
                value.copy_(kept)
            image = self._image(best.w).clamp(-1.0, 1.0)
            codes = best.w.expand(self._num_ws, -1).clone()
            maps = {name: value.detach() for name, value in self._noise.items()}
            return Projection(codes, maps, image, chosen, before, self._distance(image))

    def _loss(self, distances: Distances, noise: list[Tensor]) -> Tensor:
        settings = self._settings
        loss = distances.perceptual.sum() + settings.pixel_weight * distances.pixel.sum()
        return loss + settings.noise_weight * noise_correlation(noise)

    @torch.no_grad()
    def _nearest(self, starts: list[Start]) -> tuple[int, Distances]:
        """Returns the number of the start whose image is nearest to the photo, and its distances."""
        found = [self._distance(self._image(start.mean[None]).clamp(-1.0, 1.0)) for start in starts]
        totals = [(of.perceptual + self._settings.pixel_weight * of.pixel).item() for of in found]
        nearest = min(range(len(starts)), key=totals.__getitem__)
        return nearest, found[nearest]

    def _image(self, w: Tensor) -> Tensor:
        """Returns the image [1, 3, R, R] of w [1 or num_ws, w_dim] and the noise."""
        ws = w.expand(self._num_ws, -1)[None]
        return functional_call(self._synthesis, self._noise, (ws,), {"noise_mode": "const"})


def _better(best: _Candidate | None, loss: Tensor, w: Tensor, noise: list[Tensor]) -> _Candidate:
    """Returns the best candidate so far, or a copy of this one if its loss is smaller."""
    value = loss.item()
    if best is not None and best.loss <= value:
        return best
    return _Candidate(value, w.detach().clone(), [noise_map.detach().clone() for noise_map in noise])


@torch.no_grad()
def _standardize(noise: list[Tensor]) -> None:
    """Brings noise maps to mean 0 and variance 1, in place: the optimizer must not make noise louder."""
    for value in noise:
        value -= value.mean()
        value *= value.square().mean().rsqrt()
