# SPDX-License-Identifier: Apache-2.0
"""From the options of `hsr train` to the plan of a run."""

import dataclasses
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ..augment import pipe_strengths
from ..augment.bands import MIN_SIZE
from ..config import Config, load_config, preset
from ..data import ImageDataset
from ..device import resolve_device
from ..errors import UserError, exists
from ..interop.opening import is_foreign
from ..models.build import build_discriminator, build_generator
from ..options import TrainOptions, flag
from ..preparation.command import is_library_set, open_training_set
from ..weights import read_header
from .continuation import check_continuation
from .freezing import max_frozen_layers
from .split import decide
from .stage import baseline_weights, stage_config

# Processes that decode images which do not fit in memory.
DEFAULT_WORKERS = 2
# Thousands of images in which the augmentation's p goes from 0 to 1 where networks are trained already.
TRANSFER_ADA_KIMG = 100.0
# Options of HSR that have a meaning with one value of another option only.
_SEMANTIC_OWNERS = {"hsr_hidden": ("hsr_head", "mlp"), "hsr_spatial_gamma": ("hsr_targets", "spatial-norm")}


@dataclass(frozen=True)
class Plan:
    """What a run trains, and where it starts from.

    Attributes:
        config: Settings.
        dataset: All images, before the split.
        device: Device to train on.
        workers: Processes that decode images.
        run: Run folder to continue, or None for a new one.
        weights: File of weights that a new run starts from, or None.
    """

    config: Config
    dataset: ImageDataset
    device: torch.device
    workers: int
    run: Path | None
    weights: Path | None


def make_plan(options: TrainOptions, console: Console) -> Plan:
    """Resolves options, presets and what is resumed into one plan, and prints the data set's report.

    Raises:
        UserError: The options or what they name cannot be used.
    """
    device = resolve_device(options.run.device)
    if options.run.desc is not None and not re.fullmatch(r"[\w.+=-]+", options.run.desc):
        raise UserError(
            f"--desc {options.run.desc} cannot be part of a folder's name: use letters, digits and -_.+= only."
        )
    baseline, stage = baseline_weights(options), None
    run, weights = _origin(options.run.resume, f"--resume {options.run.resume}")
    if baseline is not None:
        _, weights = _origin(baseline, f"--hsr-from {baseline}")
        stage, notes = stage_config(baseline, has_data=options.data.data is not None)
        for note in notes:
            console.print(note)
    earlier = None if run is None else load_config(run / "config.json")
    cfg = options.schedule.cfg
    repeated = load_config(Path(cfg)) if cfg is not None and cfg.lower().endswith(".json") else None
    if run is None and weights is None and repeated is not None and repeated.start is not None:
        _, weights = _origin(Path(repeated.start), f"The start of {cfg}, {repeated.start},")
    configs = [config for config in (repeated, earlier, stage) if config is not None]
    data = _first(options.data.data, *(config.data for config in configs))
    resize = _first(options.data.resize, *(config.resize for config in configs))
    dataset = open_training_set(data, resize, False if options.data.workers else None, console)
    if repeated is not None:
        base = repeated
    elif stage is not None:
        base = stage
    elif cfg is None and earlier is not None:
        base = earlier
    elif cfg is None and weights is not None:
        base = _transferred(read_header(weights).config, data)
    else:
        base = preset(cfg or ("digits" if data is None else "auto"), dataset.resolution, device.type)
    config = dataclasses.replace(base, **_overrides(options, data, weights) | {"resize": resize})
    if weights is not None:
        config = dataclasses.replace(config, ada_kimg=min(config.ada_kimg, TRANSFER_ADA_KIMG))
    config, sentences = decide(config, dataset)
    for sentence in sentences:
        console.print(sentence)
    _check_semantics(options, config)
    config.require_channels(dataset.resolution)
    _check_precision(options, config, device)
    _check_augmentation(options, config, dataset.resolution)
    _check_frozen_layers(config, dataset.resolution, is_trained=not (run is None and weights is None))
    if run is not None:
        for sentence in check_continuation(run, config):
            console.print(sentence)
    workers = options.data.workers
    if workers is None:
        workers = 0 if isinstance(dataset.store, np.ndarray) else DEFAULT_WORKERS
    if weights is not None:
        _check_transfer(weights, config, dataset)
    return Plan(config, dataset, device, workers, run, weights)


def _first(*values: Any) -> Any:
    """Returns the first value that isn't None, or None."""
    return next((value for value in values if value is not None), None)


def _data_setting(data: str | Path | None) -> str | None:
    """Returns the images as a configuration names them, from any working directory."""
    return None if data is None else str(data if is_library_set(str(data)) else Path(data).resolve())


def _transferred(config: Config, data: str | Path | None) -> Config:
    """Returns the settings of the weights that a run starts from, without what was decided on other images."""
    if config.data == _data_setting(data):
        return config
    return dataclasses.replace(config, held_out=None, subset=None, mirror=None)


def _origin(resume: Path | None, title: str) -> tuple[Path | None, Path | None]:
    """Returns the run folder to continue and the file of weights to start from, of which one at most is there.

    `title` is what messages call it.
    """
    if resume is None:
        return None, None
    if not exists(resume, "a checkpoint"):
        raise UserError(f"{title} does not exist.")
    if resume.is_dir():
        if not (resume / "config.json").is_file():
            raise UserError(f"{title} is not a run folder: it has no config.json.")
        return resume, None
    if is_foreign(resume):
        raise UserError(
            f"{title} is a file of another project: make a file of weights of it first, with "
            f"hsr convert {shlex.quote(str(resume))} {shlex.quote(resume.stem)}.safetensors."
        )
    return None, resume


def _overrides(options: TrainOptions, data: str | Path | None, weights: Path | None) -> dict[str, Any]:
    """Returns the settings that the options and what is resumed determine, whatever the preset says."""
    settings = {field.name for field in dataclasses.fields(Config)}
    overrides = {name: value for _, name, value in options.given() if name in settings}
    if options.semantics.encoder_weights is not None:
        overrides["encoder_weights"] = str(options.semantics.encoder_weights.resolve())
    overrides["data"] = _data_setting(data)
    if weights is not None:
        overrides["start"] = str(weights.resolve())
        # The average comes from the file, and following a young generator quickly would throw it away.
        overrides["ema_rampup"] = None
    return overrides


def _check_augmentation(options: TrainOptions, config: Config, resolution: int) -> None:
    """Raises `UserError` if the augmentation can't be made, or options are given that have no effect on it."""
    kinds = {
        "augmentation_p": ("fixed",),
        "augmentation_target": ("ada",),
        "augmentation_pipe": ("ada", "fixed"),
    }
    for group, name, value in options.given():
        if name in kinds and config.augmentation not in kinds[name]:
            raise UserError(
                f"{flag(group, name)} {value} goes with --aug {' or '.join(kinds[name])}, but the augmentation is "
                f"{config.augmentation}."
            )
    if config.augmentation == "none":
        return
    try:
        strengths = pipe_strengths(config.augmentation_pipe)
    except ValueError as error:
        raise UserError(f"--augpipe {config.augmentation_pipe} cannot be used ({error}).") from error
    if "imgfilter" in strengths and resolution < MIN_SIZE:
        raise UserError(
            f"--augpipe {config.augmentation_pipe} filters images (imgfilter), which takes at least {MIN_SIZE} pixels, "
            f"but they are {resolution} pixels wide: choose another pipe, such as bgc."
        )


def _check_frozen_layers(config: Config, resolution: int, is_trained: bool) -> None:
    """Raises `UserError` if the discriminator has fewer layers to freeze, or isn't trained."""
    if config.frozen_layers == 0:
        return
    limit = max_frozen_layers(resolution, config.residual_discriminator)
    if config.frozen_layers > limit:
        raise UserError(
            f"--freezed is {config.frozen_layers}, but must be at most {limit} for images {resolution} pixels wide, as "
            "the discriminator has no more layers above 4x4."
        )
    if not is_trained:
        raise UserError(
            f"--freezed {config.frozen_layers} freezes layers of a discriminator that is trained already, so it needs "
            "--resume FILE."
        )


def _check_semantics(options: TrainOptions, config: Config) -> None:
    """Checks that no option is given which others make void."""
    for name, (owner, value) in _SEMANTIC_OWNERS.items():
        if getattr(options.semantics, name) is not None and getattr(config, owner) != value:
            spelled, owner_spelled = flag(options.semantics, name), flag(options.semantics, owner)
            raise UserError(
                f"{spelled} belongs to {owner_spelled} {value}, but {owner} is {getattr(config, owner)}: leave it out."
            )


def _check_precision(options: TrainOptions, config: Config, device: torch.device) -> None:
    """Raises `UserError` if the precision that was asked for would have no effect."""
    wanted = options.machine.mixed_precision
    if wanted in (None, "off"):
        return
    if config.mixed_precision_resolutions == 0:
        raise UserError(
            f"--mixed-precision {wanted} needs resolutions to apply to, and the preset {config.preset} has none: give "
            "their number as --mixed-precision-resolutions."
        )
    if wanted == "fp16" and device.type != "cuda":
        raise UserError("--mixed-precision fp16 needs a GPU: CPUs can train with bf16 or off.")


def _check_transfer(weights: Path, config: Config, dataset: ImageDataset) -> None:
    header = read_header(weights)
    classes = dataset.classes if config.conditional else ()
    if (header.resolution, header.classes) != (dataset.resolution, classes):
        raise UserError(
            f"{weights} is a checkpoint of another shape: it is for images {header.resolution} pixels wide and "
            f"{_describe_classes(header.classes)}, but {dataset.name} has images {dataset.resolution} pixels wide and "
            f"{_describe_classes(classes)}."
        )


def describe(plan: Plan) -> Table:
    """Returns a table of what a plan trains, and of every setting."""
    config, dataset = plan.config, plan.dataset
    num_classes = dataset.num_classes if config.conditional else 0
    with torch.device("meta"):
        networks = {
            "generator": build_generator(config, dataset.resolution, num_classes),
            "discriminator": build_discriminator(config, dataset.resolution, num_classes),
        }
    table = Table(box=None)
    table.add_row("images", f"{len(dataset)}, {dataset.resolution} pixels wide, {num_classes or 'no'} classes")
    for name, network in networks.items():
        table.add_row(name, f"{sum(parameter.numel() for parameter in network.parameters()):,} parameters")
    table.add_row("steps", f"{-(-round(config.kimg * 1000) // config.batch):,}")
    table.add_row("device", str(plan.device))
    for field in dataclasses.fields(config):
        table.add_row(field.name, str(getattr(config, field.name)))
    return table


def _describe_classes(classes: tuple[int, ...]) -> str:
    """Returns the number and the range of classes in words."""
    if not classes:
        return "no classes"
    if len(classes) == 1:
        return f"the class {classes[0]}"
    return f"{len(classes)} classes from {classes[0]} to {classes[-1]}"
