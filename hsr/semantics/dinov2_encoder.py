# SPDX-License-Identifier: Apache-2.0
"""DINOv2 as Frechet distances use it: ViT-L/14 at 224 pixels, one vector per image.

Source: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision" (2023); Stein et al., "Exposing
flaws of generative model evaluation metrics and their unfair treatment of diffusion models" (2023), which proposes it.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .timm_encoder import TimmEncoder

NAME = "dinov2"
MODEL = "vit_large_patch14_dinov2.lvd142m"
IMAGE_SIZE = 224


class DinoV2Encoder(TimmEncoder):
    """Frozen DINOv2, whose `embed` is the class token behind the final normalisation.

    Two things differ from the published Frechet distances, and little: images are brought to 224 pixels by an
    antialiased bicubic filter as there, but in float32 instead of 8 bits, without rounding and clipping; and the
    position embeddings, which were trained at 518 pixels, are brought to 224 by timm's bicubic filter, which is
    antialiased, instead of the authors', which isn't.

    Args:
        weights: .safetensors or PyTorch file; None: the hub's cache or else the hub.
        statistics: "own": normalise images as the model's training did; "official": as HSR's released code does.
        device: Where the encoder lives.
        model_name: timm name of the network, for tests of a small one.

    Raises:
        UserError: timm or the weights are not available.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        statistics: str = "own",
        device: torch.device | str = "cpu",
        model_name: str = MODEL,
    ) -> None:
        super().__init__(model_name, weights=weights, image_size=IMAGE_SIZE, statistics=statistics, device=device)
        self.name = self.name.replace(f"timm@{IMAGE_SIZE}:{model_name}", NAME).replace(f"timm:{model_name}", NAME)

    def resize(self, images: Tensor) -> Tensor:
        size = (self.image_size, self.image_size)
        return F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)

    def embed(self, images: Tensor) -> Tensor:
        return self.class_tokens(images, 1)[0].flatten(1)
