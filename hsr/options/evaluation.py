# SPDX-License-Identifier: Apache-2.0
"""The options of `hsr evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ..config import MAX_SEED
from ..validation import Range
from .spelling import option


@dataclass
class EvaluateOptions:
    """Measure generators: how smooth and linear their latent spaces are, and how near their images are to real ones.

    Everything is computed in float32 without TF32, whatever training used. Under torchrun the processes share the work.
    Each result names the network that it was measured with: values compare only under the same one.
    """

    checkpoint: Annotated[tuple[Path, ...], option("RUN|FILE ...", "(required)")]
    """Files of weights of any kind that hsr generate takes, or run folders, which stand for their last ones: one or
    several, which are measured alike and beside each other."""

    metrics: Annotated[str, option("NAME,...", "(default: ppl2_wend,fd,kid,prdc)")] = "ppl2_wend,fd,kid,prdc"
    """Of ppl2_wend, ppl_wfull, ppl_zend, ppl_zfull (path lengths), path_relative (path length over how much images
    differ), fd (Frechet distance), kid (kernel distance), prdc (precision, recall, density, coverage), als (Attribute
    Linearity Score), linear_separability and feature_r2 (how well a linear map predicts the network's features from the
    generator's)."""

    data: Annotated[Path | None, option("PATH", "(default: the images of the first checkpoint's run)")] = None
    """Folder or zip of real images, as in hsr train."""

    resize: Annotated[int | None, option("N", "(default: images are taken as they are)")] = None
    """Crop these images to their centres and bring them to this height and width, as in hsr train."""

    reals: Annotated[Literal["all", "held-out", "training"], option("NAME", "(default: all)")] = "all"
    """Which of these images to compare with: all, or as the first checkpoint's run split them."""

    features: Annotated[str, option("NETWORK", "(default: inception where its weights are at hand, else lite0)")] = (
        "auto"
    )
    """Network whose features fd, kid, prdc, feature_r2 and attribute classifiers use: inception[:FILE] (not for
    feature_r2), dinov2[:FILE], lpips-vgg[:FOLDER], lite0, squeezenet:FILE, timm:NAME[:FILE] or labels."""

    distance: Annotated[str, option("NETWORK", "(default: lpips-vgg where its weights are at hand, else lite0)")] = (
        "auto"
    )
    """Network of the perceptual distance of path lengths: any of --features but inception. Named, inception, lpips-vgg,
    dinov2 and timm's networks are downloaded where their weights are missing."""

    images: Annotated[int, Range(2, 10**9), option("INT", "(default: 50000)")] = 50_000
    """Generated images of fd, kid and prdc, and at most so many real ones."""

    pairs: Annotated[int, Range(2, 10**9), option("INT", "(default: 50000)")] = 50_000
    """Pairs of images of each path length."""

    eps: Annotated[float, Range(1e-7, 1.0), option("FLOAT", "(default: 1e-4)")] = 1e-4
    """Step of path lengths."""

    attributes: Annotated[
        Path | None, option("FILE", "(default: attributes.json of the images, else their class labels)")
    ] = None
    """Attributes of the images, JSON or CSV, which the classifiers of als and linear_separability learn."""

    classifier: Annotated[str | None, option("MODULE:FUNCTION", "(default: learned from --attributes)")] = None
    """A classifier of one's own: it maps images [N, 3, H, W] in [-1, 1] to scores [N, A]."""

    directions: Annotated[Path | None, option("FILE", "(default: none)")] = None
    """Directions that hsr directions has found, whose edits als measures; without, it measures lines in W between two
    codes. Only for a single checkpoint, as directions are of one generator."""

    edit_range: Annotated[float, Range(0.001, 1000), option("FLOAT", "(default: 3)")] = 3.0
    """Edits along directions go from minus to plus this number of standard deviations of w."""

    sequences: Annotated[int, Range(2, 10**7), option("INT", "(default: 500)")] = 500
    """Edits of 11 frames each that als measures."""

    samples: Annotated[int, Range(100, 10**8), option("INT", "(default: 200000)")] = 200_000
    """Images of linear_separability, half of which are used."""

    r2_images: Annotated[int, Range(8, 10**6), option("INT", "(default: 2000)")] = 2000
    """Images of feature_r2."""

    batch: Annotated[int, Range(1, 4096), option("INT", "(default: 50)")] = 50
    """Images, or pairs of them, that are computed at a time; no result depends on it."""

    seed: Annotated[int, Range(0, MAX_SEED), option("INT", "(default: 0)")] = 0
    """Seed of latent codes and classes, the same for all checkpoints."""

    out: Annotated[Path | None, option("FILE", "(default: none)")] = None
    """JSON file (.json) for all results, with their settings and what the table has no room for."""

    device: Annotated[str, option("NAME", "(default: cuda where there is a GPU, else cpu)")] = "auto"
    """cpu, cuda or cuda:<n>."""
