# SPDX-License-Identifier: Apache-2.0
"""The interface of frozen image encoders, for the regularizer and the metrics."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import UserError

STATISTICS = ("own", "official")
# Statistics of the authors' released code: CLIP's mean with ImageNet's standard deviation.
OFFICIAL_MEAN = (0.48145466, 0.4578275, 0.40821073)
OFFICIAL_STD = (0.229, 0.224, 0.225)


class Encoder(nn.Module):
    """Frozen image encoder with features at several depths.

    A subclass sets `name` and `shapes` and implements `feature_maps`; `freeze` ends its constructor.
    Images are [N, 3, H, W] of any size in [-1, 1].
    """

    name: str
    shapes: Sequence[tuple[int, int]]
    """(D, T) of each feature map [N, D, T, T], deepest first."""
    has_class_token: bool = False
    """Whether `class_tokens` has something to return."""

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Returns feature maps [N, D, T, T], deepest first."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Returns a hash of class, name, which tells how images are prepared, and all weights, for keys of a cache."""
        found = hashlib.sha256(f"{type(self).__name__} {self.name}".encode())
        for key, value in sorted(self.state_dict().items()):
            found.update(key.encode() + str(value.dtype).encode() + repr(tuple(value.shape)).encode())
            found.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]

    def freeze(self) -> None:
        """Puts the encoder in evaluation mode and stops gradients to its weights."""
        self.eval().requires_grad_(False)

    def target_shapes(self, num_scales: int) -> list[tuple[int, int]]:
        """Returns (D, T) of each target, coarsest generator resolution (deepest feature) first.

        Raises:
            UserError: The encoder has fewer depths.
        """
        if num_scales > len(self.shapes):
            raise UserError(
                f"{self.name} has features at {len(self.shapes)} depths, but {num_scales} are needed: "
                "choose another encoder."
            )
        return list(self.shapes[:num_scales])

    @torch.no_grad()
    def targets(self, images: Tensor, num_scales: int) -> list[Tensor]:
        """Returns constant targets [N, D, T, T] for the generator's features, coarsest resolution first."""
        return self.feature_maps(images)[:num_scales]

    def class_tokens(self, images: Tensor, num_scales: int) -> list[Tensor]:
        """Returns constant targets [N, D, 1, 1] like `targets`: the class token at each depth, a vector per image."""
        raise NotImplementedError

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Returns the deepest features, averaged over positions: [N, D], for the Frechet distance."""
        return self.feature_maps(images)[0].mean(dim=[2, 3])

    def perceptual(self, images: Tensor) -> list[Tensor]:
        """Returns feature maps of unit length over channels at every position, for a perceptual distance.

        As in LPIPS (Zhang et al., 2018), without its learned weights. Gradients reach the images.
        """
        return [nn.functional.normalize(x, dim=1, eps=1e-10) for x in self.feature_maps(images)]


class PretrainedEncoder(Encoder):
    """Encoder that was trained on images of one size and normalisation, to which it brings the images that it gets.

    Args:
        name: Name of the network.
        image_size: Width and height that images are brought to.
        usual_size: Those of the network's training; another size becomes a part of the name.
        mean: Mean of each colour that its training subtracted, for images in [0, 1].
        std: Standard deviation of each colour that its training divided by.
        statistics: "own": normalise by `mean` and `std`; "official": as HSR's released code does for every network.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        *,
        image_size: int,
        usual_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        statistics: str,
    ) -> None:
        super().__init__()
        if statistics not in STATISTICS:
            raise ValueError(f"statistics must be one of {', '.join(STATISTICS)}, got {statistics!r}")
        # Features of other sizes or by other statistics are another measure, and metrics carry the encoder's name.
        if image_size != usual_size:
            kind, colon, rest = name.partition(":")
            name = f"{kind}@{image_size}{colon}{rest}"
        self.name = name if statistics == "own" else f"{name}, {statistics} statistics"
        self.image_size = image_size
        if statistics == "official":
            mean, std = OFFICIAL_MEAN, OFFICIAL_STD
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))

    def measure_shapes(self) -> None:
        """Sets `shapes` by running the encoder, once it is complete."""
        device = next(self.parameters()).device
        with torch.no_grad():
            maps = self.feature_maps(torch.zeros(1, 3, self.image_size, self.image_size, device=device))
        self.shapes = [(x.shape[1], x.shape[2]) for x in maps]

    def prepare(self, images: Tensor) -> Tensor:
        """Returns images [N, 3, image_size, image_size], resized and normalised."""
        return self.normalize(self.resize(images))

    def resize(self, images: Tensor) -> Tensor:
        """Returns images [N, 3, image_size, image_size], averaged over areas."""
        return nn.functional.interpolate(images, size=(self.image_size, self.image_size), mode="area")

    def normalize(self, images: Tensor) -> Tensor:
        """Returns images of any size, normalised as the network's training did or by the official statistics."""
        return ((images + 1) / 2 - self.mean) / self.std
