# SPDX-License-Identifier: Apache-2.0
"""From images to scores of attributes: an encoder with logistic heads, or a function of the user's own."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..errors import UserError, reason
from ..metrics.exact import exact_metrics
from ..semantics.encoders import Encoder
from .heads import LogisticHeads


class Classifier(Protocol):
    """Scores images.

    Attributes:
        names: Names of the A attributes.
        network: What results call it.
    """

    names: tuple[str, ...]
    network: str

    def __call__(self, images: Tensor) -> Tensor:
        """Maps images [N, 3, H, W] in [-1, 1] to scores [N, A]: positive ones mean that an image has the attribute."""


def classify(classifier: Classifier, images: Tensor) -> Tensor:
    """Returns the scores [N, A] of images [N, 3, H, W], cut to [-1, 1] as files are, float32 on the CPU."""
    with exact_metrics(images.device):
        return classifier(images.clamp(-1, 1)).float().cpu()


class AttributeClassifier:
    """An encoder with logistic heads on its features.

    Args:
        encoder: Frozen encoder.
        heads: Heads that were fitted to its features.
    """

    def __init__(self, encoder: Encoder, heads: LogisticHeads) -> None:
        self.names = heads.names
        self.network = encoder.name
        self.heads = heads
        self._encoder = encoder

    def __call__(self, images: Tensor) -> Tensor:
        return self.heads.scores(self._encoder.embed(images))


class OwnClassifier:
    """A function of the user's own.

    Args:
        function: Maps images to scores. If it has `names`, a sequence of words, these name the attributes.
        title: What results call it.
        sample: Images [1, 3, H, W] of the kind that it will get, on their device; what it returns for them says how
            many attributes there are.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], title: str, sample: Tensor) -> None:
        self.network = title
        self._function = function
        scores = self._scores(sample)
        names = getattr(function, "names", [f"attribute {i + 1}" for i in range(scores.shape[1])])
        self.names = tuple(str(name) for name in names)
        if len(self.names) != scores.shape[1]:
            raise UserError(f"{title} names {len(self.names)} attributes, but returns scores of {scores.shape[1]}.")

    def __call__(self, images: Tensor) -> Tensor:
        return self._scores(images)

    @torch.no_grad()
    def _scores(self, images: Tensor) -> Tensor:
        try:
            scores = self._function(images)
        except Exception as error:
            raise UserError(
                f"The classifier {self.network} fails ({type(error).__name__}: {reason(error)})."
            ) from error
        if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != len(images) or scores.shape[1] == 0:
            found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise UserError(
                f"The classifier {self.network} must return a tensor of scores [N, A], and returns {found} for "
                f"{len(images)} images."
            )
        if not scores.isfinite().all():
            raise UserError(f"The classifier {self.network} returns scores that are not finite.")
        return scores.float()


def load_classifier(spec: str, sample: Tensor) -> OwnClassifier:
    """Returns the function that MODULE:FUNCTION names; modules of the working directory are found, too.

    Args:
        spec: MODULE:FUNCTION.
        sample: Images [1, 3, H, W] of the kind that it will get, on their device.

    Raises:
        UserError: There is no such function, or it doesn't map images to scores.
    """
    module, _, name = spec.partition(":")
    if not module or not name:
        raise UserError(f"{spec} doesn't name a classifier as MODULE:FUNCTION.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise UserError(f"{spec} cannot be imported ({type(error).__name__}: {reason(error)}).") from error
    if not callable(function):
        raise UserError(f"{spec} is no function.")
    return OwnClassifier(function, spec, sample)
