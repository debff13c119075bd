# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the StyleGAN2 networks.

Layers with equalized learning rate take their parameters as the network has prepared them, or prepare them themselves.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020), sections 2 and 3.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from hsr_kernels import (
    bias_act,
    conv2d_resample,
    downsample2d,
    filtered_lrelu,
    modulated_conv2d,
    modulated_conv2d_parameters,
    setup_filter,
)
from hsr_kernels._dispatch.functions import Function, is_transformed
from hsr_kernels._tensors import is_channels_last
from hsr_kernels.conv2d.autograd import ConvolutionOptions, ConvTranspose2d, WeightGradient

from .. import parts
from .equalized import EqualizedLayer, Prepared, prepared

RESAMPLE_TAPS = (1, 3, 3, 1)
# Weight, styles [N, in_channels] and demodulation of a styled layer, as its operator takes them.
Modulation = tuple[Tensor, Tensor, Tensor | bool]


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


def apply_each(layers: Sequence[FullyConnected], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Returns what linear layers make of an input [N, in_features] each: one product for all layers of one width."""
    parameters = prepared((layer, x.dtype) for layer, x in zip(layers, inputs, strict=True))
    widths: dict[int, list[int]] = {}
    for i, layer in enumerate(layers):
        widths.setdefault(layer.weight.shape[0], []).append(i)
    outputs: dict[int, Tensor] = {}
    for group in widths.values():
        weights, biases = zip(*(parameters[layers[i]] for i in group), strict=True)
        x = torch.stack([inputs[i] for i in group])
        product = _linear if is_transformed() else LinearEach.apply
        outputs |= dict(zip(group, product(x, torch.stack(weights), torch.stack(biases)).unbind(), strict=True))
    return [outputs[i] for i in range(len(layers))]


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))


@Function
class LinearEach(torch.autograd.Function):
    """Linear layers [G, out, in] on inputs [G, N, in]; PyTorch's own gradient of weights would be transposed."""

    @staticmethod
    def forward(x, weight, bias):
        return _linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        dx = torch.bmm(dy, weight) if needs_x else None
        dweight = torch.bmm(dy.transpose(1, 2), x) if needs_weight else None
        return dx, dweight, dy.sum(1) if needs_bias else None


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
        return self._activate(x, bias)

    def added_to(self, y: Tensor, x: Tensor, parameters: Prepared) -> Tensor:
        """Returns y + forward(x) for a bare 1x1 convolution; in channels_last y is where its matrix product begins."""
        if is_transformed() or not is_channels_last(x):
            return y + self(x, parameters)
        if self.down > 1:
            x = downsample2d(x, self.resample_filter, down=self.down)
        return PlusProjection.apply(y, x, parameters[0])

    def _activate(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.is_bare:
            return x
        return bias_act(x, bias, act=self.activation, gain=self.act_gain, clamp=self.clamp)


@Function
class PlusProjection(torch.autograd.Function):
    """y [N, O, H, W] plus the 1x1 convolution of x [N, C, H, W] by weight [O, C, 1, 1], images in channels_last.

    One matrix product, which neither writes the convolution's result nor reads it again. Its gradients are those of a
    convolution: as a product in 16 bits, the sum over all pixels could be added up in 16 bits.
    """

    @staticmethod
    def forward(y, x, weight):
        n, o, height, width = y.shape
        rows = torch.addmm(_pixels(y), _pixels(x), weight[:, :, 0, 0].t())
        return rows.view(n, height, width, o).permute(0, 3, 1, 2)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx, dz):
        x, weight = ctx.saved_tensors
        _, needs_x, needs_weight = ctx.needs_input_grad
        options = ConvolutionOptions()
        dx = ConvTranspose2d.apply(dz, weight, None, options) if needs_x else None
        return dz, dx, WeightGradient.apply(x, dz, weight.shape, options) if needs_weight else None


def _pixels(x: Tensor) -> Tensor:
    """Returns images [N, C, H, W] in channels_last as a matrix with a row per pixel."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def shrinking_pair(
    first: Conv2dLayer, second: Conv2dLayer, x: Tensor, parameters: Mapping[EqualizedLayer, Prepared]
) -> Tensor:
    """Returns second(first(x)) for layers of which the first has a leaky ReLU and the second shrinks its images.

    The FIR filter of the second one is in one operator with the leaky ReLU before it.
    """
    weight, bias = parameters[first]
    x = conv2d_resample(x, weight, padding=first.padding)
    before = second.padding + (len(RESAMPLE_TAPS) - second.down + 1) // 2
    after = second.padding + (len(RESAMPLE_TAPS) - second.down) // 2
    x = filtered_lrelu(
        x,
        fd=second.resample_filter,
        b=bias,
        padding=(before, after, before, after),
        gain=first.act_gain,
        clamp=first.clamp,
    )
    weight, bias = parameters[second]
    # These pixels are what the operator crops to centre its strided convolution, which the filter has done already.
    before, after = (second.down - 1) // 2, second.down // 2
    x = conv2d_resample(x, weight, down=second.down, padding=(before, after, before, after))
    return second._activate(x, bias)


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

    def forward(self, x: Tensor, modulation: Modulation, noise: Tensor | None) -> Tensor:
        """Maps x [N, in_channels, R / up, R / up] to [N, out_channels, R, R].

        Args:
            x: Images.
            modulation: As `modulations` returns it.
            noise: As `noise_maps` returns it.
        """
        weight, styles, demodulate = modulation
        # The operator has all but x in its own dtype, which it casts to that of x where it must.
        return modulated_conv2d(
            x,
            weight,
            styles,
            noise=noise,
            up=self.up,
            padding=1,
            resample_filter=self.resample_filter if self.up > 1 else None,
            demodulate=demodulate,
            # Layers that upsample convolve and the others correlate, as in published networks.
            flip_weight=self.up == 1,
            bias=self.bias,
            act="lrelu",
            clamp=self.conv_clamp,
        )


def modulations(
    layers: Sequence[StyledLayer], styles: Sequence[Tensor], dtypes: Sequence[torch.dtype]
) -> list[Modulation]:
    """Returns weights, styles and demodulation of layers, whose affines made styles [N, in_channels] of latent codes.

    Each is for images of the dtype given for it.
    """
    ups = (layer.up for layer in layers)
    return [*modulated_conv2d_parameters(zip((layer.weight for layer in layers), styles, dtypes, ups, strict=True))]


def noise_maps(layers: Sequence[StyledLayer], n: int, noise_mode: str) -> list[Tensor | None]:
    """Returns the noise of layers for `n` samples: fresh [n, 1, R, R], constant [1, 1, R, R] or none."""
    if noise_mode == "none":
        return [None] * len(layers)
    if noise_mode == "const":
        return [(layer.noise_const * layer.noise_strength)[None, None] for layer in layers]
    # One draw and one product for all of them.
    pixels = [layer.resolution**2 for layer in layers]
    const = layers[0].noise_const
    numbers = parts.randn_of_each(n, pixels, dtype=const.dtype, device=const.device)
    sizes = [n * count for count in pixels]
    strengths = [layer.noise_strength.expand(size) for layer, size in zip(layers, sizes, strict=True)]
    maps = (numbers * torch.cat(strengths)).split(sizes)
    return [noise.view(n, 1, layer.resolution, layer.resolution) for noise, layer in zip(maps, layers, strict=True)]


class ToRGB(nn.Module):
    """Modulated 1x1 convolution without demodulation, from features to image channels."""

    def __init__(self, in_channels: int, img_channels: int, w_dim: int, *, conv_clamp: float | None = None) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        # The gain of the convolution's weights is that of its styles.
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1.0, gain=1 / math.sqrt(in_channels))
        self.weight = nn.Parameter(torch.randn(img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))

    def forward(self, x: Tensor, styles: Tensor, weight: Tensor | None = None) -> Tensor:
        """Maps x [N, in_channels, R, R] to [N, img_channels, R, R].

        Args:
            x: Images.
            styles: What `affine` makes of a latent code, [N, in_channels].
            weight: The layer's, if it has been cast to the dtype of x.
        """
        return modulated_conv2d(
            x,
            self.weight if weight is None else weight,
            styles,
            demodulate=False,
            bias=self.bias,
            clamp=self.conv_clamp,
        )
