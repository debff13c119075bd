# SPDX-License-Identifier: Apache-2.0
"""The options of `hsr ui`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..validation import Range
from .spelling import option


@dataclass
class UiOptions:
    """Open a local web page with sliders for directions in latent space, of one network or two side by side.

    The page is for this computer alone, and nothing is fetched from elsewhere. Ctrl-C closes it.
    """

    checkpoint: tyro.conf.Positional[
        Annotated[Path, tyro.conf.arg(metavar="RUN|FILE", help_behavior_hint="(required)")]
    ]
    """File of weights, or a run folder, which stands for its last one."""

    against: Annotated[Path | None, option("RUN|FILE", "(default: none)")] = None
    """A second network, such as the baseline, whose images of the same codes z stand beside the first one's."""

    directions: Annotated[Path | None, option("FILE", "(default: found by ganspace and sefa at the start)")] = None
    """File of directions that hsr directions wrote for this network, or another one of the same shape. Without a file
    each network has its own directions, and one slider moves those of the same name."""

    against_directions: Annotated[Path | None, option("FILE", "(default: those of --directions)")] = None
    """File of the second network's own directions; there is a slider for each name that both files have."""

    truncation: Annotated[float, Range(-1, 2), option("FLOAT", "(default: 1)")] = 1.0
    """Where the slider of the truncation begins: below 1 there is less variety, and images are cleaner."""

    port: Annotated[int | None, Range(1, 65535), option("N", "(default: the first free one from 7860 on)")] = None
    """Port of the page on this computer."""

    device: Annotated[str, option("NAME", "(default: cuda where there is a GPU, else cpu)")] = "auto"
    """cpu, cuda or cuda:<n>."""
