# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 generator with skip connections to RGB.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020), figures 2 and 7; low
precision with clamped activations as in "Training Generative Adversarial Networks with Limited Data" (2020).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hsr_kernels import upsample2d
from hsr_kernels._dispatch.functions import is_batched

from .equalized import scale
from .layers import FilteredModule, FullyConnected, Modulation, StyledLayer, ToRGB, apply_each, modulations, noise_maps
from .mapping import MappingNetwork

NOISE_MODES = ("random", "const", "none")


def block_resolutions(resolution: int) -> list[int]:
    """Returns the resolutions 4, 8, ... up to `resolution`.

    Raises:
        ValueError: `resolution` is not a power of two of at least 8.
    """
    if resolution < 8 or resolution & (resolution - 1):
        raise ValueError(f"resolution must be a power of two of at least 8, got {resolution}")
    return [2**i for i in range(2, resolution.bit_length())]


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Returns the number of feature maps at a resolution: inversely proportional to it, up to a maximum.

    Raises:
        ValueError: There would be none.
    """
    channels = min(channel_base // resolution, channel_max)
    if channels < 1:
        raise ValueError(
            f"channel_base and channel_max must leave a feature map at {resolution} pixels, "
            f"got {channel_base} and {channel_max}"
        )
    return channels


def low_precision_resolutions(resolution: int, number: int) -> list[int]:
    """Returns the `number` highest resolutions, which may run in 16 bits; never 4x4, which would gain nothing."""
    return block_resolutions(resolution)[1:][::-1][:number]


class ActivationLayout:
    """The memory format and the dtypes of a network's activations, as attributes that can be pickled."""

    low_precision_dtype: torch.dtype
    _channels_last: bool

    @property
    def memory_format(self) -> torch.memory_format:
        """torch.channels_last or torch.contiguous_format."""
        return torch.channels_last if self._channels_last else torch.contiguous_format

    @memory_format.setter
    def memory_format(self, value: torch.memory_format) -> None:
        if value not in (torch.channels_last, torch.contiguous_format):
            raise ValueError(f"memory_format must be channels_last or contiguous_format, got {value}")
        self._channels_last = value == torch.channels_last

    def laid_out(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns x [N, C, H, W] as a block takes it; under vmap, which has no memory formats, in its own layout."""
        return x.to(dtype) if is_batched(x) else x.to(dtype=dtype, memory_format=self.memory_format)


def activation_dtype(inputs: Tensor, low_precision_dtype: torch.dtype | None) -> torch.dtype:
    """Returns the dtype of a block's activations: its low precision, if it has any, in a network of float32.

    float16 is for GPUs alone: PyTorch's convolutions on CPUs are far slower in it than in float32.
    """
    is_suitable = inputs.is_cuda or low_precision_dtype != torch.float16
    if low_precision_dtype is None or inputs.dtype != torch.float32 or not is_suitable:
        return inputs.dtype
    return low_precision_dtype


class StyleLayer(NamedTuple):
    """A layer with styles.

    Attributes:
        name: Resolution and place in the block, such as "8.conv0" or "8.torgb".
        affine: Makes the styles of a latent code.
        code: Number of that code among ws.
    """

    name: str
    affine: FullyConnected
    code: int


class SynthesisBlock(nn.Module):
    """Two styled layers (one at 4x4, where it starts from the learned constant) and the path to RGB."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        *,
        conv_clamp: float | None,
        low_precision: bool,
    ) -> None:
        super().__init__()
        self.low_precision = low_precision
        self.conv0 = None
        if in_channels > 0:
            self.conv0 = StyledLayer(in_channels, out_channels, w_dim, resolution, up=2, conv_clamp=conv_clamp)
        self.conv1 = StyledLayer(out_channels, out_channels, w_dim, resolution, conv_clamp=conv_clamp)
        self.torgb = ToRGB(out_channels, img_channels, w_dim, conv_clamp=conv_clamp)
        self.num_conv = 1 if self.conv0 is None else 2

    def styled_layers(self) -> list[StyledLayer]:
        """Returns the layers with noise."""
        return [self.conv1] if self.conv0 is None else [self.conv0, self.conv1]

    def forward(
        self,
        x: Tensor,
        modulations: Sequence[Modulation],
        noise: Sequence[Tensor | None],
        rgb_styles: Tensor,
        rgb_weight: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Maps x to features [N, C, R, R] and RGB [N, 3, R, R].

        Args:
            x: The features of the block before, [N, in_channels, R / 2, R / 2].
            modulations, noise: Of each layer but ToRGB.
            rgb_styles: ToRGB's.
            rgb_weight: ToRGB's, in the dtype of x.
        """
        for layer, modulation, of_layer in zip(self.styled_layers(), modulations, noise, strict=True):
            x = layer(x, modulation, of_layer)
        return x, self.torgb(x, rgb_styles, rgb_weight).to(rgb_styles.dtype)


class SynthesisNetwork(ActivationLayout, FilteredModule):
    """The network from latent codes to images; see `Generator` for the arguments."""

    def __init__(
        self,
        w_dim: int,
        resolution: int,
        img_channels: int,
        *,
        channel_base: int,
        channel_max: int,
        mixed_precision_resolutions: int,
        low_precision_dtype: torch.dtype,
        conv_clamp: float | None,
        memory_format: torch.memory_format,
    ) -> None:
        super().__init__()
        self.w_dim = w_dim
        self.resolutions = block_resolutions(resolution)
        self.memory_format = memory_format
        self.low_precision_dtype = low_precision_dtype
        self.channels = {r: channels_at(r, channel_base, channel_max) for r in self.resolutions}
        self.const = nn.Parameter(torch.randn(self.channels[4], 4, 4))
        low_precision = low_precision_resolutions(resolution, mixed_precision_resolutions)
        widths = [0, *self.channels.values()]
        self.blocks = nn.ModuleDict(
            {
                str(r): SynthesisBlock(
                    n_in,
                    n_out,
                    w_dim,
                    r,
                    img_channels,
                    conv_clamp=conv_clamp,
                    low_precision=r in low_precision,
                )
                for r, (n_in, n_out) in zip(self.resolutions, pairwise(widths), strict=True)
            }
        )
        # ToRGB takes the same code as the first layer of the next block, so only the last one adds a code.
        self.num_ws = sum(block.num_conv for block in self._blocks()) + 1

    def _blocks(self) -> list[SynthesisBlock]:
        return [block for block in self.blocks.values() if isinstance(block, SynthesisBlock)]

    def _styled_layers(self) -> list[StyledLayer]:
        return [layer for block in self._blocks() for layer in block.styled_layers()]

    def forward(self, ws: Tensor, noise_mode: str = "random") -> Tensor:
        """Maps ws [N, num_ws, w_dim] to images [N, img_channels, R, R] in about [-1, 1].

        `noise_mode`: "random" draws fresh noise, "const" takes the noise buffers, "none" adds no noise.
        """
        return self.with_features(ws, (), noise_mode)[0]

    def with_features(
        self, ws: Tensor, resolutions: Sequence[int], noise_mode: str = "random"
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Returns images and the blocks' outputs [N, C_r, r, r] (before ToRGB) at the given resolutions."""
        return self.from_styles(self.styles(ws), resolutions, noise_mode)

    def styles(self, ws: Tensor) -> list[Tensor]:
        """Returns the styles [N, C_l] that codes ws [N, num_ws, w_dim] give the layers `style_layers` names."""
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws must be [N, {self.num_ws}, {self.w_dim}], got {tuple(ws.shape)}")
        codes = ws.unbind(dim=1)
        layers = self.style_layers()
        return apply_each([layer.affine for layer in layers], [codes[layer.code] for layer in layers])

    def style_layers(self) -> list[StyleLayer]:
        """Returns the layers that have styles, ToRGB's among them, in the order of the computation."""
        layers, start = [], 0
        for r, block in zip(self.resolutions, self._blocks(), strict=True):
            affines = [*(layer.affine for layer in block.styled_layers()), block.torgb.affine]
            names = ["conv0", "conv1", "torgb"][-len(affines) :]
            layers += [
                StyleLayer(f"{r}.{name}", affine, start + i)
                for i, (name, affine) in enumerate(zip(names, affines, strict=True))
            ]
            start += block.num_conv
        return layers

    def from_styles(
        self, styles: Sequence[Tensor], resolutions: Sequence[int] = (), noise_mode: str = "random"
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Returns the images and features of styles [N, C_l], one tensor for each of `style_layers`."""
        self._check(styles, resolutions, noise_mode)
        x = self.const.unsqueeze(0).expand(styles[0].shape[0], -1, -1, -1)
        img: Tensor | None = None
        features = {}
        blocks = self._blocks()
        dtypes = [
            activation_dtype(styles[0], self.low_precision_dtype if block.low_precision else None) for block in blocks
        ]
        remaining = iter(styles)
        of_blocks = [[next(remaining) for _ in range(block.num_conv + 1)] for block in blocks]
        rgb_styles = [of_block.pop() for of_block in of_blocks]
        # Of the other layers demodulation casts the weights.
        rgb_weights = scale([block.torgb.weight for block in blocks], [1.0] * len(blocks), dtypes)
        of_layers = self._modulations(of_blocks, dtypes), self._noise(styles[0].shape[0], noise_mode)
        inputs_of_blocks = zip(blocks, dtypes, *of_layers, rgb_styles, rgb_weights, strict=True)
        for r, (block, dtype, *inputs) in zip(self.resolutions, inputs_of_blocks, strict=True):
            x, rgb = block(self.laid_out(x, dtype), *inputs)
            img = rgb if img is None else upsample2d(img, self.resample_filter, up=2) + rgb
            if r in resolutions:
                features[r] = x
        assert img is not None
        return img, features

    def _modulations(self, styles: list[list[Tensor]], dtypes: list[torch.dtype]) -> list[list[Modulation]]:
        """Returns the modulation of each block's layers but ToRGB, for these styles and each block's dtype."""
        flat = [style for of_block in styles for style in of_block]
        flat_dtypes = [dtype for dtype, of_block in zip(dtypes, styles, strict=True) for _ in of_block]
        found = iter(modulations(self._styled_layers(), flat, flat_dtypes))
        return [[next(found) for _ in of_block] for of_block in styles]

    def _noise(self, n: int, noise_mode: str) -> list[list[Tensor | None]]:
        """Returns the noise of each block's layers but ToRGB, for n samples."""
        noise = iter(noise_maps(self._styled_layers(), n, noise_mode))
        return [[next(noise) for _ in range(block.num_conv)] for block in self._blocks()]

    def _check(self, styles: Sequence[Tensor], resolutions: Sequence[int], noise_mode: str) -> None:
        # Layers check the widths of their styles themselves.
        num_layers = sum(block.num_conv + 1 for block in self._blocks())
        if len(styles) != num_layers:
            raise ValueError(f"styles must be {num_layers} tensors, got {len(styles)}")
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode must be one of {', '.join(NOISE_MODES)}, got {noise_mode!r}")
        missing = set(resolutions) - set(self.resolutions)
        if missing:
            raise ValueError(f"no features at resolution {sorted(missing)}; there are {self.resolutions}")


class Generator(nn.Module):
    """StyleGAN2 generator.

    Args:
        z_dim: Dimension of the latent code z.
        c_dim: Number of classes; 0 for an unconditional generator.
        w_dim: Dimension of the intermediate latent space W.
        resolution: Image side, a power of two of at least 8.
        img_channels: Channels of the image.
        mapping_layers: Layers of the mapping network.
        mapping_lr_multiplier: Learning rate of the mapping network relative to the rest.
        w_avg_beta: Share of the mean of w that a step of training leaves as it was.
        channel_base: Feature maps times resolution.
        channel_max: Largest number of feature maps.
        mixed_precision_resolutions: How many of the highest resolutions run in 16 bits; 4x4 never does.
        low_precision_dtype: Their dtype: float16, which networks on CPUs replace by float32, or bfloat16.
        conv_clamp: Clamp on each layer's output, or None; keeps float16 from overflowing.
        memory_format: Layout of the activations. The convolution itself is fastest in channels_last.

    Raises:
        ValueError: The resolution is not a power of two of at least 8, or leaves no feature maps.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        resolution: int,
        img_channels: int = 3,
        *,
        mapping_layers: int = 8,
        mapping_lr_multiplier: float = 0.01,
        w_avg_beta: float = 0.998,
        channel_base: int = 32768,
        channel_max: int = 512,
        mixed_precision_resolutions: int = 0,
        low_precision_dtype: torch.dtype = torch.float16,
        conv_clamp: float | None = None,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.resolution, self.img_channels = resolution, img_channels
        self.synthesis = SynthesisNetwork(
            w_dim,
            resolution,
            img_channels,
            channel_base=channel_base,
            channel_max=channel_max,
            mixed_precision_resolutions=mixed_precision_resolutions,
            low_precision_dtype=low_precision_dtype,
            conv_clamp=conv_clamp,
            memory_format=memory_format,
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(
            z_dim,
            c_dim,
            w_dim,
            self.num_ws,
            num_layers=mapping_layers,
            lr_multiplier=mapping_lr_multiplier,
            w_avg_beta=w_avg_beta,
        )

    def channels(self, resolution: int) -> int:
        """Returns the number of feature maps of the block at `resolution`."""
        return self.synthesis.channels[resolution]

    def forward(
        self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0, noise_mode: str = "random"
    ) -> Tensor:
        """Maps z [N, z_dim], one-hot c [N, c_dim] to images [N, img_channels, R, R], float32."""
        return self.synthesis(self.mapping(z, c, truncation_psi=truncation_psi), noise_mode)
