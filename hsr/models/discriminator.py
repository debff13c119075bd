# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 discriminator with residual blocks, or without their skips.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020), figure 7; without skips as in
"Training Generative Adversarial Networks with Limited Data" (2020) for CIFAR-10; minibatch
standard deviation from "Progressive Growing of GANs" (2018), section 3; projection of the label from Miyato
and Koyama, "cGANs with Projection Discriminator" (2018).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .equalized import EqualizedLayer, Prepared, prepared
from .generator import (
    ActivationLayout,
    activation_dtype,
    block_resolutions,
    channels_at,
    low_precision_resolutions,
)
from .layers import Conv2dLayer, FullyConnected, shrinking_pair
from .mapping import LatentMLP


def minibatch_std(x: Tensor, group_size: int, batches: int = 1, eps: float = 1e-8) -> Tensor:
    """Appends one feature map that holds the standard deviation of the features over groups of samples.

    x [B * N, C, H, W] to [B * N, C + 1, H, W], for `batches` B one after another, whose samples share no group. A group
    has the largest size up to `group_size` that divides N.
    """
    total, c, h, w = x.shape
    n = total // batches
    group = max(size for size in range(1, min(group_size, max(n, 1)) + 1) if n % size == 0)
    # Sample i of a batch belongs to group i mod (N / group): neighbours in the batch differ in group.
    grouped = x.reshape(batches, group, n // group, c, h, w)
    std = (grouped.var(dim=1, correction=0) + eps).sqrt().mean(dim=[2, 3, 4])
    feature = std.repeat(1, group).reshape(total, 1, 1, 1).expand(-1, -1, h, w)
    return torch.cat([x, feature], dim=1)


class DiscriminatorBlock(nn.Module):
    """Two 3x3 convolutions, the second one shrinking, beside a 1x1 shrinking skip if the block is residual."""

    def __init__(
        self, in_channels: int, out_channels: int, *, conv_clamp: float | None, low_precision: bool, residual: bool
    ) -> None:
        super().__init__()
        self.low_precision = low_precision
        self.conv0 = Conv2dLayer(in_channels, in_channels, 3, activation="lrelu", conv_clamp=conv_clamp)
        # The sum of two branches of unit variance is brought back to unit variance.
        gain = math.sqrt(0.5) if residual else 1.0
        self.conv1 = Conv2dLayer(
            in_channels, out_channels, 3, activation="lrelu", down=2, conv_clamp=conv_clamp, gain=gain
        )
        self.skip = Conv2dLayer(in_channels, out_channels, 1, bias=False, down=2, gain=gain) if residual else None

    def equalized_layers(self) -> list[EqualizedLayer]:
        """Returns the layers whose parameters are prepared."""
        return [layer for layer in (self.conv0, self.conv1, self.skip) if layer is not None]

    def forward(self, x: Tensor, parameters: Mapping[EqualizedLayer, Prepared]) -> Tensor:
        """Maps x [N, in_channels, R, R] to [N, out_channels, R / 2, R / 2]."""
        y = shrinking_pair(self.conv0, self.conv1, x, parameters)
        return y if self.skip is None else self.skip.added_to(y, x, parameters[self.skip])


class Discriminator(ActivationLayout, nn.Module):
    """StyleGAN2 discriminator; arguments as in `hsr.models.Generator`.

    `minibatch_std_group` is the number of samples over which the standard deviation is taken; `residual` gives the
    blocks skip connections. With labels,
    the last layer's output is projected on an embedding of the label, of `label_dim` dimensions (None: as many as
    feature maps at 4x4), through a mapping of `mapping_layers`, eight as published.

    Raises:
        ValueError: The resolution is not a power of two of at least 8, or leaves no feature maps.
    """

    def __init__(
        self,
        c_dim: int,
        resolution: int,
        img_channels: int = 3,
        *,
        channel_base: int = 32768,
        channel_max: int = 512,
        minibatch_std_group: int = 4,
        residual: bool = True,
        mapping_layers: int = 8,
        label_dim: int | None = None,
        mixed_precision_resolutions: int = 0,
        low_precision_dtype: torch.dtype = torch.float16,
        conv_clamp: float | None = None,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        super().__init__()
        self.c_dim, self.resolution, self.img_channels = c_dim, resolution, img_channels
        self.minibatch_std_group = minibatch_std_group
        self.memory_format = memory_format
        self.low_precision_dtype = low_precision_dtype
        resolutions = block_resolutions(resolution)[:0:-1]
        low_precision = low_precision_resolutions(resolution, mixed_precision_resolutions)
        channels = {r: channels_at(r, channel_base, channel_max) for r in [*resolutions, 4]}
        self.from_rgb = Conv2dLayer(img_channels, channels[resolution], 1, activation="lrelu", conv_clamp=conv_clamp)
        self.blocks = nn.ModuleDict(
            {
                str(r): DiscriminatorBlock(
                    channels[r],
                    channels[r // 2],
                    conv_clamp=conv_clamp,
                    low_precision=r in low_precision,
                    residual=residual,
                )
                for r in resolutions
            }
        )
        width = channels[4]
        self.conv = Conv2dLayer(width + 1, width, 3, activation="lrelu", conv_clamp=conv_clamp)
        self.fc = FullyConnected(width * 16, width, activation="lrelu")
        label_dim = width if label_dim is None else label_dim
        self.out = FullyConnected(width, 1 if c_dim == 0 else label_dim)
        self.embed = LatentMLP(0, c_dim, label_dim, num_layers=mapping_layers) if c_dim > 0 else None

    def forward(self, img: Tensor, c: Tensor | None = None, batches: int = 1) -> Tensor:
        """Maps images [N, img_channels, R, R] and one-hot c [N, c_dim] to logits [N, 1].

        They may be several `batches` of one size, one after another, each with the logits that it would have alone.
        """
        expected = (self.img_channels, self.resolution, self.resolution)
        if img.ndim != 4 or img.shape[1:] != expected:
            raise ValueError(f"img must be [N, {', '.join(map(str, expected))}], got {tuple(img.shape)}")
        if batches > 1 and img.shape[0] % batches:
            raise ValueError(f"img must hold {batches} batches of one size, got {img.shape[0]} images")
        x = img
        blocks = [block for block in self.blocks.values() if isinstance(block, DiscriminatorBlock)]
        dtypes = [activation_dtype(img, self.low_precision_dtype if block.low_precision else None) for block in blocks]
        parameters = prepared(
            [
                (self.from_rgb, dtypes[0]),
                *((layer, dtypes[i]) for i, block in enumerate(blocks) for layer in block.equalized_layers()),
                *((layer, img.dtype) for layer in (self.conv, self.fc, self.out)),
            ]
        )
        for i, block in enumerate(blocks):
            x = self.laid_out(x, dtypes[i])
            x = block(self.from_rgb(x, parameters[self.from_rgb]) if i == 0 else x, parameters)
        x = minibatch_std(x.to(img.dtype), self.minibatch_std_group, batches)
        # The layout here is that of all gradients of images, down to the first block.
        x = self.conv(self.laid_out(x, img.dtype), parameters[self.conv])
        x = self.out(self.fc(x.flatten(1), parameters[self.fc]), parameters[self.out])
        if self.embed is None:
            return x
        return (x * self.embed.map(None, c)).sum(dim=1, keepdim=True) / math.sqrt(x.shape[1])
