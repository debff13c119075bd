# SPDX-License-Identifier: Apache-2.0
"""What is compared: the baseline, HSR, and HSR whose teacher knows nothing of images or of this image."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hsr.data import ImageDataset
from hsr.semantics.encoders import Encoder

BASELINE = "baseline"
# Images from which a network that was never trained gets the statistics of its normalisations.
CALIBRATION_IMAGES = 256


@dataclass(frozen=True)
class Arm:
    """A way to go on from the warm start.

    Attributes:
        title: What the page calls it.
        teacher: Network that HSR aligns with, "lite0" or "squeezenet"; None: no HSR.
        has_random_teacher: The teacher's weights are random.
        has_shuffled_targets: Every image is aligned with the features of another one of its batch.
        has_deepest_targets: Every scale is aligned with the deepest features.
        heads_rate: Learning rate of the heads, as a multiple of the networks'.
        settings: Settings in the place of the preset's, by name.
    """

    title: str
    teacher: str | None = None
    has_random_teacher: bool = False
    has_shuffled_targets: bool = False
    has_deepest_targets: bool = False
    heads_rate: float = 1.0
    settings: dict[str, Any] = field(default_factory=dict)


ARMS = {
    BASELINE: Arm("baseline"),
    "hsr": Arm("HSR, teacher lite0", "lite0"),
    "random": Arm("HSR, random teacher", "lite0", has_random_teacher=True),
    "shuffled": Arm("HSR, shuffled targets", "lite0", has_shuffled_targets=True),
    "swapped": Arm("HSR, teacher SqueezeNet", "squeezenet"),
    "weight-0.1": Arm("HSR, a tenth of the weight", "lite0", settings={"hsr_weight": 0.1}),
    "weight-10": Arm("HSR, ten times the weight", "lite0", settings={"hsr_weight": 10.0}),
    "random-10": Arm(
        "HSR, ten times the weight, random teacher", "lite0", has_random_teacher=True, settings={"hsr_weight": 10.0}
    ),
    "shuffled-10": Arm(
        "HSR, ten times the weight, shuffled targets", "lite0", has_shuffled_targets=True, settings={"hsr_weight": 10.0}
    ),
    "scale-8": Arm("HSR at 8x8 alone, the deepest layer", "lite0", settings={"hsr_scales": "8"}),
    "scale-32": Arm("HSR at 32x32 alone, a shallow layer", "lite0", settings={"hsr_scales": "32"}),
    "deepest": Arm("HSR, the deepest layer at all scales", "lite0", has_deepest_targets=True),
    "heads-slow": Arm("HSR, heads learn at a quarter of the rate", "lite0", heads_rate=0.25),
    "heads-fast": Arm("HSR, heads learn at four times the rate", "lite0", heads_rate=4.0),
    "raw": Arm("HSR, targets as they are", "lite0", settings={"hsr_targets": "raw", "hsr_weight": 0.02}),
    "conv3x3": Arm("HSR, heads of one 3x3 convolution", "lite0", settings={"hsr_head": "conv3x3"}),
    "cosine": Arm("HSR, cosine loss", "lite0", settings={"hsr_loss": "cosine"}),
}
# What is measured beside each other, on the same warm starts: the claim with its controls, and where to look if it
# doesn't hold.
GROUPS = {
    "claims": (BASELINE, "hsr", "random", "shuffled", "swapped"),
    "weight": (BASELINE, "weight-0.1", "weight-10", "random-10", "shuffled-10"),
    "search": (BASELINE, "scale-8", "scale-32", "deepest", "heads-slow", "heads-fast", "raw", "conv3x3", "cosine"),
}
# For an arm those that differ from it only in a teacher that has learned nothing, or in targets of other images: what
# these do, too, isn't owed to semantics.
CONTROLS = {"hsr": ("random", "shuffled"), "weight-10": ("random-10", "shuffled-10")}


def title_of(run: str) -> str:
    """Returns what the page calls an arm, or the warm start."""
    return ARMS[run].title if run in ARMS else "warm start"


class _Changed(Encoder):
    """An encoder with something changed."""

    def __init__(self, encoder: Encoder, change: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.name = f"{encoder.name}, {change}"
        self.shapes = encoder.shapes
        self.freeze()

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        return self.encoder.feature_maps(images)


class ShuffledTargets(_Changed):
    """An encoder whose targets are those of the batch's next image: right in distribution, wrong for each image."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder, "shuffled")

    def targets(self, images: Tensor, num_scales: int) -> list[Tensor]:
        return [target.roll(1, dims=0) for target in self.encoder.targets(images, num_scales)]


class DeepestTargets(_Changed):
    """An encoder whose targets are its deepest features at every scale."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder, "deepest")
        self.shapes = [encoder.shapes[0]] * len(encoder.shapes)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        return [self.encoder.feature_maps(images)[0]] * len(self.shapes)


def prepare_teacher(arm: Arm, encoder: Encoder, dataset: ImageDataset, seed: int) -> Encoder:
    """Returns the teacher of an arm, made of a pretrained encoder, which is changed.

    Args:
        arm: The arm.
        encoder: The pretrained encoder.
        dataset: Images for the statistics of a network without training.
        seed: Seed of its weights. PyTorch's default generator is left as it was.
    """
    if arm.has_random_teacher:
        randomize(encoder, dataset, seed)
    if arm.has_deepest_targets:
        encoder = DeepestTargets(encoder)
    return ShuffledTargets(encoder) if arm.has_shuffled_targets else encoder


def randomize(encoder: Encoder, dataset: ImageDataset, seed: int) -> None:
    """Gives an encoder fresh weights, and its batch normalisations the statistics of real images under these."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in encoder.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
        positions = torch.randperm(len(dataset))[:CALIBRATION_IMAGES].numpy()
    device = next(encoder.parameters()).device
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        # The plain mean over all batches.
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for part in np.array_split(np.sort(positions), max(1, len(positions) // 64)):
            encoder.feature_maps(dataset.batch(part).to(device))
    encoder.freeze()
    encoder.name = f"{encoder.name}, random"
