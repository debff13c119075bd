# SPDX-License-Identifier: Apache-2.0
"""Classifiers that learn the attributes of real images."""

from pathlib import Path

import torch
from rich.console import Console

from ..attributes import AttributeClassifier, fit_heads, read_attributes
from ..console import make_console
from ..data import ImageDataset
from ..ranks import Ranks
from ..semantics.encoders import Encoder
from .features import BATCH_SIZE, real_features


def learn_attributes(
    encoder: Encoder,
    dataset: ImageDataset,
    device: torch.device,
    *,
    path: Path | None = None,
    seed: int = 0,
    batch: int = BATCH_SIZE,
    console: Console | None = None,
    ranks: Ranks | None = None,
) -> AttributeClassifier:
    """Returns a classifier on an encoder's features that has learned the attributes of a data set's images.

    Args:
        encoder: Network of the features.
        dataset: The images.
        device: Where the network is.
        path: File of their attributes; None: their own, or else their classes.
        seed: Seed of the folds that its accuracy is measured in.
        batch: Images per call.
        console: Where to print what is left out, and to show the progress; None: standard output.
        ranks: The processes that share the work; None: this one does it all.

    Raises:
        UserError: There are no attributes, or none that these features tell.
    """
    console = console or make_console()
    table = read_attributes(dataset, path, console.print)
    features = real_features(dataset, encoder, device, batch=batch, console=console, ranks=ranks)
    return AttributeClassifier(encoder, fit_heads(features, table, seed=seed, log=console.print, console=console))
