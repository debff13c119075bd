# SPDX-License-Identifier: Apache-2.0
"""From the options of `hsr train` to the plan of a run."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ..config import Config, preset
from ..data import ImageDataset
from ..models.build import build_discriminator, build_generator
from ..options import TrainOptions
from ..preparation.command import is_library_set, open_training_set
from .checks import (
    check_augmentation,
    check_description,
    check_frozen_layers,
    check_precision,
    check_semantics,
    check_transfer,
)
from .continuation import check_continuation
from .machine import decide_precision
from .origin import Origin, find_origin
from .split import decide

# Processes that decode images which do not fit in memory.
DEFAULT_WORKERS = 2
# Thousands of images in which the augmentation's p goes from 0 to 1 where networks are trained already.
TRANSFER_ADA_KIMG = 100.0


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


def make_plan(options: TrainOptions, console: Console, device: torch.device) -> Plan:
    """Resolves options, presets and what is resumed into one plan, and prints the data set's report.

    Raises:
        UserError: The options or what they name cannot be used.
    """
    check_description(options)
    origin = find_origin(options)
    for note in origin.notes:
        console.print(note)
    data = _first(options.data.data, *(config.data for config in origin.data_settings))
    resize = _first(options.data.resize, *(config.resize for config in origin.data_settings))
    dataset = open_training_set(data, resize, False if options.data.workers else None, console)
    config = origin.settings
    if config is None:
        name = options.schedule.cfg or ("digits" if data is None else "auto")
        config = preset(name, dataset.resolution, device.type)
    if not origin.is_restart:
        config = dataclasses.replace(config, **_overrides(options, origin, config, data) | {"resize": resize})
    config, sentences = decide(config, dataset)
    if origin.run is None:
        config, precision_sentences = decide_precision(config, dataset.resolution, device)
        sentences += precision_sentences
    for sentence in sentences:
        console.print(sentence)
    config.require_channels(dataset.resolution)
    check_semantics(options, config)
    check_precision(options, config, device)
    check_augmentation(options, config, dataset.resolution)
    check_frozen_layers(config, dataset.resolution, is_trained=not (origin.run is None and origin.weights is None))
    if origin.run is not None:
        for sentence in check_continuation(origin.run, config):
            console.print(sentence)
    workers = options.data.workers
    if workers is None:
        workers = 0 if isinstance(dataset.store, np.ndarray) else DEFAULT_WORKERS
    if origin.weights is not None:
        check_transfer(origin.weights, config, dataset)
    return Plan(config, dataset, device, workers, origin.run, origin.weights)


def _first(*values: Any) -> Any:
    """Returns the first value that isn't None, or None."""
    return next((value for value in values if value is not None), None)


def _data_setting(data: str | Path | None) -> str | None:
    """Returns the images as a configuration names them, from any working directory."""
    return None if data is None else str(data if is_library_set(str(data)) else Path(data).resolve())


def _overrides(options: TrainOptions, origin: Origin, config: Config, data: str | Path | None) -> dict[str, Any]:
    """Returns the settings that the options and the origin determine, whatever the preset or an earlier run says."""
    settings = {field.name for field in dataclasses.fields(Config)}
    overrides: dict[str, Any] = {}
    if origin.weights is not None:
        overrides["start"] = str(origin.weights.resolve())
        # The average comes from the file, and following a young generator quickly would throw it away.
        overrides["ema_rampup"] = None
        overrides["ada_kimg"] = min(config.ada_kimg, TRANSFER_ADA_KIMG)
        if config.data != _data_setting(data):
            # What was decided on other images.
            overrides |= {"held_out": None, "subset": None, "mirror": None}
    overrides |= {name: value for _, name, value in options.given() if name in settings}
    if options.semantics.encoder_weights is not None:
        overrides["encoder_weights"] = str(options.semantics.encoder_weights.resolve())
    return overrides | {"data": _data_setting(data)}


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
