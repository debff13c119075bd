# SPDX-License-Identifier: Apache-2.0
"""The classifier that labels generated images with attributes."""

import torch
from rich.console import Console

from ..attributes import Classifier, load_classifier
from ..errors import UserError
from ..evaluation.learning import learn_attributes
from ..files import cache_folder
from ..models import Generator
from ..options import DirectionsOptions
from ..preparation.command import open_training_set
from ..semantics.build import build_encoder


def build_classifier(options: DirectionsOptions, G: Generator, console: Console) -> Classifier | None:
    """Returns the user's classifier, one that learns the attributes of images, or None where neither is named.

    Raises:
        UserError: Options exclude one another, or what they name can't be used.
    """
    device = G.mapping.w_avg.device
    if options.classifier is not None:
        if options.data is not None or options.attributes is not None:
            raise UserError("--classifier knows its attributes: leave out --data and --attributes.")
        return load_classifier(options.classifier, torch.zeros(1, 3, G.resolution, G.resolution, device=device))
    if options.data is None:
        if options.attributes is not None:
            raise UserError("--attributes describes images: name them with --data.")
        return None
    dataset = open_training_set(str(options.data), options.resize, None, console)
    encoder = build_encoder(
        options.features, dataset=dataset, device=device, cache_dir=cache_folder(), log=console.print
    )
    return learn_attributes(encoder, dataset, device, path=options.attributes, seed=options.seed, console=console)
