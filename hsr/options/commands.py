# SPDX-License-Identifier: Apache-2.0
"""The options of the commands beside `hsr train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..validation import Range
from .spelling import option


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
