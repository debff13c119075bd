# SPDX-License-Identifier: Apache-2.0
"""The options of the commands that find directions in latent space and edit images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..validation import Range
from .spelling import option


@dataclass
class DirectionsOptions:
    """Find directions in a generator's latent space along which its images change in one respect.

    hsr edit moves images along them. Attributes are those of --data, which classifiers learn to tell in generated
    images, or else the classes that the network was trained with.
    """

    checkpoint: Annotated[Path, option("RUN|FILE", "(required)")]
    """File of weights, or a run folder, which stands for its last one."""

    out: Annotated[Path, option("FILE", "(default: directions.safetensors)")] = Path("directions.safetensors")
    """File to write (.safetensors)."""

    method: Annotated[
        str | None, option("LIST", "(default: ganspace,sefa, and with attributes interfacegan,stylespace)")
    ] = None
    """Methods, among ganspace (principal axes of w), sefa (the directions that change the styles most), interfacegan
    (the normal of the plane between codes with an attribute and without) and stylespace (single style channels that go
    with an attribute). The first two need no attributes."""

    data: Annotated[Path | None, option("PATH", "(default: none, so attributes are the network's classes)")] = None
    """Folder or zip of real images with attributes or class labels, as in hsr train."""

    resize: Annotated[int | None, Range(1, 2**14), option("N", "(default: images are taken as they are)")] = None
    """Crop these images to their centres and bring them to this height and width, as in hsr train."""

    features: Annotated[str, option("NETWORK", "(default: lite0)")] = "lite0"
    """Network whose features the classifiers use, as in hsr evaluate."""

    attributes: Annotated[
        Path | None, option("FILE", "(default: attributes.json of the images, else their class labels)")
    ] = None
    """Attributes of the images of --data, JSON or CSV."""

    classifier: Annotated[str | None, option("MODULE:FUNCTION", "(default: learned from --data)")] = None
    """A classifier of one's own: it maps images [N, 3, H, W] in [-1, 1] to scores [N, A]."""

    only: Annotated[str | None, option("LIST", "(default: all)")] = None
    """Attributes that interfacegan and stylespace look for, such as 3,8."""

    preserve: Annotated[str | None, option("LIST", "(default: none)")] = None
    """Attributes that further directions of interfacegan leave as they are, as far as a plane tells them."""

    number: Annotated[int, Range(1, 1000), option("INT", "(default: 5)")] = 5
    """Directions that ganspace and sefa find for each range of layers, and stylespace for each attribute."""

    samples: Annotated[int, Range(100, 10**7), option("INT", "(default: 10000)")] = 10000
    """Random codes that the directions are found in; with a classifier each of them becomes an image."""

    label: Annotated[int | None, option("INT", "(default: every class in turn)")] = None
    """Class of the codes, by its label in the data, of a network that was trained with labels."""

    seed: Annotated[int, Range(0, 2**32 - 1), option("INT", "(default: 0)")] = 0
    """Seed of the codes and of which of them are held out."""

    device: Annotated[str, option("NAME", "(default: cuda where there is a GPU, else cpu)")] = "auto"
    """cpu, cuda or cuda:<n>."""


@dataclass
class EditOptions:
    """Write images that move along a direction, or from seed to seed, as a strip or an animation.

    A strip has a row for each seed, an animation shows all seeds at once.
    """

    checkpoint: Annotated[Path, option("RUN|FILE", "(required)")]
    """File of weights, or a run folder, which stands for its last one."""

    directions: Annotated[Path | None, option("FILE", "(default: none)")] = None
    """File of directions that hsr directions wrote for this network, or another one of the same shape."""

    direction: Annotated[str | None, option("NAME", "(default: the only one in the file)")] = None
    """Name of the direction, such as ganspace-1@coarse."""

    seeds: Annotated[str, option("LIST", "(default: 0-3)")] = "0-3"
    """Seeds of the images, such as 0-3 or 1,5,9-12."""

    source: Annotated[Path | None, option("FILE", "(default: the seeds)", name="from")] = None
    """File of latent codes to edit in place of those of seeds, such as a projected photograph's, with its noise:
    .safetensors or .npz with an array w, [num_ws, w_dim]."""

    range: Annotated[str, option("FROM,TO", "(default: -3,3)")] = "-3,3"
    """Where the edit begins and ends: a step of 1 is one standard deviation of random codes along the direction, and 0
    the image itself."""

    interpolate: Annotated[bool, tyro.conf.FlagCreatePairsOff, option("", "(default: no)")] = False
    """Move from each seed to the next in W in place of along a direction; an animation goes back to the first one."""

    frames: Annotated[int | None, Range(2, 10000), option("INT", "(default: 7; of animations 50)")] = None
    """Images along the way, in an animation from end to end, or from seed to seed."""

    truncation: Annotated[float, Range(-10, 10), option("FLOAT", "(default: 1)")] = 1.0
    """Below 1, latent codes of seeds move towards their mean before the edit: less variety, cleaner images."""

    rng: Annotated[Literal["torch", "numpy"], option("NAME", "(default: torch)")] = "torch"
    """Random generator of the latent codes, as in hsr generate."""

    label: Annotated[int | None, option("INT", "(default: every class in turn)")] = None
    """Class to generate, by its label in the data, of a network that was trained with labels."""

    out: Annotated[Path, option("FILE", "(default: edit.png)")] = Path("edit.png")
    """File to write; its suffix says what: a strip (.png, .jpg, .webp, .bmp or .tif) or an animation (.gif or .mp4)."""

    device: Annotated[str, option("NAME", "(default: cuda where there is a GPU, else cpu)")] = "auto"
    """cpu, cuda or cuda:<n>."""


@dataclass
class MixOptions:
    """Write a grid of images that take some layers' styles from one seed and the others' from another."""

    checkpoint: Annotated[Path, option("RUN|FILE", "(required)")]
    """File of weights, or a run folder, which stands for its last one."""

    rows: Annotated[str, option("LIST", "(default: 0-4)")] = "0-4"
    """Seeds of the rows, whose own images stand at the left."""

    columns: Annotated[str, option("LIST", "(default: 5-9)")] = "5-9"
    """Seeds of the columns, whose own images stand above, and which give the chosen layers."""

    layers: Annotated[str, option("coarse|middle|fine|LIST", "(default: coarse)")] = "coarse"
    """Layers that come from the columns: coarse (up to 8x8), middle (up to 32x32), fine (above), or numbers such as
    0-3; networks of less than 64 pixels have these limits at an eighth and a half of their resolution."""

    truncation: Annotated[float, Range(-10, 10), option("FLOAT", "(default: 1)")] = 1.0
    """Below 1, latent codes move towards their mean: less variety, cleaner images."""

    rng: Annotated[Literal["torch", "numpy"], option("NAME", "(default: torch)")] = "torch"
    """Random generator of the latent codes, as in hsr generate."""

    label: Annotated[int | None, option("INT", "(default: every class in turn)")] = None
    """Class to generate, by its label in the data, of a network that was trained with labels."""

    out: Annotated[Path, option("FILE", "(default: mixed.png)")] = Path("mixed.png")
    """File for the grid; its suffix says which format: .png, .jpg, .webp, .bmp or .tif."""

    device: Annotated[str, option("NAME", "(default: cuda where there is a GPU, else cpu)")] = "auto"
    """cpu, cuda or cuda:<n>."""
