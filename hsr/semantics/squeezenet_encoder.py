# SPDX-License-Identifier: Apache-2.0
"""SqueezeNet 1.1 as an encoder, from a local file of weights: small, and a judge that shares nothing with lite0.

Source: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size" (2016), and
the authors' version 1.1.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .encoders import PretrainedEncoder
from .state_dicts import fill_model, read_state

NAME = "squeezenet"
IMAGE_SIZE = 224
# It was trained on colours from 0 to 255 in the order blue, green, red, less these means.
MEAN_BGR = (103.939, 116.779, 123.68)
# Squeeze and expand channels of the fire modules, by their places in the published files; between them are poolings.
FIRES = {
    3: (16, 64),
    4: (16, 64),
    6: (32, 128),
    7: (32, 128),
    9: (48, 192),
    10: (48, 192),
    11: (64, 256),
    12: (64, 256),
}
POOLINGS = (2, 5, 8)
# Places whose outputs are features, the deepest first: the last ones before each pooling, and the last of all.
DEPTHS = (12, 7, 4, 1)
STEM_CHANNELS = 64
# Below that the last pooling has nothing to pool.
MIN_IMAGE_SIZE = 32


class Fire(nn.Module):
    """A 1x1 convolution that narrows, then a 1x1 and a 3x3 one beside each other, each with a ReLU."""

    def __init__(self, in_channels: int, squeeze_channels: int, expand_channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze_channels, 1)
        self.expand1x1 = nn.Conv2d(squeeze_channels, expand_channels, 1)
        self.expand3x3 = nn.Conv2d(squeeze_channels, expand_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1))


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1 without its classifier. Its modules are called as in the published files."""

    def __init__(self) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {"0": nn.Conv2d(3, STEM_CHANNELS, 3, stride=2)}
        channels = STEM_CHANNELS
        for place, (squeeze, expand) in FIRES.items():
            layers[str(place)] = Fire(channels, squeeze, expand)
            channels = 2 * expand
        self.features = nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps prepared images [N, 3, H, W] to the features at four depths, the deepest first."""
        # Images are padded on the right and below, as in the network's training on images of even width.
        outputs = {1: F.relu(self.features["0"](F.pad(x, (0, 1, 0, 1))))}
        x = outputs[1]
        for place in range(2, max(FIRES) + 1):
            x = F.max_pool2d(x, 3, stride=2) if place in POOLINGS else self.features[str(place)](x)
            outputs[place] = x
        return [outputs[place] for place in DEPTHS]


class SqueezeNetEncoder(PretrainedEncoder):
    """Frozen SqueezeNet 1.1; its features are those before each pooling and the last ones.

    For 224 pixels these have 13, 27, 55 and 112 positions a side, and 512, 256, 128 and 64 channels, all after a ReLU.

    Args:
        weights: File with the tensors of the published network, by torchvision's names; a classifier in it is ignored.
        image_size: Width and height that images are brought to.
        statistics: "own": normalise images as the network's training did; "official": as HSR's released code does.
        device: Where the encoder lives.

    Raises:
        UserError: The file can't be read, or the images are too small.
    """

    def __init__(
        self,
        weights: str | Path,
        *,
        image_size: int = IMAGE_SIZE,
        statistics: str = "own",
        device: torch.device | str = "cpu",
    ) -> None:
        if image_size < MIN_IMAGE_SIZE:
            raise UserError(f"{NAME}@{image_size} is too small: the network needs images of {MIN_IMAGE_SIZE} pixels.")
        super().__init__(
            NAME,
            image_size=image_size,
            usual_size=IMAGE_SIZE,
            mean=tuple(value / 255 for value in MEAN_BGR[::-1]),
            std=(1 / 255,) * 3,
            statistics=statistics,
        )
        self.model = SqueezeNet()
        fill_model(self.model, read_state(Path(weights)), Path(weights), NAME)
        self.freeze()
        self.to(device)
        self.measure_shapes()

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        return self.model(self.prepare(images).flip(1).contiguous(memory_format=torch.channels_last))
