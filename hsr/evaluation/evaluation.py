# SPDX-License-Identifier: Apache-2.0
"""The measurement of generators, each metric with the same codes for all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from rich.console import Console
from torch import Tensor

from ..attributes import Classifier
from ..console import track
from ..data import ImageDataset
from ..editing.directions import Direction
from ..editing.effects import REACH, attribute_frames
from ..metrics import (
    PATHS,
    Estimate,
    Linearity,
    end_distances,
    frame_sigma,
    frechet_distance,
    kernel_distance,
    linear_separability,
    linearity,
    manifold_metrics,
    path_length_estimate,
    path_lengths,
    relative_path_length,
)
from ..metrics.exact import exact_generator
from ..ranks import Ranks
from ..semantics.encoders import Encoder
from .alignment import feature_r2
from .edits import NUM_FRAMES, frame_scores, lines, map_codes
from .features import choose_reals, generated_features, real_features
from .results import Result
from .subjects import Subject, class_rows, draw

# Names of metrics, and what makes each of them of its own inputs.
RELATIVE_PATH = "path_relative"
PATH_METRICS = (*PATHS, RELATIVE_PATH)
IMAGE_METRICS = ("fd", "kid", "prdc")
ATTRIBUTE_METRICS = ("als", "linear_separability")
FEATURE_METRICS = ("feature_r2",)
METRICS = (*PATH_METRICS, *IMAGE_METRICS, *ATTRIBUTE_METRICS, *FEATURE_METRICS)


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        images: Generated images of `IMAGE_METRICS`, and at most so many real ones.
        pairs: Pairs of images of each path length.
        eps: Step of path lengths.
        sequences: Edits of "als".
        samples: Images of "linear_separability".
        r2_images: Images of "feature_r2", each of which gives many positions.
        batch: Images, or pairs of them, that are computed at a time.
        seed: Seed of codes and classes.
    """

    images: int = 50_000
    pairs: int = 50_000
    eps: float = 1e-4
    sequences: int = 500
    samples: int = 200_000
    r2_images: int = 2000
    batch: int = 50
    seed: int = 0


class Evaluation:
    """The measurement of several generators.

    Args:
        subjects: The generators.
        sizes: How much is measured.
        device: Where they are.
        features: Network of the features; needed for all metrics but `PATH_METRICS`.
        distance: Network of the perceptual distance; needed for `PATH_METRICS`.
        classifier: Classifier of attributes; needed for `ATTRIBUTE_METRICS`.
        directions: Directions whose edits "als" measures; none: it measures straight lines in W.
        reach: Length of these edits to either side, in standard deviations of w.
        reals: Real images; None: none are at hand, and classes are drawn alike.
        console: Where to show the progress; None: standard output.
        ranks: The processes that share the work; None: this one does it all.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        sizes: Sizes,
        device: torch.device,
        *,
        features: Encoder | None = None,
        distance: Encoder | None = None,
        classifier: Classifier | None = None,
        directions: Sequence[Direction] = (),
        reach: float = REACH,
        reals: ImageDataset | None = None,
        console: Console | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.subjects, self.sizes, self.device = list(subjects), sizes, device
        self._features, self._distance, self._classifier = features, distance, classifier
        self._directions, self._reach = list(directions), reach
        self._dataset = reals
        self._console = console
        self._ranks = Ranks(device) if ranks is None else ranks
        # Path lengths by subject and path, as more than one metric is made of some.
        self._lengths: dict[tuple[str, str], Tensor] = {}
        self._rows = {subject.name: class_rows(subject, reals) for subject in self.subjects}

    @property
    def features(self) -> Encoder:
        """The network of features."""
        assert self._features is not None
        return self._features

    @property
    def distance(self) -> Encoder:
        """The network of the perceptual distance."""
        assert self._distance is not None
        return self._distance

    @property
    def classifier(self) -> Classifier:
        """The classifier of attributes."""
        assert self._classifier is not None
        return self._classifier

    def measure(self, metrics: Sequence[str]) -> list[Result]:
        """Returns the results of the named metrics of `METRICS`, the same ones in all processes."""
        results: list[Result] = []
        images = [metric for metric in metrics if metric in IMAGE_METRICS]
        for metric in dict.fromkeys(IMAGE_METRICS[0] if metric in IMAGE_METRICS else metric for metric in metrics):
            if metric == RELATIVE_PATH:
                results += [self._relative_path(subject) for subject in self.subjects]
            elif metric in PATHS:
                results += [self._path_length(subject, metric) for subject in self.subjects]
            elif metric in IMAGE_METRICS:
                results += [result for subject in self.subjects for result in self._comparison(subject, images)]
            elif metric == "als":
                results += self._linearity()
            elif metric == "linear_separability":
                results += [result for subject in self.subjects for result in self._separability(subject)]
            else:
                results += [result for subject in self.subjects for result in self._alignment(subject)]
        # Machines may round differently, and all processes must say the same.
        return self._ranks.from_main(results)

    def _announce(self, text: str) -> None:
        if self._console is not None:
            self._console.print(text)

    def _path_lengths(self, subject: Subject, path: str) -> Tensor:
        key = subject.name, path
        if key not in self._lengths:
            self._announce(f"{subject.name}: {path}")
            self._lengths[key] = path_lengths(
                subject.G,
                self.distance,
                path,
                num_pairs=self.sizes.pairs,
                batch=self.sizes.batch,
                eps=self.sizes.eps,
                seed=self.sizes.seed,
                labels=self._rows[subject.name],
                console=self._console,
                ranks=self._ranks,
            )
        return self._lengths[key]

    def _path_length(self, subject: Subject, path: str) -> Result:
        estimate = path_length_estimate(self._path_lengths(subject, path), console=self._console)
        return self._path_result(subject, path, estimate)

    def _relative_path(self, subject: Subject) -> Result:
        lengths = self._path_lengths(subject, "ppl_wfull")
        self._announce(f"{subject.name}: {RELATIVE_PATH}")
        distances = end_distances(
            subject.G,
            self.distance,
            num_pairs=self.sizes.pairs,
            batch=self.sizes.batch,
            seed=self.sizes.seed,
            labels=self._rows[subject.name],
            console=self._console,
            ranks=self._ranks,
        )
        return self._path_result(subject, RELATIVE_PATH, relative_path_length(lengths, distances))

    def _path_result(self, subject: Subject, metric: str, found: Estimate) -> Result:
        note = f"{self.sizes.pairs} pairs, eps {self.sizes.eps:g}"
        return Result(subject.name, metric, found.value, self.distance.name, found.low, found.high, note)

    @cached_property
    def reals(self) -> ImageDataset:
        """The real images that are compared with."""
        assert self._dataset is not None
        return choose_reals(self._dataset, self.sizes.images)

    @cached_property
    def _real_features(self) -> Tensor:
        return real_features(
            self.reals,
            self.features,
            self.device,
            batch=self.sizes.batch,
            console=self._console,
            ranks=self._ranks,
        )

    def _comparison(self, subject: Subject, metrics: Sequence[str]) -> list[Result]:
        self._announce(f"{subject.name}: {', '.join(metrics)}")
        reals = self._real_features
        z, c = draw(subject, self._rows[subject.name], self.sizes.images, self.sizes.seed)
        fakes = generated_features(
            subject.G,
            self.features,
            z,
            c,
            self.device,
            batch=self.sizes.batch,
            console=self._console,
            ranks=self._ranks,
        )
        note = f"{len(fakes)} generated images, {len(reals)} of {self.reals.name}"
        values: dict[str, float] = {}
        details: dict[str, dict[str, float]] = {}
        if "fd" in metrics:
            values["fd"] = frechet_distance(fakes, reals, self._console)
        if "kid" in metrics:
            values["kid"], spread = kernel_distance(fakes, reals, seed=self.sizes.seed, console=self._console)
            details["kid"] = {"standard deviation over subsets": spread}
        if "prdc" in metrics:
            values |= manifold_metrics(reals, fakes)
        name = self.features.name
        return [
            Result(subject.name, metric, value, name, note=note, details=details.get(metric, {}))
            for metric, value in values.items()
        ]

    def _linearity(self) -> list[Result]:
        results = []
        for title, scores in self._edits():
            shared = frame_sigma(list(scores.values()))
            kind = f"edits along {title}" if title else "lines in W"
            note = f"{self.sizes.sequences} {kind} of {NUM_FRAMES} frames, {len(self.classifier.names)} attributes"
            suffix = f"@{title}" if title else ""
            for name, own in scores.items():
                results += self._linearity_results(name, linearity(own), note, suffix)
                if len(scores) > 1:
                    results += self._linearity_results(name, linearity(own, shared), note, "_shared")
        return results

    def _edits(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yields the title of each kind of edits, and by generator the scores of its frames."""
        if not self._directions:
            yield "", {subject.name: self._line_scores(subject) for subject in self.subjects}
            return
        for direction in self._directions:
            yield direction.name, {subject.name: self._edit_scores(subject, direction) for subject in self.subjects}

    def _codes(self, subject: Subject, z: Tensor, c: Tensor | None) -> Tensor:
        return map_codes(subject.G, z, c, self.device, self.sizes.batch)

    def _scores(self, subject: Subject, codes: Tensor, title: str) -> Tensor:
        return frame_scores(
            subject.G,
            self.classifier,
            codes,
            self.device,
            batch=self.sizes.batch,
            title=title,
            console=self._console,
            ranks=self._ranks,
        )

    def _line_scores(self, subject: Subject) -> Tensor:
        """Returns the scores of frames on straight lines in W between two random codes of one class each."""
        self._announce(f"{subject.name}: als")
        z, c = draw(subject, self._rows[subject.name], 2 * self.sizes.sequences, self.sizes.seed)
        classes = None if c is None else c[::2].repeat_interleave(2, dim=0)
        ends = self._codes(subject, z, classes).unflatten(0, (-1, 2))
        return self._scores(subject, lines(ends), "Measuring edits")

    def _edit_scores(self, subject: Subject, direction: Direction) -> Tensor:
        """Returns the scores of frames of edits along a direction, from random codes."""
        self._announce(f"{subject.name}: als along {direction.name}")
        z, c = draw(subject, self._rows[subject.name], self.sizes.sequences, self.sizes.seed)
        share = self._ranks.share(self._codes(subject, z, c).split(self.sizes.batch))
        with exact_generator(subject.G, self.device) as G:
            scores = [
                attribute_frames(G, direction, w, self.classifier, self._reach)
                for w in track(share, "Measuring edits", len(share), self._console)
            ]
        return torch.cat(self._ranks.gather(scores))

    def _linearity_results(self, name: str, found: Linearity, note: str, suffix: str) -> list[Result]:
        network = self.classifier.network
        per_attribute = {
            attribute: {"als": als, "range": reach, "sigma": sigma}
            for attribute, als, reach, sigma in zip(
                self.classifier.names,
                found.deviations[1:-1].mean(dim=0).tolist(),
                found.ranges.tolist(),
                found.sigma.tolist(),
                strict=True,
            )
        }
        mean = found.mean
        return [
            Result(name, f"als{suffix}", mean.value, network, mean.low, mean.high, note, per_attribute),
            Result(name, f"als_squared{suffix}", found.squared_sum, network, note=note),
            Result(name, f"als_range{suffix}", found.ranges.mean().item(), network, note=note),
        ]

    def _separability(self, subject: Subject) -> list[Result]:
        self._announce(f"{subject.name}: linear_separability")
        z, c = draw(subject, self._rows[subject.name], self.sizes.samples, self.sizes.seed)
        w = self._codes(subject, z, c)
        # As edits of one frame.
        scores = self._scores(subject, w[:, None], "Classifying images")[:, 0]
        note = f"{self.sizes.samples} images, {len(self.classifier.names)} attributes"
        results = []
        for space, latents in (("w", w), ("z", z)):
            found = linear_separability(latents, scores, seed=self.sizes.seed, console=self._console, ranks=self._ranks)
            entropies = dict(zip(self.classifier.names, found.entropies.tolist(), strict=True))
            metric = "linear_separability" + ("" if space == "w" else "_z")
            results.append(
                Result(subject.name, metric, found.value, self.classifier.network, note=note, details=entropies)
            )
        return results

    def _alignment(self, subject: Subject) -> list[Result]:
        self._announce(f"{subject.name}: feature_r2")
        count = self.sizes.r2_images
        z, c = draw(subject, self._rows[subject.name], count, self.sizes.seed)
        values = feature_r2(
            subject.G,
            self.features,
            z,
            c,
            self.device,
            batch=self.sizes.batch,
            seed=self.sizes.seed,
            console=self._console,
            ranks=self._ranks,
        )
        return [
            Result(subject.name, f"feature_r2@{scale}", value, self.features.name, note=f"{count} images")
            for scale, value in values.items()
        ]
