# SPDX-License-Identifier: Apache-2.0
"""The options of the `hsr` commands, as the command line parses them and its help describes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from .validation import Range


def _parse_switch(words: list[str]) -> bool:
    answers = {"yes": True, "no": False}
    if words and words[0] not in answers:
        raise ValueError(f"{words[0]} is neither yes nor no")
    return answers[words[0]] if words else True


_Switch = Annotated[
    bool,
    PrimitiveConstructorSpec(
        nargs=(0, 1),
        metavar="[yes|no]",
        instance_from_str=_parse_switch,
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: ["yes" if value else "no"],
    ),
]
_PRESET_DEFAULT = "(default: the preset's)"


def _option(metavar: str, default: str = _PRESET_DEFAULT) -> object:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=default)


@dataclass
class TrainOptions:
    """Train StyleGAN2 with the Hierarchical Semantic Regularizer.

    Without arguments: on the 1,797 handwritten digits of scikit-learn, in minutes, on a CPU. Ctrl-C (or SIGTERM, or
    closing the terminal) saves and ends the run, and --resume continues it. Everything is written to RUN, the
    folder OUTDIR/<n>-<name>.
    """

    data: Annotated[Path | None, _option("PATH", "(default: the bundled digits)")] = None
    """Folder or zip of square images (PNG, JPEG, WebP, TIFF, BMP, GIF and others) of one power-of-two size, with
    class labels in dataset.json if there are any."""

    outdir: Annotated[Path, _option("PATH", "(default: runs)")] = Path("runs")
    """Folder that receives the run folders."""

    cfg: Annotated[str | None, _option("NAME", "(default: digits without --data, else auto)")] = None
    """Preset: digits, auto (by resolution and device), paper256 or stylegan2; or a JSON file such as a run's
    config.json."""

    kimg: Annotated[float | None, _option("FLOAT")] = None
    """Length of the training, in thousands of real images shown."""

    batch: Annotated[int | None, _option("INT")] = None
    """Images a step."""

    gamma: Annotated[float | None, _option("FLOAT")] = None
    """Weight of the R1 penalty."""

    mirror: Annotated[_Switch | None, _option("[yes|no]")] = None
    """Flip images horizontally at random."""

    hsr_weight: Annotated[float | None, _option("FLOAT")] = None
    """Weight of the Hierarchical Semantic Regularizer; 0 trains the StyleGAN2 baseline."""

    encoder: Annotated[str | None, _option("NAME", "(default: auto)")] = None
    """Frozen encoder: labels (a small network that learns the data's labels first), timm:<name> (a pretrained
    network of timm), or auto (DINO ViT-B/16 where timm and its weights are at hand, else labels)."""

    encoder_weights: Annotated[Path | None, _option("PATH", "(default: timm's cache)")] = None
    """Local file with the weights of a timm encoder."""

    encoder_statistics: Annotated[Literal["own", "official"] | None, _option("NAME", "(default: own)")] = None
    """How images are normalised for a timm encoder: as its own training did, or as HSR's released code does
    (official)."""

    seed: Annotated[int | None, _option("INT", "(default: 0)")] = None
    """Of every random number: one seed and one number of threads give one result on the CPU."""

    resume: Annotated[Path | None, _option("RUN|FILE", "(default: start anew)")] = None
    """A run folder, which is continued where it stopped; or a file of weights, from which a new run starts
    with new HSR heads, or with those of a converted file where they fit the encoder."""

    device: Annotated[str, _option("NAME", "(default: cuda where there is a GPU, else cpu)")] = "auto"
    """cpu, cuda or cuda:<n>."""

    workers: Annotated[
        int | None, Range(0, 256), _option("INT", "(default: 0 for sets that fit in memory, else 2)")
    ] = None
    """Processes that read and decode images; with 0 the training process does so."""


@dataclass
class GenerateOptions:
    """Write a grid of generated images."""

    checkpoint: Annotated[Path, _option("RUN|FILE", "(required)")]
    """File of weights, or a run folder, which stands for its last one."""

    seeds: Annotated[str, _option("LIST", "(default: 0-35)")] = "0-35"
    """Seeds of the images, such as 0-35 or 1,5,9-12."""

    truncation: Annotated[float, Range(-10, 10), _option("FLOAT", "(default: 1)")] = 1.0
    """Below 1, latent codes move towards their mean: less variety, cleaner images."""

    rng: Annotated[Literal["torch", "numpy"], _option("NAME", "(default: torch)")] = "torch"
    """Random generator of the latent codes: torch, or numpy, which draws a seed's code as the tools of
    stylegan2-ada-pytorch, stylegan3 and HSR do."""

    label: Annotated[int | None, _option("INT", "(default: every class in turn)")] = None
    """Class to generate, by its label in the data, of a network that was trained with labels."""

    out: Annotated[Path, _option("FILE", "(default: generated.png)")] = Path("generated.png")
    """File for the grid; its suffix says which format: .png, .jpg, .webp, .bmp or .tif."""

    outdir: Annotated[Path | None, _option("PATH", "(default: no single images)")] = None
    """Folder that also receives each image by itself, as seed<n>.png."""

    device: Annotated[str, _option("NAME", "(default: cuda where there is a GPU, else cpu)")] = "auto"
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
        Literal["nvlabs", "rosinality"] | None, _option("NAME", "(default: none, so OUT is a file of weights)")
    ] = None
    """Project to write for: nvlabs (state dicts for the networks of stylegan2-ada-pytorch and HSR) or rosinality (a
    checkpoint of stylegan2-pytorch)."""


@dataclass
class ExportOptions:
    """Write a trained generator to files that run without this package.

    Each file is run and its images are compared with the network's before it is written. Batches may have any size, and
    truncation_psi is an input.
    """

    checkpoint: Annotated[Path, _option("RUN|FILE", "(required)")]
    """File of weights, or a run folder, which stands for its last one."""

    onnx: Annotated[Path | None, _option("FILE", "(default: none)")] = None
    """ONNX file (.onnx) of opset 18 in standard operators, which is compared in onnxruntime on the CPU."""

    torch_export: Annotated[Path | None, _option("FILE", "(default: none)")] = None
    """Program of torch.export (.pt2), which torch.export.load reads."""

    aot_inductor: Annotated[Path | None, _option("FILE", "(default: none)")] = None
    """Package (.pt2) that AOTInductor compiles for this machine's CPU, by a C++ compiler, and that
    torch._inductor.aoti_load_package reads."""

    input: Annotated[Literal["z", "w"], _option("z|w", "(default: z)")] = "z"
    """What images are made of: z, with one-hot classes c if the network has any; or w, as ws, a latent code for each
    layer, which truncation applies to as well."""

    noise: Annotated[Literal["const", "none"], _option("const|none", "(default: const)")] = "const"
    """const: the noise that the network keeps, as in hsr generate; none: no noise."""
