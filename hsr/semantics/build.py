# SPDX-License-Identifier: Apache-2.0
"""From the name of an encoder to the encoder."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..data import ImageDataset
from ..errors import UserError
from . import dinov2_encoder, inception_encoder, lite0_encoder, lpips_encoder, squeezenet_encoder
from .encoders import STATISTICS, Encoder
from .labels import label_encoder
from .timm_encoder import DEFAULT_MODEL, TimmEncoder, weights_at_hand


@dataclass(frozen=True)
class EncoderSpec:
    """The name of an encoder, in its parts: KIND[@SIZE][:NAME][:FILE].

    Attributes:
        kind: One of `KINDS`.
        size: Width and height in pixels that images are brought to; None: those of the network's training.
        name: Name of the network, of kinds that have many.
        file: File with its weights, of kinds whose weights don't come from elsewhere, or None.
    """

    kind: str
    size: int | None = None
    name: str = ""
    file: str | None = None


# What can follow the kind and a colon.
KINDS = {
    "auto": "",
    "labels": "",
    lite0_encoder.NAME: "",
    "timm": "NAME[:FILE]",
    squeezenet_encoder.NAME: "FILE",
    inception_encoder.NAME: "[FILE]",
    lpips_encoder.NAME: "[FOLDER]",
    dinov2_encoder.NAME: "[FILE]",
}
# Networks of published metrics, by whether they are on this machine.
AT_HAND: dict[str, Callable[[], bool]] = {
    inception_encoder.NAME: inception_encoder.is_at_hand,
    lpips_encoder.NAME: lpips_encoder.is_at_hand,
}
# Kinds of networks that take images of other sizes than those of their training.
SIZED_KINDS = (lite0_encoder.NAME, "timm", squeezenet_encoder.NAME)
# Kinds whose images have one preparation.
UNNORMALIZED_KINDS = ("labels", inception_encoder.NAME)


def parse_spec(text: str) -> EncoderSpec:
    """Returns the parts of an encoder's name.

    Raises:
        UserError: There is no such kind of encoders, or something is missing or too much.
    """
    match = re.fullmatch(r"([a-z0-9-]+)(?:@([0-9]{1,5}))?(?::(.+))?", text)
    kind, size, rest = match.groups() if match is not None else ("", None, None)
    if kind not in KINDS or (rest is not None and not KINDS[kind]) or (size is not None and kind not in SIZED_KINDS):
        raise UserError(
            f"Unknown encoder {text}: choose auto, labels, lite0, squeezenet:<file>, inception, lpips-vgg, dinov2 or "
            f"timm:<name>, for example timm:{DEFAULT_MODEL}; a size may follow, as in lite0@96."
        )
    pixels = None if size is None else int(size)
    if kind == squeezenet_encoder.NAME and rest is None:
        raise UserError(f"The encoder {text} needs a file with its weights: {text}:<file>.")
    if kind == "timm":
        if rest is None:
            raise UserError(f"The encoder timm needs the name of a network, for example timm:{DEFAULT_MODEL}.")
        name, _, file = rest.partition(":")
        return EncoderSpec(kind, pixels, name, file or None)
    return EncoderSpec(kind, pixels, file=rest)


def build_encoder(
    text: str,
    *,
    dataset: ImageDataset | None,
    weights: str | None = None,
    device: torch.device | str = "cpu",
    cache_dir: str | Path,
    log: Callable[[str], None],
    seed: int = 0,
    statistics: str = "own",
) -> Encoder:
    """Returns the encoder of a name.

    Args:
        text: "labels": a small CNN trained on the data set's labels; "lite0": EfficientNet-Lite0;
            "squeezenet:<file>": SqueezeNet 1.1; "inception", "lpips-vgg" and "dinov2", with or without ":<file>": the
            networks of published metrics; "timm:<name>" or "timm:<name>:<file>": a timm backbone; "auto": DINO ViT-B/16
            through timm if timm and the weights are on this machine, else "lite0" if its package is installed, else
            "labels". "@<pixels>" behind the kind brings images to another size than that of the network's training.
        dataset: Images that the generator learns from; None: there are none, and so no "labels".
        weights: File with the weights of a timm backbone; None: the name's, or else the hub's cache or the hub.
        device: Where the encoder lives.
        cache_dir: Where trained encoders are kept.
        log: Takes one line of text.
        seed: Seed of the training of "labels".
        statistics: Preparation of images for a pretrained encoder: its "own", or the "official" one of HSR's released
            code.

    Raises:
        UserError: The encoder is unknown or not available.
    """
    if text == "auto":
        text, reason = _choose(dataset, weights)
        log(f"Encoder: {text}, as {reason}.")
    spec = parse_spec(text)
    if weights is not None and spec.kind != "timm":
        raise UserError(f"--encoder-weights is for timm encoders, and the encoder is {text}.")
    if statistics != STATISTICS[0] and spec.kind in UNNORMALIZED_KINDS:
        raise UserError(
            f"--encoder-statistics {statistics} is for other pretrained encoders, and the encoder is {spec.kind}."
        )
    if spec.kind == "timm":
        file = weights or spec.file
        return TimmEncoder(spec.name, weights=file, image_size=spec.size, statistics=statistics, device=device)
    if spec.kind == lite0_encoder.NAME:
        size = spec.size or lite0_encoder.IMAGE_SIZE
        return lite0_encoder.Lite0Encoder(image_size=size, statistics=statistics, device=device)
    if spec.kind == squeezenet_encoder.NAME:
        assert spec.file is not None
        size = spec.size or squeezenet_encoder.IMAGE_SIZE
        return squeezenet_encoder.SqueezeNetEncoder(spec.file, image_size=size, statistics=statistics, device=device)
    if spec.kind == lpips_encoder.NAME:
        folder = lpips_encoder.find_weights(spec.file)
        return lpips_encoder.LpipsEncoder(folder, statistics=statistics, device=device)
    if spec.kind == dinov2_encoder.NAME:
        return dinov2_encoder.DinoV2Encoder(spec.file, statistics=statistics, device=device)
    if spec.kind == inception_encoder.NAME:
        return inception_encoder.InceptionEncoder(inception_encoder.find_weights(spec.file), device=device)
    return _label_encoder(dataset, device, Path(cache_dir), log, seed)


def _label_encoder(
    dataset: ImageDataset | None,
    device: torch.device | str,
    cache_dir: Path,
    log: Callable[[str], None],
    seed: int,
) -> Encoder:
    if dataset is None or dataset.num_classes < 2:
        found = "there are none"
        if dataset is not None:
            found = f"{dataset.name} has {'no labels' if dataset.num_classes == 0 else 'one'}"
        raise UserError(
            f"The encoder labels needs images of two classes or more, and {found}: choose lite0 or timm:<name>; "
            "hsr train does without one by --hsr-weight 0."
        )
    return label_encoder(dataset, device, cache_dir, log, seed)


def _choose(dataset: ImageDataset | None, weights: str | None) -> tuple[str, str]:
    """Returns what "auto" stands for on this machine, and why."""
    dino = f"timm:{DEFAULT_MODEL}"
    if weights is not None:
        return dino, f"its weights are given in {weights}"
    try:
        if weights_at_hand(DEFAULT_MODEL):
            return dino, "timm and its weights are on this machine"
        obstacle = f"the weights of {dino} are not on this machine"
    except UserError:
        obstacle = "timm cannot be imported"
    if lite0_encoder.is_installed():
        return lite0_encoder.NAME, f"{obstacle} and its package is installed"
    obstacle += f", {lite0_encoder.NAME} is not installed"
    if dataset is not None and dataset.num_classes >= 2:
        return "labels", f"{obstacle} and {dataset.name} has labels"
    title = "what is trained on" if dataset is None else dataset.name
    raise UserError(
        f"No encoder is available: {obstacle}, and {title} has no labels to train one on; install lite0 by "
        f"{lite0_encoder.INSTALL_COMMAND}, pass a file with the weights of {dino} as --encoder-weights, or train "
        "without HSR by --hsr-weight 0."
    )
