# SPDX-License-Identifier: Apache-2.0
"""From the name of an encoder to the encoder."""

from collections.abc import Callable
from pathlib import Path

import torch

from ..data import ImageDataset
from ..errors import UserError
from . import lite0_encoder
from .encoders import STATISTICS, Encoder
from .labels import label_encoder
from .timm_encoder import DEFAULT_MODEL, TimmEncoder, weights_at_hand


def build_encoder(
    spec: str,
    *,
    dataset: ImageDataset,
    weights: str | None = None,
    device: torch.device | str = "cpu",
    cache_dir: str | Path,
    log: Callable[[str], None],
    seed: int = 0,
    statistics: str = "own",
) -> Encoder:
    """Returns the encoder that `spec` names.

    Args:
        spec: "labels": a small CNN trained on the data set's labels; "lite0": EfficientNet-Lite0; "timm:<name>": a
            timm backbone; "auto": DINO ViT-B/16 through timm if timm and the weights are on this machine, else "lite0"
            if its package is installed, else "labels".
        dataset: Images that the generator learns from.
        weights: File with the weights of a timm backbone; None: the hub's cache or else the hub.
        device: Where the encoder lives.
        cache_dir: Where trained encoders are kept.
        log: Takes one line of text.
        seed: Seed of the training of "labels".
        statistics: Preparation of images for a pretrained encoder: its "own", or the "official" one of HSR's released
            code.

    Raises:
        UserError: The encoder is unknown or not available.
    """
    if spec == "auto":
        spec, reason = _choose(dataset, weights)
        log(f"Encoder: {spec}, as {reason}.")
    kind, _, model_name = spec.partition(":")
    if kind == "timm" and model_name:
        return TimmEncoder(model_name, weights=weights, statistics=statistics, device=device)
    if spec not in ("labels", lite0_encoder.NAME):
        raise UserError(
            f"Unknown encoder {spec}: choose auto, labels, lite0 or timm:<name>, for example timm:{DEFAULT_MODEL}."
        )
    if weights is not None:
        raise UserError(f"--encoder-weights is for timm encoders, and the encoder is {spec}.")
    if spec == lite0_encoder.NAME:
        return lite0_encoder.Lite0Encoder(statistics=statistics, device=device)
    if statistics != STATISTICS[0]:
        raise UserError(f"--encoder-statistics {statistics} is for pretrained encoders, and the encoder is labels.")
    if dataset.num_classes < 2:
        raise UserError(
            f"The encoder labels needs images of two classes or more, and {dataset.name} has "
            f"{'no labels' if dataset.num_classes == 0 else 'one'}: choose lite0 or timm:<name>, or train without HSR "
            "by --hsr-weight 0."
        )
    return label_encoder(dataset, device, Path(cache_dir), log, seed)


def _choose(dataset: ImageDataset, weights: str | None) -> tuple[str, str]:
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
    if dataset.num_classes >= 2:
        return "labels", f"{obstacle} and {dataset.name} has labels"
    raise UserError(
        f"No encoder is available: {obstacle}, and {dataset.name} has no labels to train one on; install lite0 by "
        f"{lite0_encoder.INSTALL_COMMAND}, pass a file with the weights of {dino} as --encoder-weights, or train "
        "without HSR by --hsr-weight 0."
    )
