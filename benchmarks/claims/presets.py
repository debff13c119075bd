# SPDX-License-Identifier: Apache-2.0
"""The experiments: their data, networks and lengths."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from hsr.config import Config, preset
from hsr.evaluation.evaluation import Sizes


@dataclass(frozen=True)
class Preset:
    """An experiment.

    Attributes:
        title: What the page calls the data.
        resolution: Width of the images in pixels.
        config: Settings of the warm start; the arms have them, too, with a weight of HSR and a length of their own.
        arm_kimg: Length of every arm.
        hsr_weight: Weight of HSR in the arms that have it.
        image_size: Width in pixels to which both networks, teacher and judge, bring images.
        sizes: How much is measured.
        min_seeds: Number of seeds whatever the power.
        max_seeds: Number of seeds that there is time for.
        needs_data: The images must be named; else they are the bundled digits.
    """

    title: str
    resolution: int
    config: Config
    arm_kimg: float
    hsr_weight: float
    image_size: int
    sizes: Sizes
    min_seeds: int
    max_seeds: int
    needs_data: bool = True

    def network(self, kind: str, squeezenet: Path) -> str:
        """Returns the name of a network, "lite0" or "squeezenet", as `build_encoder` takes it."""
        return f"lite0@{self.image_size}" if kind == "lite0" else f"squeezenet@{self.image_size}:{squeezenet}"


def _digits(warm_kimg: float = 10.0, arm_kimg: float = 3.0) -> Preset:
    # Without labels, so that a line in W may lead from one digit to another.
    config = dataclasses.replace(
        preset("digits", 32, "cpu"),
        conditional=False,
        encoder="lite0",
        hsr_weight=0.0,
        hsr_targets="spatial-norm",
        kimg=warm_kimg,
        metrics="",
        threads=1,
    )
    sizes = Sizes(images=800, pairs=400, sequences=50, samples=1000, r2_images=300)
    return Preset("scikit-learn's digits", 32, config, arm_kimg, 1.0, 96, sizes, 8, 24, needs_data=False)


def _small(resolution: int) -> Config:
    """Returns the settings of docs/real-runs.md, for images of 32 or 64 pixels."""
    return dataclasses.replace(
        preset("auto", resolution, "cpu"),
        conditional=False,
        held_out=0.0,
        encoder="lite0",
        hsr_weight=0.0,
        hsr_targets="spatial-norm",
        mixed_precision="bf16",
        hsr_precision="bfloat16",
        ada_kimg=100.0,
        metrics="",
        threads=1,
    )


def _cifar() -> Preset:
    config = dataclasses.replace(_small(32), kimg=60.0)
    sizes = Sizes(images=3000, pairs=3000, sequences=300, samples=6000, r2_images=1000)
    return Preset("CIFAR-10, 20,000 photographs", 32, config, 15.0, 1.0, 96, sizes, 4, 8)


def _emoji(resolution: int) -> Preset:
    config = dataclasses.replace(_small(resolution), kimg=40.0)
    sizes = Sizes(images=2000, pairs=2000, sequences=200, samples=4000, r2_images=1000)
    return Preset(f"emoji, 2,968 drawings at {resolution} pixels", resolution, config, 10.0, 1.0, 96, sizes, 4, 8)


def _published(title: str, resolution: int) -> Preset:
    """Returns the settings of HSR's publication, for a GPU, but for the teacher and what smaller data ask for."""
    config = dataclasses.replace(
        preset("paper256", resolution, "cuda"),
        conditional=False,
        held_out=0.0,
        encoder="lite0",
        hsr_weight=0.0,
        # DINO's features, of the publication, are normalised; those of lite0 are not.
        hsr_targets="spatial-norm",
        # Thousands of images are too few to train on as they are.
        augmentation="ada",
        ada_kimg=100.0,
        kimg=500.0,
        metrics="",
    )
    return Preset(f"{title}, at published settings", resolution, config, 250.0, 1.0, 224, Sizes(), 4, 8)


def find_preset(name: str) -> Preset:
    """Returns the experiment of a name in `NAMES`."""
    return _PRESETS[name]()


_PRESETS = {
    "digits": _digits,
    "digits-later": lambda: _digits(warm_kimg=30.0),
    "digits-longer": lambda: _digits(arm_kimg=10.0),
    "cifar": _cifar,
    "emoji": lambda: _emoji(32),
    "emoji64": lambda: _emoji(64),
    "cifar-published": lambda: _published("CIFAR-10, 20,000 photographs", 32),
    "emoji-published": lambda: _published("emoji, 2,968 drawings at 256 pixels", 256),
}
NAMES = tuple(_PRESETS)
