# SPDX-License-Identifier: Apache-2.0
"""LPIPS with VGG-16 as an encoder: the distance that published path lengths are measured with.

Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018); Simonyan and
Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2014), configuration D.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .downloads import fetch_file, hub_file
from .encoders import PretrainedEncoder
from .state_dicts import fill_model, read_state

NAME = "lpips-vgg"
# torchvision's publication of VGG-16, and torch-fidelity's of the learned weights.
VGG_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
LPIPS_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-vgg16-lpips.pth"
VGG_FILE, LPIPS_FILE = (url.rpartition("/")[2] for url in (VGG_URL, LPIPS_URL))
# As the definition of path length does, the distance averages wider images to this width.
IMAGE_SIZE = 256
# Below that the last pooling has nothing to pool.
MIN_IMAGE_SIZE = 16
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Channels of VGG-16's convolutions, in stages with a pooling between them; features are the last ones of each.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
EPS = 1e-10


class VGG16(nn.Module):
    """The convolutions of VGG-16, called by their places in the published file."""

    def __init__(self) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {}
        place, channels = 0, 3
        for stage in STAGES:
            for width in stage:
                layers[str(place)] = nn.Conv2d(channels, width, 3, padding=1)
                # The ReLU has the next place.
                place, channels = place + 2, width
            place += 1
        self.features = nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps prepared images [N, 3, H, W] to the features of the five stages, shallow first."""
        convolutions = iter(self.features.values())
        maps: list[Tensor] = []
        for stage in STAGES:
            x = F.max_pool2d(maps[-1], 2) if maps else x
            for _ in stage:
                x = F.relu(next(convolutions)(x))
            maps.append(x)
        return maps


class LpipsEncoder(PretrainedEncoder):
    """VGG-16 whose features are weighted so that their squared distance is LPIPS.

    The distance takes images at their own size, and wider ones than 256 pixels averaged over areas to that. The plain
    features, of images brought to 256 pixels whatever their size, are the four deepest, all after a ReLU, so that
    `embed` gives 512 channels averaged over positions.

    Args:
        folder: Folder with both files of weights.
        statistics: "own": normalise images as LPIPS does; "official": as HSR's released code does.
        device: Where the encoder lives.

    Raises:
        UserError: A file can't be read.
    """

    def __init__(self, folder: Path, *, statistics: str = "own", device: torch.device | str = "cpu") -> None:
        super().__init__(NAME, image_size=IMAGE_SIZE, usual_size=IMAGE_SIZE, mean=MEAN, std=STD, statistics=statistics)
        self.model = VGG16()
        fill_model(self.model, read_state(folder / VGG_FILE), folder / VGG_FILE, "VGG-16")
        path = folder / LPIPS_FILE
        state = read_state(path)
        for i, stage in enumerate(STAGES):
            weight = state.get(f"lin{i}.model.1.weight")
            if weight is None or weight.shape != (1, stage[-1], 1, 1):
                raise UserError(f"{path} does not hold the weights of LPIPS for VGG-16.")
            # Squares of differences are multiplied by a weight, so features by its root.
            self.register_buffer(f"root{i}", weight.clamp_min(0).sqrt())
        self.freeze()
        self.to(device)
        self.measure_shapes()

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        return self.model(self.prepare(images))[:0:-1]

    def perceptual(self, images: Tensor) -> list[Tensor]:
        if min(images.shape[2:]) < MIN_IMAGE_SIZE:
            raise UserError(f"The distance {NAME} needs images of {MIN_IMAGE_SIZE} pixels: choose another network.")
        is_wide = max(images.shape[2:]) > IMAGE_SIZE
        maps = self.model(self.normalize(self.resize(images) if is_wide else images))
        return [F.normalize(x, dim=1, eps=EPS) * self.get_buffer(f"root{i}") for i, x in enumerate(maps)]


def find_weights(folder: str | None) -> Path:
    """Returns the folder with both files: the one that is named, or else that of the hub, downloaded if need be.

    Raises:
        UserError: A file is neither on this machine nor to be had.
    """
    if folder is None:
        advice = f"name a folder with {VGG_FILE} and {LPIPS_FILE} as {NAME}:<folder>"
        fetch_file(VGG_URL, NAME, advice)
        return fetch_file(LPIPS_URL, NAME, advice).parent
    missing = [name for name in (VGG_FILE, LPIPS_FILE) if not (Path(folder) / name).is_file()]
    if missing:
        raise UserError(
            f"The encoder {NAME} needs a folder with {VGG_FILE} and {LPIPS_FILE}: {folder} has no {missing[0]}."
        )
    return Path(folder)


def is_at_hand() -> bool:
    """Returns whether the published weights are on this machine, without using the network."""
    return all(hub_file(url).is_file() for url in (VGG_URL, LPIPS_URL))
