# SPDX-License-Identifier: Apache-2.0
"""Calls of the public functions at the shapes of StyleGAN2 and of the HSR loss, with two orders of derivatives."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

import hsr_kernels as hk

from .._dispatch.explain import implemented

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_LAYOUTS = (torch.contiguous_format, torch.channels_last)
# (channels, side) of StyleGAN2's feature maps, up to 1024x1024.
_FEATURE_MAPS = ((512, 4), (512, 16), (512, 64), (256, 128), (128, 256), (64, 512), (32, 1024))
# Sides of RGB images.
_IMAGE_SIDES = (4, 16, 64, 256, 1024)
# (height, width) that no power of 2 divides.
_ODD_SIZES = ((33, 19),)
_CURVED_ACTIVATIONS = ("tanh", "sigmoid", "elu", "selu", "softplus", "swish")
# Operators that multiply matrices.
_PRODUCT_OPERATORS = ("conv2d_resample", "modulated_conv2d", "feature_projection_loss")
_FIR4 = hk.setup_filter([1, 3, 3, 1])
_FIR4_SEPARABLE = hk.setup_filter([1, 3, 3, 1], separable=True)
# The filter of augmentation.
_FIR12 = hk.setup_filter([0.015, 0.044, -0.068, -0.118, 0.491, 1.138, 1.138, 0.491, -0.118, -0.068, 0.044, 0.015])

# A filter of StyleGAN3-R, which isn't separable.
_RADIAL12 = hk.setup_filter(1 / (1 + (torch.arange(12)[:, None] - 5.5) ** 2 + (torch.arange(12) - 5.5) ** 2))


@dataclass(frozen=True)
class Call:
    """A differentiable call: `function(*tensors)`.

    Attributes:
        op: Name of the operator in `hsr_kernels.explain`.
        function: Function of the tensors.
        shapes: Shapes of the tensors; the first is the operator's image.
        layout: Layout of the tensors with four dimensions.
        orders: Orders of derivatives that are native and taken.
        first_alone: Whether to take derivatives with respect to the first tensor alone too.
    """

    op: str
    function: Callable[..., torch.Tensor]
    shapes: Sequence[tuple[int, ...]]
    layout: torch.memory_format = torch.contiguous_format
    orders: int = 2
    first_alone: bool = True

    def run(self, dtype: torch.dtype) -> None:
        """Runs the forward, and derivatives with respect to the first tensor alone (as R1 takes them) and to all."""
        tensors = [self._tensor(shape, dtype) for shape in self.shapes]
        if self.orders == 0:
            with torch.no_grad():
                self.function(*tensors)
            return
        indices = tuple(range(len(tensors)))
        for varied in {(0,), indices} if self.first_alone else {indices}:
            self._differentiate(tensors, varied)

    def _tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        layout = self.layout if len(shape) == 4 else torch.contiguous_format
        return torch.empty(shape, dtype=dtype, memory_format=layout)

    def _differentiate(self, tensors: list[torch.Tensor], varied: tuple[int, ...]) -> None:
        leaves = [t.detach().requires_grad_(i in varied) for i, t in enumerate(tensors)]
        inputs = [leaves[i] for i in varied]
        twice = self.orders == 2
        y = self.function(*leaves)
        cotangent = torch.empty_like(y).requires_grad_(twice)
        grads = torch.autograd.grad(y, inputs, cotangent, create_graph=twice, allow_unused=True)
        roots = [g for g in grads if g is not None and g.requires_grad]
        if roots:
            torch.autograd.grad(roots, [*inputs, cotangent], [torch.empty_like(g) for g in roots], allow_unused=True)


def calls(dtypes: Iterable[torch.dtype] = tuple(DTYPES.values())) -> Iterator[Callable[[], None]]:
    """Yields every call whose operator has a Triton implementation, with and without TF32."""
    for call in _calls():
        if "triton" in implemented(call.op):
            for dtype in dtypes:
                can_use_tf32 = dtype == torch.float32 and call.op in _PRODUCT_OPERATORS
                for allow_tf32 in (False, True) if can_use_tf32 else (False,):
                    yield partial(_with_tf32, allow_tf32, partial(call.run, dtype))
                    # First derivatives that no second ones follow can be one kernel.
                    if call.op == "modulated_conv2d":
                        fused = partial(_on_route, "fused", partial(replace(call, orders=1).run, dtype))
                        yield partial(_with_tf32, allow_tf32, fused)


def styled_layers() -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields styled layers of StyleGAN2, and those to RGB, with first derivatives, each with a name."""
    lrelu: dict[str, Any] = {"act": "lrelu", "clamp": 256}
    up: dict[str, Any] = {"up": 2, "resample_filter": _FIR4, "flip_weight": False}
    n, c, side = 8, 256, 64
    tensors = ((n, c, side, side), (c, c, 3, 3), (n, c), (c,))
    layers: dict[str, tuple[Callable[..., torch.Tensor], tuple[tuple[int, ...], ...]]] = {
        "a layer": (partial(_styled_layer, **lrelu), (*tensors, (side, side))),
        "a layer going up": (partial(_styled_layer, **lrelu, **up), (*tensors, (2 * side, 2 * side))),
        "a layer to RGB": (_to_rgb, ((n, c, side, side), (3, c, 1, 1), (n, c), (3,))),
    }
    for name, (function, shapes) in layers.items():
        for dtype in (torch.float32, torch.float16):
            for layout in _LAYOUTS:
                layer = Call("modulated_conv2d", function, shapes, layout, orders=1, first_alone=False)
                yield f"{name} in {dtype}, {layout}", partial(layer.run, dtype)


def _with_tf32(allow: bool, function: Callable[[], None]) -> None:
    with _tf32(allow):
        function()


def _on_route(route: str, function: Callable[[], None]) -> None:
    with hk.use_route(route):
        function()


@contextmanager
def _tf32(allow: bool) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    settings = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allow
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = settings


def _calls() -> Iterator[Call]:
    yield from _bias_act()
    yield from _upfirdn2d()
    yield from _filtered_lrelu()
    yield from _resampled()
    yield from _modulated()
    yield from _feature_loss()


def _bias_act() -> Iterator[Call]:
    def call(shape: tuple[int, ...], layout: torch.memory_format, act: str, bias: bool = True) -> Call:
        shapes = (shape, shape[1:2]) if bias else (shape,)
        return Call("bias_act", partial(hk.bias_act, act=act, clamp=256), shapes, layout)

    for layout in _LAYOUTS:
        for c, side in _FEATURE_MAPS:
            yield call((4, c, side, side), layout, "lrelu")
        for side in _IMAGE_SIDES:
            yield call((4, 3, side, side), layout, "linear")
        for h, w in _ODD_SIZES:
            yield call((2, 5, h, w), layout, "lrelu")
        for act in ("relu", *_CURVED_ACTIVATIONS):
            yield call((4, 64, 256, 256), layout, act)
        yield call((4, 64, 256, 256), layout, "lrelu", bias=False)
        # More than 2^31 elements.
        yield call((4, 512, 1024, 1024 + 64), layout, "lrelu")
    yield call((8, 512), torch.contiguous_format, "lrelu")
    yield call((8, 512), torch.contiguous_format, "linear")


def _upfirdn2d() -> Iterator[Call]:
    def call(function: Callable[..., Any], f: torch.Tensor | None, shape: tuple[int, ...], **options: Any) -> None:
        filter_calls.extend(
            Call("upfirdn2d", partial(function, f=f, **options), (shape,), layout) for layout in _LAYOUTS
        )

    filter_calls: list[Call] = []
    for function in (hk.upsample2d, hk.downsample2d, hk.filter2d):
        for side in _IMAGE_SIDES:
            call(function, _FIR4, (4, 3, side, side))
        for c, side in _FEATURE_MAPS[::2]:
            call(function, _FIR4, (4, c, side, side))
        call(function, _FIR4_SEPARABLE, (4, 64, 64, 64))
        call(function, _FIR12, (4, 3, 256, 256))
        for h, w in _ODD_SIZES:
            call(function, _FIR4, (2, 5, h, w))
    call(hk.upsample2d, _FIR12, (1, 3, 63, 65), up=4)
    call(hk.upfirdn2d, _FIR12, (1, 3, 63, 65), up=(2, 3), down=(3, 2), padding=(3, -1, 2, 4), flip_filter=True)
    call(hk.upfirdn2d, None, (4, 3, 64, 64), up=2, padding=(1, 0))
    call(hk.upsample2d, _FIR4, (2, 512, 1024, 1024 + 64))
    yield from filter_calls


def _filtered_lrelu() -> Iterator[Call]:
    def call(c: int, side: int, padding: int, orders: int = 2, **options: Any) -> None:
        function = partial(_activation, padding=padding, **options)
        layer_calls.extend(
            Call("filtered_lrelu", function, ((4, c, side, side), (c,)), layout, orders) for layout in _LAYOUTS
        )

    layer_calls: list[Call] = []
    call(128, 86, 8)
    call(128, 86, 8, orders=0)
    call(512, 38, 6, up=4)
    call(64, 38, 12, up=4, down=4, clamp=None)
    call(256, 54, 9, fd=_RADIAL12)
    yield from layer_calls
    # The activations of a discriminator before its strided convolutions.
    for c, side in ((64, 256), (512, 8)):
        for orders in (0, 2):
            yield Call("filtered_lrelu", _blurred_activation, ((4, c, side, side), (c,)), torch.channels_last, orders)


def _blurred_activation(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return hk.filtered_lrelu(x, fd=_FIR4_SEPARABLE, b=b, padding=2, clamp=256)


def _activation(x: torch.Tensor, b: torch.Tensor, **options: Any) -> torch.Tensor:
    return hk.filtered_lrelu(x, _FIR12, **{"fd": _FIR12, "b": b, "up": 2, "down": 2, "clamp": 256, **options})


def _resampled() -> Iterator[Call]:
    for layout in _LAYOUTS:
        for c, side in ((512, 32), (128, 256)):
            for k, up, down in ((3, 1, 2), (1, 1, 2), (3, 2, 1)):
                function = partial(hk.conv2d_resample, f=_FIR4, padding=k // 2, up=up, down=down)
                yield Call("conv2d_resample", function, ((4, c, side, side), (c, c, k, k)), layout)


def _styled_layer(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, bias: torch.Tensor, noise: torch.Tensor,
            **options: Any) -> torch.Tensor:  # fmt: skip
    padding = weight.shape[2] // 2
    return hk.modulated_conv2d(x, weight, styles, noise, padding=padding, bias=bias, **options)


def _bare_layer(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, **options: Any) -> torch.Tensor:
    return hk.modulated_conv2d(x, weight, styles, padding=weight.shape[2] // 2, **options)


def _to_rgb(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return hk.modulated_conv2d(x, weight, styles, demodulate=False, bias=bias, clamp=256)


def _parameters(*tensors: torch.Tensor) -> torch.Tensor:
    """Computes those of layers, every other one of which upsamples, from all weights and all styles."""
    count, dtype = len(tensors) // 2, tensors[0].dtype
    # Networks have their parameters in float32.
    weights, styles = ([t.float() for t in part] for part in (tensors[:count], tensors[count:]))
    layers = [(weight, style, dtype, 1 + i % 2) for i, (weight, style) in enumerate(zip(weights, styles, strict=True))]
    return torch.cat([t.flatten() for layer in hk.modulated_conv2d_parameters(layers) for t in layer])


def _modulated() -> Iterator[Call]:
    def call(function: Callable[..., Any], c: int, o: int, k: int, hw: tuple[int, int],
             *further_shapes: tuple[int, ...], **options: Any) -> None:  # fmt: skip
        shapes = ((4, c, *hw), (o, c, k, k), (4, c), *further_shapes)
        # A layer runs many operations: the images of odd sizes are enough.
        first_alone = hw in _ODD_SIZES
        layer = partial(function, **options)
        layer_calls.extend(
            Call("modulated_conv2d", layer, shapes, layout, first_alone=first_alone) for layout in _LAYOUTS
        )

    layer_calls: list[Call] = []
    lrelu: dict[str, Any] = {"act": "lrelu", "clamp": 256}
    up: dict[str, Any] = {"up": 2, "resample_filter": _FIR4_SEPARABLE, "flip_weight": False}
    for c, side in _FEATURE_MAPS[::2]:
        noise = (4, 1, side, side)
        call(_styled_layer, c, c, 3, (side, side), (c,), noise, **lrelu)
        call(_to_rgb, c, 3, 1, (side, side), (3,))
        call(_styled_layer, min(2 * c, 512), c, 3, (side // 2, side // 2), (c,), noise, **lrelu, **up)
    for h, w in _ODD_SIZES:
        call(_styled_layer, 5, 7, 3, (h, w), (7,), (1, 1, h, w), **lrelu)
        call(_styled_layer, 5, 7, 3, (h, w), (7,), (1, 1, 2 * h, 2 * w), **lrelu, **up)
    for options in ({}, up | {"resample_filter": _FIR4}):
        call(_bare_layer, 64, 64, 3, (64, 64), **options)
        call(_styled_layer, 64, 64, 3, (64, 64), (64,), (), act="swish", **options)
        call(_styled_layer, 64, 64, 3, (64, 64), (64,), (), act="linear", **options)
    call(_bare_layer, 64, 64, 3, (64, 64), down=2, resample_filter=_FIR4, **lrelu)
    call(_bare_layer, 64, 64, 3, (64, 64), up=2, resample_filter=_FIR12, **lrelu)
    yield from layer_calls
    # Those of a network for images of 128x128.
    channels = [(512, 512)] * 6 + [(512, 256), (256, 256), (256, 128), (128, 128)]
    shapes = (*((o, c, 3, 3) for c, o in channels), *((4, c) for c, _ in channels))
    yield Call("modulated_conv2d", _parameters, shapes, orders=1, first_alone=False)


def _scales(*tensors: torch.Tensor, targets: Sequence[int]) -> torch.Tensor:
    """Computes the loss from x, w1, b1, w2 and b2 of one scale after another."""
    features, *heads = (tensors[i::5] for i in range(5))
    target_maps = [
        torch.empty(x.shape[0], w2.shape[0], t, t, dtype=x.dtype, device=x.device)
        for x, w2, t in zip(features, heads[2], targets, strict=True)
    ]
    return hk.feature_projection_loss(features, target_maps, list(zip(*heads, strict=True)))


def _feature_loss() -> Iterator[Call]:
    def call(layout: torch.memory_format, n: int, k: int, *scales: tuple[int, int, int, int]) -> Call:
        """`scales`: (channels, side, target channels, target side)."""
        shapes = [shape for c, side, d, _ in scales for shape in ((n, c, side, side), (k, c), (k,), (d, k), (d,))]
        function = partial(_scales, targets=[scale[3] for scale in scales])
        return Call("feature_projection_loss", function, shapes, layout, orders=1, first_alone=False)

    for layout in _LAYOUTS:
        yield call(layout, 16, 4096, (512, 8, 768, 14), (512, 16, 768, 14), (512, 32, 768, 14), (256, 64, 768, 14))
    # A ResNet's targets, and sizes that no power of 2 divides.
    yield call(_LAYOUTS[1], 16, 4096, (512, 8, 2048, 7), (512, 16, 1024, 14), (512, 32, 512, 28), (256, 64, 256, 56))
    yield call(_LAYOUTS[0], 3, 70, (33, 9, 7, 5), (33, 5, 7, 5))
