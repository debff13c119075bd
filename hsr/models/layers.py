# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the StyleGAN2 networks.

Layers with equalized learning rate take their parameters as the network has prepared them, or prepare them themselves.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020), sections 2 and 3.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hsr_kernels import bias_act, conv2d_resample, modulated_conv2d, setup_filter

from .. import parts
from .equalized import EqualizedLayer, Prepared

RESAMPLE_TAPS = (1, 3, 3, 1)


def normalize_second_moment(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Scales each row of `x` [N, C] so that the mean of its squares is one."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


class FullyConnected(EqualizedLayer):
    """Linear layer on [N, in_features], followed by an activation.

    The stored weights are N(0, 1) / `lr_multiplier`, so that Adam moves a layer with `lr_multiplier` 0.01 a hundred
    times slower. What is linear is multiplied by `gain`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))
        self.weight_gain = gain * lr_multiplier / math.sqrt(in_features)
        self.bias_gain = gain * lr_multiplier

    def forward(self, x: Tensor, parameters: Prepared | None = None) -> Tensor:
        weight, bias = self.prepared(x.dtype) if parameters is None else parameters
        assert bias is not None
        if self.activation == "linear":
            return torch.addmm(bias, x, weight.t())
        return bias_act(x @ weight.t(), bias, act=self.activation)


class FilteredModule(nn.Module):
    """A module with the FIR filter of up- and downsampling, a constant that no state dict holds.

    Copies on other devices and in other dtypes get a new filter, as memory from `to_empty` or a module that was
    built on the meta device has no values to move.
    """

    resample_filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("resample_filter", _taps(torch.get_default_device()), persistent=False)
        self.register_load_state_dict_post_hook(FilteredModule._follow_weights)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FilteredModule":
        super()._apply(fn, recurse)  # type: ignore[misc]
        self._refill(self.resample_filter.device)
        return self

    def _refill(self, device: torch.device) -> None:
        self.resample_filter = _taps(device).to(self.resample_filter.dtype)

    def _follow_weights(self, _: object) -> None:
        """Moves the filter of a module on the meta device to where its weights were assigned from."""
        weight = next(self.parameters())
        if self.resample_filter.is_meta and not weight.is_meta:
            self._refill(weight.device)


def _taps(device: torch.device) -> Tensor:
    # Along one axis: applied along both, they take half the arithmetic of their outer product.
    return setup_filter(list(RESAMPLE_TAPS), device=device, separable=True)


class Conv2dLayer(FilteredModule, EqualizedLayer):
    """Convolution with FIR down-sampling and an activation.

    `kernel_size` is odd; the image [N, in_channels, H, W] is padded to keep its size, then shrunk by
    `down`. `gain` scales output and clamp.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        activation: str = "linear",
        down: int = 1,
        conv_clamp: float | None = None,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.down = down
        self.clamp = None if conv_clamp is None else conv_clamp * gain
        self.padding = kernel_size // 2
        # Without bias, activation and clamp the gain is the weight's, and the convolution is all there is.
        self.is_bare = activation == "linear" and not bias and conv_clamp is None
        self.act_gain = gain * (math.sqrt(2) if activation == "lrelu" else 1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = (gain if self.is_bare else 1.0) / math.sqrt(in_channels * kernel_size**2)

    def forward(self, x: Tensor, parameters: Prepared | None = None) -> Tensor:
        """Maps x [N, in_channels, H, W] to [N, out_channels, H / down, W / down]."""
        weight, bias = self.prepared(x.dtype) if parameters is None else parameters
        x = conv2d_resample(
            x, weight, f=self.resample_filter if self.down > 1 else None, down=self.down, padding=self.padding
        )
        if self.is_bare:
            return x
        return bias_act(x, bias, act=self.activation, gain=self.act_gain, clamp=self.clamp)


class StyledLayer(FilteredModule):
    """Modulated 3x3 convolution, noise, bias and leaky ReLU: a layer of the synthesis network, one operator.

    The convolution's weights carry no gain at run time, because demodulation cancels any.
    """

    noise_const: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        up: int = 1,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.up = up
        self.resolution = resolution
        self.conv_clamp = conv_clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))

    def noise(self, x: Tensor, noise_mode: str) -> Tensor | None:
        """Returns noise for the batch of `x`: fresh [N, 1, R, R], constant [1, 1, R, R] or none."""
        if noise_mode == "none":
            return None
        if noise_mode == "random":
            shape = (x.shape[0], 1, self.resolution, self.resolution)
            noise = parts.randn(*shape, dtype=self.noise_const.dtype, device=x.device)
        else:
            noise = self.noise_const.reshape(1, 1, self.resolution, self.resolution)
        return noise * self.noise_strength

    def forward(self, x: Tensor, w: Tensor, noise_mode: str, affine: Prepared | None = None) -> Tensor:
        """Maps x [N, in_channels, R / up, R / up] and w [N, w_dim] to [N, out_channels, R, R]."""
        # The operator has all but x in its own dtype, which it casts to that of x where it must.
        return modulated_conv2d(
            x,
            self.weight,
            self.affine(w, affine),
            noise=self.noise(x, noise_mode),
            up=self.up,
            padding=1,
            resample_filter=self.resample_filter if self.up > 1 else None,
            # Layers that upsample convolve and the others correlate, as in published networks.
            flip_weight=self.up == 1,
            bias=self.bias,
            act="lrelu",
            clamp=self.conv_clamp,
        )


class ToRGB(nn.Module):
    """Modulated 1x1 convolution without demodulation, from features to image channels."""

    def __init__(self, in_channels: int, img_channels: int, w_dim: int, *, conv_clamp: float | None = None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        # The gain of the convolution's weights is that of its styles.
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0, gain=1 / math.sqrt(in_channels))
        self.weight = nn.Parameter(torch.randn(img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))

    def forward(self, x: Tensor, w: Tensor, affine: Prepared | None = None) -> Tensor:
        """Maps x [N, in_channels, R, R] and w [N, w_dim] to [N, img_channels, R, R]."""
        return modulated_conv2d(
            x,
            self.weight,
            self.affine(w, affine),
            demodulate=False,
            bias=self.bias,
            clamp=self.conv_clamp,
        )
