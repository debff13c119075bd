# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0 for images 224 pixels wide.

Source: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019), table 1; Sandler
et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018), for its blocks. The "Lite" networks have no
squeeze-and-excitation, and ReLU6 in the place of swish.
"""

import torch.nn.functional as F
from torch import Tensor, nn

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
NUM_CLASSES = 1000
# Stages of equal blocks: number of blocks, kernel size, stride of the first block, expansion, output channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
BATCH_NORM_EPS = 1e-3


class SameConv2d(nn.Conv2d):
    """Convolution that is padded as TensorFlow's "same": ceil(size / stride) outputs, odd padding behind the image."""

    def forward(self, x: Tensor) -> Tensor:
        padding: list[int] = []
        # F.pad takes the last dimension first.
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        x = F.pad(x, padding) if any(padding) else x
        return F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)


class ConvNorm(nn.Module):
    """Convolution, batch normalisation, and ReLU6 unless it is linear."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = SameConv2d(in_channels, out_channels, kernel_size, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x if self.linear else F.relu6(x)


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels (none at an expansion of 1), depthwise convolution, linear 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int) -> None:
        super().__init__()
        channels = in_channels * expansion
        self.expand = ConvNorm(in_channels, channels, 1) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(channels, channels, kernel_size, stride, groups=channels)
        self.project = ConvNorm(channels, out_channels, 1, linear=True)
        self.has_skip = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.has_skip else y


class EfficientNetLite0(nn.Module):
    """Classifier of ImageNet's thousand classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, STEM_CHANNELS, 3, 2)
        self.blocks = nn.ModuleList()
        in_channels = STEM_CHANNELS
        for num_blocks, kernel_size, first_stride, expansion, out_channels in STAGES:
            for i in range(num_blocks):
                stride = first_stride if i == 0 else 1
                self.blocks.append(InvertedResidual(in_channels, out_channels, kernel_size, stride, expansion))
                in_channels = out_channels
        self.head = ConvNorm(in_channels, HEAD_CHANNELS, 1)
        self.classifier = nn.Linear(HEAD_CHANNELS, NUM_CLASSES)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Returns the last block's output at each resolution, shallow first: [N, D, R, R], R = 112, 56, 28, 14, 7."""
        x = self.stem(x)
        maps: list[Tensor] = []
        for block in self.blocks:
            x = block(x)
            if maps and maps[-1].shape[2:] == x.shape[2:]:
                maps.pop()
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Maps prepared images [N, 3, 224, 224] to class logits [N, 1000]."""
        return self.classifier(self.head(self.feature_maps(x)[-1]).mean(dim=[2, 3]))
