# SPDX-License-Identifier: Apache-2.0
"""The options of `hsr project`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..config import MAX_SEED
from ..validation import Range
from .spelling import option


@dataclass
class ProjectOptions:
    """Find the latent codes of photos: those whose images are nearest to them.

    Each photo gets NAME.safetensors, with the codes and the noise maps that were found, and NAME.png: the photo, what
    was found, and their difference, of which mid-gray is none. Photos are cropped to their centres and resized. An
    interrupted projection writes nothing for the photo that it was at; those before it are complete.
    """

    photos: tyro.conf.Positional[
        Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PHOTO ...", help_behavior_hint="(required)")]
    ]
    """Images of any format and size."""

    checkpoint: Annotated[Path, option("RUN|FILE", "(required)")]
    """File of weights, or a run folder, which stands for its last one."""

    space: Annotated[Literal["w", "w+"], option("w|w+", "(default: w)")] = "w"
    """w: one code for all layers, which edits best; w+: a code for each layer, which comes nearer to the photo."""

    label: Annotated[int | None, option("INT", "(default: the class whose mean image is nearest to the photo)")] = None
    """Class to begin at, by its label in the data, of a network that was trained with labels."""

    encoder: Annotated[str, option("NETWORK", "(default: lite0)")] = "lite0"
    """Network of the perceptual distance, as hsr train --encoder takes it, except labels."""

    steps: Annotated[int | None, Range(1, 10**6), option("INT", "(default: 1000 on a GPU, 300 on a CPU)")] = None
    """Steps of the optimizer."""

    learning_rate: Annotated[float, Range(1e-6, 10), option("FLOAT", "(default: 0.1)")] = 0.1
    """Largest learning rate, which rises from 0 at the start and falls to 0 at the end."""

    pixel_weight: Annotated[float, Range(0, 1e6), option("FLOAT", "(default: 1)")] = 1.0
    """Weight of the mean squared difference of pixels in [-1, 1], beside the perceptual distance."""

    noise_weight: Annotated[float, Range(0, 1e9), option("FLOAT", "(default: 1e5)")] = 1e5
    """Weight of what keeps noise maps uncorrelated, so that they can't hold the picture."""

    seed: Annotated[int, Range(0, MAX_SEED), option("INT", "(default: 0)")] = 0
    """Seed of everything that is drawn: each photo's result depends on it, and not on the other photos."""

    outdir: Annotated[Path, option("PATH", "(default: projected)")] = Path("projected")
    """Folder for the files."""

    device: Annotated[str, option("NAME", "(default: cuda where there is a GPU, else cpu)")] = "auto"
    """cpu, cuda or cuda:<n>."""
