# SPDX-License-Identifier: Apache-2.0
"""The options of the commands beside `hsr train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..validation import Range
from .spelling import option

# Largest height and width of prepared images, in pixels.
MAX_SIZE = 2**14


@dataclass
class GenerateOptions:
    """Write a grid of generated images."""

    checkpoint: Annotated[Path, option("RUN|FILE", "(required)")]
    """File of weights, or a run folder, which stands for its last one."""

    seeds: Annotated[str, option("LIST", "(default: 0-35)")] = "0-35"
    """Seeds of the images, such as 0-35 or 1,5,9-12."""

    truncation: Annotated[float, Range(-10, 10), option("FLOAT", "(default: 1)")] = 1.0
    """Below 1, latent codes move towards their mean: less variety, cleaner images."""

    rng: Annotated[Literal["torch", "numpy"], option("NAME", "(default: torch)")] = "torch"
    """Random generator of the latent codes: torch, or numpy, which draws a seed's code as the tools of
    stylegan2-ada-pytorch, stylegan3 and HSR do."""

    label: Annotated[int | None, option("INT", "(default: every class in turn)")] = None
    """Class to generate, by its label in the data, of a network that was trained with labels."""

    out: Annotated[Path, option("FILE", "(default: generated.png)")] = Path("generated.png")
    """File for the grid; its suffix says which format: .png, .jpg, .webp, .bmp or .tif."""

    outdir: Annotated[Path | None, option("PATH", "(default: no single images)")] = None
    """Folder that also receives each image by itself, as seed<n>.png."""

    device: Annotated[str, option("NAME", "(default: cuda where there is a GPU, else cpu)")] = "auto"
    """cpu, cuda or cuda:<n>."""


@dataclass
class ConvertOptions:
    """Convert networks of StyleGAN2-ADA, StyleGAN3, HSR (.pkl) and rosinality (.pt), or write files for these projects.

    Nothing in the file that is read is executed.
    """

    source: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="IN", help_behavior_hint="(required)")]]
    """File to read; with --to also a run folder, which stands for its last weights."""

    target: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT", help_behavior_hint="(required)")]]
    """File to write: OUT.safetensors, which generate and train --resume take."""

    to: Annotated[
        Literal["nvlabs", "rosinality"] | None, option("NAME", "(default: none, so OUT is a file of weights)")
    ] = None
    """Project to write for: nvlabs (state dicts for the networks of stylegan2-ada-pytorch and HSR) or rosinality (a
    checkpoint of stylegan2-pytorch)."""


@dataclass
class ExportOptions:
    """Write a trained generator to files that run without this package.

    Each file is run and its images are compared with the network's before it is written. Batches may have any size, and
    truncation_psi is an input.
    """

    checkpoint: Annotated[Path, option("RUN|FILE", "(required)")]
    """File of weights, or a run folder, which stands for its last one."""

    onnx: Annotated[Path | None, option("FILE", "(default: none)")] = None
    """ONNX file (.onnx) of opset 18 in standard operators, which is compared in onnxruntime on the CPU."""

    torch_export: Annotated[Path | None, option("FILE", "(default: none)")] = None
    """Program of torch.export (.pt2), which torch.export.load reads."""

    aot_inductor: Annotated[Path | None, option("FILE", "(default: none)")] = None
    """Package (.pt2) that AOTInductor compiles for this machine's CPU, by a C++ compiler, and that
    torch._inductor.aoti_load_package reads."""

    input: Annotated[Literal["z", "w"], option("z|w", "(default: z)")] = "z"
    """What images are made of: z, with one-hot classes c if the network has any; or w, as ws, a latent code for each
    layer, which truncation applies to as well."""

    noise: Annotated[Literal["const", "none"], option("const|none", "(default: const)")] = "const"
    """const: the noise that the network keeps, as in hsr generate; none: no noise."""


@dataclass
class DatasetOptions:
    """Prepare images of any kind and size as a data set: square PNGs of one size, in StyleGAN's layout.

    Images are turned as their EXIF tags say and brought to 8-bit sRGB. What was done stands in OUT's dataset.json, with
    the names of duplicates and of files that can't be read. The same command goes on after an interruption.
    """

    source: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="IN", help_behavior_hint="(required)")]]
    """Folder or zip of images; or hf:NAME[:SPLIT], a set of Hugging Face datasets (NAME on the hub, or a folder); or
    torchvision:NAME[:ROOT[:SPLIT]], such as torchvision:CIFAR10:data:train."""

    target: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT", help_behavior_hint="(required)")]]
    """Zip to write (.zip), or else a folder."""

    resize: Annotated[
        int | None,
        Range(1, MAX_SIZE),
        tyro.conf.arg(
            metavar="N", help_behavior_hint="(default: the images' own size, which must be one)", aliases=["--size"]
        ),
    ] = None
    """Height and width of the prepared images in pixels; hsr train takes powers of two from 8."""

    fit: Annotated[Literal["crop", "pad"], option("crop|pad", "(default: crop)")] = "crop"
    """How images become square: crop the centre, or pad the shorter sides."""

    filter: Annotated[Literal["lanczos", "box"], option("lanczos|box", "(default: lanczos)")] = "lanczos"
    """Filter for resizing, which is done in sRGB."""

    transparency: Annotated[str, option("COLOUR|refuse", "(default: white)")] = "white"
    """Colour to lay transparent images over, such as black or #ff8000; or refuse: the first such image is an error."""

    padding: Annotated[str, option("COLOUR", "(default: white)")] = "white"
    """Colour of the padding of --fit pad."""

    labels: Annotated[
        str | None, option("from-folders|FILE|none", "(default: those of IN, such as its dataset.json)")
    ] = None
    """Class labels: from-folders, where the images of a class lie in one folder; a CSV file with a line for each image,
    of its name and its label, a word or a number; or none."""

    duplicates: Annotated[Literal["drop", "keep"], option("drop|keep", "(default: drop)")] = "drop"
    """Drop or keep images that equal an earlier one, pixel by pixel, once they are prepared."""

    max_images: Annotated[int | None, Range(1, 10**9), option("INT", "(default: all)")] = None
    """Prepare at most this many images, chosen at random, always the same ones."""

    strict: Annotated[bool, tyro.conf.FlagCreatePairsOff, option("", "(default: no)")] = False
    """End at the first file that can't be read, instead of leaving it out."""

    workers: Annotated[int | None, Range(0, 256), option("INT", "(default: one for each core)")] = None
    """Threads that decode and resize images; 0: none beside the main one. The result is the same for any number."""
