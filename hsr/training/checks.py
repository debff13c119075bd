# SPDX-License-Identifier: Apache-2.0
"""Checks of options and settings against each other, the data set and the machine."""

import re
from pathlib import Path

import torch

from ..augment import pipe_strengths
from ..augment.bands import MIN_SIZE
from ..config import Config
from ..data import ImageDataset
from ..errors import UserError
from ..options import TrainOptions, flag
from ..weights import read_header
from .freezing import max_frozen_layers

# Options of HSR that have a meaning with one value of another option only.
_SEMANTIC_OWNERS = {"hsr_hidden": ("hsr_head", "mlp"), "hsr_spatial_gamma": ("hsr_targets", "spatial-norm")}


def check_description(options: TrainOptions) -> None:
    """Raises `UserError` if the words of the user's own can't stand in a folder's name."""
    words = options.run.desc
    if words is not None and not re.fullmatch(r"[\w.+=-]+", words):
        raise UserError(f"--desc {words} cannot be part of a folder's name: use letters, digits and -_.+= only.")


def check_augmentation(options: TrainOptions, config: Config, resolution: int) -> None:
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


def check_frozen_layers(config: Config, resolution: int, is_trained: bool) -> None:
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


def check_semantics(options: TrainOptions, config: Config) -> None:
    """Checks that no option is given which others make void."""
    for name, (owner, value) in _SEMANTIC_OWNERS.items():
        if getattr(options.semantics, name) is not None and getattr(config, owner) != value:
            spelled, owner_spelled = flag(options.semantics, name), flag(options.semantics, owner)
            raise UserError(
                f"{spelled} belongs to {owner_spelled} {value}, but {owner} is {getattr(config, owner)}: leave it out."
            )


def check_precision(options: TrainOptions, config: Config, device: torch.device) -> None:
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


def check_transfer(weights: Path, config: Config, dataset: ImageDataset) -> None:
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
