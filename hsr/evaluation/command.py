# SPDX-License-Identifier: Apache-2.0
"""`hsr evaluate`: from options to a table of results."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from ..attributes import Classifier, load_classifier
from ..console import make_console
from ..data import ImageDataset
from ..editing.directions import Direction, read_directions
from ..errors import UserError, writing
from ..files import cache_folder
from ..options import EvaluateOptions
from ..preparation.command import open_training_set
from ..ranks import Ranks, joined
from ..semantics.build import AT_HAND, build_encoder
from ..semantics.encoders import Encoder
from ..training.split import decide, split_images
from .evaluation import ATTRIBUTE_METRICS, FEATURE_METRICS, IMAGE_METRICS, METRICS, PATH_METRICS, Evaluation, Sizes
from .learning import learn_attributes
from .results import results_table, write_results
from .subjects import Subject, load_subjects


def evaluate(options: EvaluateOptions) -> None:
    """Runs `hsr evaluate`.

    Raises:
        UserError: The options, a checkpoint, the images or a network cannot be used.
    """
    metrics = parse_metrics(options.metrics)
    _check_options(options, metrics)
    console = make_console()
    with joined(options.device) as ranks:
        subjects = load_subjects(options.checkpoint, ranks.device)
        with ranks.one_per_machine_first():
            dataset = _open_images(options, metrics, subjects, console)
        # What can't be had is told before anything is measured.
        instruments = _Instruments(options, dataset, ranks, console)
        needs_attributes = bool(set(metrics) & set(ATTRIBUTE_METRICS))
        own = instruments.own_classifier(subjects[0]) if needs_attributes else None
        features = distance = None
        if set(metrics) & {*IMAGE_METRICS, *FEATURE_METRICS} or (needs_attributes and own is None):
            features = instruments.network(options.features, standard="inception", purpose="Features")
            if set(metrics) & set(FEATURE_METRICS) and not features.shapes:
                raise UserError(
                    f"--features {features.name} has features of whole images alone, and {FEATURE_METRICS[0]} is of "
                    "feature maps: choose another network."
                )
        if set(metrics) & set(PATH_METRICS):
            distance = instruments.network(options.distance, standard="lpips-vgg", purpose="Perceptual distances")
            if not distance.shapes:
                raise UserError(
                    f"--distance {distance.name} has features of whole images alone: choose another network."
                )
        classifier = instruments.learned_classifier(features) if features and needs_attributes and not own else own
        sizes = Sizes(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Sizes)})
        evaluation = Evaluation(
            subjects,
            sizes,
            ranks.device,
            features=features,
            distance=distance,
            classifier=classifier,
            directions=_directions(options, subjects),
            reach=options.edit_range,
            reals=dataset,
            console=console,
            ranks=ranks,
        )
        results = evaluation.measure(metrics)
        if not ranks.is_main:
            return
        console.print(results_table(results))
        if options.out is not None:
            with writing(options.out):
                options.out.parent.mkdir(parents=True, exist_ok=True)
            write_results(results, _settings(options, subjects, dataset), options.out)
            console.print(f"Wrote {options.out}.")


def parse_metrics(text: str) -> list[str]:
    """Returns the names in a list of metrics, each once.

    Raises:
        UserError: There is no such metric, or none is named.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        found = f"names {unknown[0]!r}" if unknown else "names none"
        raise UserError(f"--metrics {found}, but must name some of {', '.join(METRICS)}.")
    return names


def _check_options(options: EvaluateOptions, metrics: list[str]) -> None:
    """Checks what doesn't depend on the networks.

    Raises:
        UserError: Options exclude one another, or nothing that is measured takes them.
    """
    if options.out is not None and options.out.suffix.lower() != ".json":
        raise UserError(f"--out {options.out} does not end in .json, which is what is written.")
    if options.classifier is not None and options.attributes is not None:
        raise UserError("--classifier knows its attributes: leave out --attributes.")
    for option, takers in (
        ("classifier", ATTRIBUTE_METRICS),
        ("attributes", ATTRIBUTE_METRICS),
        ("directions", ("als",)),
    ):
        if getattr(options, option) is not None and not set(metrics) & set(takers):
            raise UserError(f"--{option} is for {' and '.join(takers)}, which --metrics doesn't name.")


def _open_images(
    options: EvaluateOptions, metrics: list[str], subjects: list[Subject], console: Console
) -> ImageDataset | None:
    """Returns the real images, or None where nothing needs them and none are named.

    Those that aren't named are the images of the first generator's run.

    Raises:
        UserError: They can't be used, or none are named where some are needed.
    """
    subject, config = subjects[0], subjects[0].config
    needs_images = set(metrics) & set(IMAGE_METRICS) or "labels" in (options.features, options.distance)
    needs_labels = set(metrics) & set(ATTRIBUTE_METRICS) and options.classifier is None
    is_named = options.data is not None or not subject.is_foreign
    if not is_named:
        if needs_images or needs_labels:
            raise UserError(f"{subject.path} comes from another project and names no images: name them with --data.")
        return None
    data = options.data if options.data is not None else config.data
    resize = options.resize if options.data is not None else options.resize or config.resize
    if not (needs_images or needs_labels or any(other.G.c_dim for other in subjects)):
        return None
    dataset = open_training_set(data, resize, None, console)
    if dataset.resolution != subject.G.resolution:
        raise UserError(
            f"The images of {dataset.name} are {dataset.resolution} pixels wide, but those of {subject.name} "
            f"{subject.G.resolution}: bring them to one size with --resize {subject.G.resolution}."
        )
    for other in subjects[1:]:
        # Classes may be drawn as often as in images of any size.
        if (needs_images or needs_labels) and other.G.resolution != dataset.resolution:
            raise UserError(
                f"The images of {subject.name} are {dataset.resolution} pixels wide, but those of {other.name} "
                f"{other.G.resolution}: generators of different sizes are compared with real images one at a time."
            )
    if options.reals == "all":
        return dataset
    split = split_images(dataset, decide(config, dataset)[0])
    chosen = split.held_out if options.reals == "held-out" else split.train
    if len(chosen) == 0:
        raise UserError(f"{subject.name} was trained on all images, so none are held out: leave out --reals held-out.")
    return dataclasses.replace(chosen, name=f"{dataset.name}'s {options.reals} images")


@dataclass(frozen=True)
class _Instruments:
    """The way to networks and classifiers, which one process of each machine downloads or trains before the others."""

    options: EvaluateOptions
    dataset: ImageDataset | None
    ranks: Ranks
    console: Console

    def network(self, spec: str, *, standard: str, purpose: str) -> Encoder:
        """Returns the network of a name, in evaluation mode.

        Args:
            spec: As `build_encoder` takes it; "auto": the standard one where its weights are at hand, else lite0.
            standard: The network that published values are measured with.
            purpose: What it is for, in the plural.
        """
        if spec == "auto":
            # One machine decides for all: other networks than its own would measure something else.
            spec = self.ranks.from_main(standard if AT_HAND[standard]() else "lite0")
            if spec != standard:
                self.console.print(
                    f"{purpose} are those of {spec}, as {standard} is not on this machine; named as an option, it is "
                    "downloaded."
                )
        return self._build(spec)

    def own_classifier(self, subject: Subject) -> Classifier | None:
        """Returns the user's classifier of attributes, or None if none is named."""
        if self.options.classifier is None:
            return None
        size = subject.G.resolution
        return load_classifier(self.options.classifier, torch.zeros(1, 3, size, size, device=self.ranks.device))

    def learned_classifier(self, features: Encoder) -> Classifier:
        """Returns a classifier that has learned the attributes of the images."""
        assert self.dataset is not None
        return learn_attributes(
            features,
            self.dataset,
            self.ranks.device,
            path=self.options.attributes,
            seed=self.options.seed,
            batch=self.options.batch,
            console=self.console,
            ranks=self.ranks,
        )

    def _build(self, spec: str) -> Encoder:
        with self.ranks.one_per_machine_first():
            return build_encoder(
                spec,
                dataset=self.dataset,
                device=self.ranks.device,
                cache_dir=cache_folder(),
                log=self.console.print,
            )


def _directions(options: EvaluateOptions, subjects: list[Subject]) -> list[Direction]:
    """Returns the directions of the file that is named, if any."""
    if options.directions is None:
        return []
    if len(subjects) > 1:
        raise UserError(f"--directions {options.directions} is of one generator, but {len(subjects)} are measured.")
    return list(read_directions(options.directions, subjects[0].G).directions.values())


def _settings(options: EvaluateOptions, subjects: list[Subject], dataset: ImageDataset | None) -> dict[str, Any]:
    """Returns what the results depend on, as JSON values."""
    settings: dict[str, Any] = {
        name: value for name, value in dataclasses.asdict(options).items() if isinstance(value, str | int | float)
    }
    settings["checkpoints"] = {subject.name: str(subject.path) for subject in subjects}
    settings["images"] = None if dataset is None else {"name": dataset.name, "fingerprint": dataset.fingerprint()}
    settings["precision"] = "float32"
    settings["torch"] = torch.__version__
    return settings
