# SPDX-License-Identifier: Apache-2.0
"""Hierarchical Semantic Regularizer: the generator's features must predict those of a frozen encoder.

Source: Karmali et al., "Hierarchical Semantic Regularization of Latent Spaces in StyleGANs" (2022).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hsr_kernels import feature_projection_loss

from ..config import HSR_SCALES
from ..errors import UserError
from ..models import Generator
from .alignment import Alignment, comparison_losses, spatially_normalized
from .encoders import Encoder
from .heads import ConvolutionHead, ProjectionHead


def head_resolutions(resolution: int, scales: Sequence[int] = HSR_SCALES) -> tuple[int, ...]:
    """Returns those of the scales that a generator for images of `resolution` pixels has, and has heads at."""
    return tuple(r for r in scales if r <= resolution)


class SemanticRegularizer(nn.Module):
    """Heads from the generator's features to the encoder's, and the loss between the two.

    The frozen encoder is no submodule: parameters and state_dict are those of the heads.

    Args:
        encoder: Frozen encoder of the generated images.
        generator: Generator, regularized at those of the scales that it has.
        hidden: Width of heads of the kind "mlp".
        precision: Dtype that encoder and heads compute in; None: that of their weights, which never changes.
        alignment: What is compared, and how.

    Raises:
        UserError: The generator or the encoder lacks what is to be compared.
    """

    def __init__(
        self,
        encoder: Encoder,
        generator: Generator,
        hidden: int = 4096,
        precision: torch.dtype | None = None,
        alignment: Alignment | None = None,
    ) -> None:
        super().__init__()
        self._encoder = (encoder,)
        self.precision = precision
        self.alignment = alignment or Alignment()
        self.resolutions = head_resolutions(generator.resolution, self.alignment.scales)
        if not self.resolutions:
            raise UserError(
                f"HSR's scales are {', '.join(map(str, self.alignment.scales))}, but the generator's images are "
                f"{generator.resolution} pixels wide: choose a smaller scale."
            )
        self._depths = [HSR_SCALES.index(r) for r in self.resolutions]
        shapes = encoder.target_shapes(self._num_depths())
        self.heads = nn.ModuleList(
            ConvolutionHead(generator.channels(r), shapes[depth][0])
            if self.alignment.head == "conv3x3"
            else ProjectionHead(generator.channels(r), hidden, shapes[depth][0])
            for r, depth in zip(self.resolutions, self._depths, strict=True)
        )
        if self.alignment.class_token and not encoder.has_class_token:
            raise UserError(
                f"The encoder {encoder.name} has no class token, as only vision transformers have: leave out "
                "--hsr-class-token."
            )
        has_positions = not self.alignment.class_token and all(size > 1 for _, size in shapes)
        if self.alignment.targets == "spatial-norm" and not has_positions:
            raise UserError("The targets have one position only, so that --hsr-targets must be raw.")

    def forward(self, features: Sequence[Tensor], images: Tensor) -> Tensor:
        """Returns the loss per scale [num_scales], float32.

        `features`: block outputs [N, C_r, r, r] in the order of `resolutions`; `images` [N, 3, R, R] in
        [-1, 1] are those same images, encoded without gradient.
        """
        dtype = self.precision or next(self.parameters()).dtype
        features = [x.to(dtype) for x in features]
        targets = [t.to(dtype) for t in self._targets(images.detach())]
        if self.alignment.loss == "mse" and self.alignment.head == "mlp":
            heads = [head.scaled() for head in self.heads if isinstance(head, ProjectionHead)]
            return feature_projection_loss(features, targets, heads)
        scales = zip(self.heads, features, targets, strict=True)
        projected = [head(x, target.shape[2]) for head, x, target in scales]
        return comparison_losses(projected, targets, self.alignment.loss)

    @torch.no_grad()
    def _targets(self, images: Tensor) -> list[Tensor]:
        """Returns constant targets [N, D, T, T] in the order of `resolutions`."""
        encoder = self._encoder[0]
        encode = encoder.class_tokens if self.alignment.class_token else encoder.targets
        with torch.autocast(images.device.type, self.precision, enabled=self.precision is not None):
            depths = encode(images, self._num_depths())
        targets = [depths[depth] for depth in self._depths]
        if self.alignment.targets == "spatial-norm":
            targets = [spatially_normalized(target, self.alignment.spatial_gamma) for target in targets]
        return targets

    def _num_depths(self) -> int:
        return self._depths[-1] + 1
