# SPDX-License-Identifier: Apache-2.0
"""From the options of `hsr train` to the plan of a run."""

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from ..config import Config, load_config, preset
from ..data import ImageDataset, open_dataset
from ..device import resolve_device
from ..errors import UserError, exists
from ..interop.opening import is_foreign
from ..options import TrainOptions, flag
from ..weights import find_weights, read_header

# Processes that decode images which do not fit in memory.
DEFAULT_WORKERS = 2
# Options that may change when a run is continued; any other change would make it another run.
CONTINUABLE = {"data", "outdir", "kimg", "resume", "device", "workers", "batch_gpu", "profile"}


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
    resume = options.run.resume
    if resume is not None and not exists(resume, "a checkpoint"):
        raise UserError(f"--resume {resume} does not exist.")
    run = resume if resume is not None and resume.is_dir() else None
    weights = resume if run is None else None
    if weights is not None and is_foreign(weights):
        raise UserError(
            f"--resume {weights} is a file of another project: make a file of weights of it first, with "
            f"hsr convert {shlex.quote(str(weights))} {shlex.quote(weights.stem)}.safetensors."
        )
    if run is not None:
        _check_continuable(options, run)
        base = load_config(run / "config.json")
        data = options.data.data or base.data
    else:
        data = options.data.data
    in_memory = False if options.data.workers else None
    dataset = open_dataset(data, in_memory=in_memory)
    for sentence in dataset.report:
        console.print(sentence)
    if run is None:
        base = _base_config(options, weights, dataset.resolution, device.type)
    settings = {field.name for field in dataclasses.fields(Config)}
    overrides = {name: value for _, name, value in options.given() if name in settings}
    if options.semantics.encoder_weights is not None:
        overrides["encoder_weights"] = str(options.semantics.encoder_weights.resolve())
    overrides["data"] = None if data is None else str(Path(data).resolve())
    if weights is not None:
        # The average comes from the file, and following a young generator quickly would throw it away.
        overrides["ema_rampup"] = None
    config = dataclasses.replace(base, **overrides)
    config.require_channels(dataset.resolution)
    _check_precision(options, config, device)
    workers = options.data.workers
    if workers is None:
        workers = 0 if isinstance(dataset.store, np.ndarray) else DEFAULT_WORKERS
    if weights is not None:
        _check_transfer(weights, config, dataset)
    return Plan(config, dataset, device, workers, run, weights)


def _base_config(options: TrainOptions, weights: Path | None, resolution: int, device: str) -> Config:
    cfg = options.schedule.cfg
    if cfg is not None and cfg.lower().endswith(".json"):
        return load_config(Path(cfg))
    if cfg is None and weights is not None:
        # The networks must be those of the checkpoint.
        return read_header(weights).config
    name = cfg or ("digits" if options.data.data is None else "auto")
    return preset(name, resolution, device)


def _check_continuable(options: TrainOptions, run: Path) -> None:
    if not (run / "config.json").is_file():
        raise UserError(f"--resume {run} is not a run folder: it has no config.json.")
    refused = [flag(group, name) for group, name, _ in options.given() if name not in CONTINUABLE]
    if refused:
        raise UserError(
            f"{refused[0]} cannot change when {run} is continued: leave it out, or start "
            f"a new run from its weights with --resume {find_weights(run)}."
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


def _describe_classes(classes: tuple[int, ...]) -> str:
    """Returns the number and the range of classes in words."""
    if not classes:
        return "no classes"
    if len(classes) == 1:
        return f"the class {classes[0]}"
    return f"{len(classes)} classes from {classes[0]} to {classes[-1]}"
