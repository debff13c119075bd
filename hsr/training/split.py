# SPDX-License-Identifier: Apache-2.0
"""Which images are trained on and which ones metrics compare with; and the settings that the data set decides."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from ..config import Config
from ..data import ImageDataset
from ..errors import UserError

# Of smaller sets, this fraction is held out for the metrics, as a generator can learn them by heart. All images of
# others are trained on, and metrics compare with these images, as is the custom.
MIN_IMAGES_TRAINED_WHOLE = 5000
HELD_OUT_FRACTION = 0.1
# Smaller sets without labels are mirrored, which doubles them.
MIN_IMAGES_UNMIRRORED = 10_000


@dataclass(frozen=True)
class Split:
    """The images of a run.

    Attributes:
        train: The images to train on.
        held_out: The images that training never sees; may be empty.
    """

    train: ImageDataset
    held_out: ImageDataset

    @property
    def reals(self) -> ImageDataset:
        """The real images that metrics compare with."""
        return self.held_out if len(self.held_out) else self.train

    @property
    def reals_kind(self) -> str:
        """What metrics call these images."""
        return "held-out" if len(self.held_out) else "training"


def decide(config: Config, dataset: ImageDataset) -> tuple[Config, list[str]]:
    """Returns a configuration whose settings are all decided, and sentences on those that the data set decided."""
    decisions: dict[str, float | bool] = {}
    sentences = []
    if config.held_out is None:
        is_small = len(dataset) < MIN_IMAGES_TRAINED_WHOLE
        decisions["held_out"] = HELD_OUT_FRACTION if is_small else 0.0
        sentences.append(
            f"One of {round(1 / HELD_OUT_FRACTION)} images is held out for the metrics, as there are fewer than "
            f"{MIN_IMAGES_TRAINED_WHOLE:,} (see --held-out)."
            if is_small
            else "All images are trained on, and metrics compare with these (see --held-out)."
        )
    if config.mirror is None:
        decisions["mirror"] = dataset.num_classes == 0 and len(dataset) < MIN_IMAGES_UNMIRRORED
        if decisions["mirror"]:
            sentences.append(
                f"Images are flipped horizontally at random, as they are fewer than {MIN_IMAGES_UNMIRRORED:,} and have "
                "no labels (--mirror no trains on them as they are)."
            )
        else:
            why = "have labels" if dataset.num_classes else f"are {MIN_IMAGES_UNMIRRORED:,} or more"
            sentences.append(f"Images are not flipped, as they {why} (--mirror flips them at random).")
    return dataclasses.replace(config, **decisions), sentences  # type: ignore[arg-type]


def split_images(dataset: ImageDataset, config: Config) -> Split:
    """Splits a data set as a configuration says whose settings are all decided.

    The held-out images are the same for every seed and subset, so that metrics can be compared.

    Raises:
        UserError: The subset is larger than what there is.
    """
    assert config.held_out is not None
    train, held_out = dataset, dataset.subset(np.arange(0))
    if config.held_out > 0:
        train, held_out = dataset.split(config.held_out, config.held_out_max)
    if config.subset is not None:
        if config.subset > len(train):
            raise UserError(f"--subset {config.subset} is more than the {len(train)} images to train on.")
        order = np.random.default_rng(config.seed).permutation(len(train))
        train = train.subset(np.sort(order[: config.subset]))
    return Split(train, held_out)
