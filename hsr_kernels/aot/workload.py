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
_MAPS = ((512, 4), (512, 16), (512, 64), (256, 128), (128, 256), (64, 512), (32, 1024))
_IMAGES = (4, 16, 64, 256, 1024)  # sides of RGB images
_ODD = ((33, 19),)  # what no power of 2 divides
_CURVED = ("tanh", "sigmoid", "elu", "selu", "softplus", "swish")
_MULTIPLYING = ("conv2d_resample", "modulated_conv2d", "feature_projection_loss")  # matrices, that is
_FIR4 = hk.setup_filter([1, 3, 3, 1])
_FIR4_SEPARABLE = hk.setup_filter([1, 3, 3, 1], separable=True)
_FIR12 = hk.setup_filter(
    [0.015, 0.044, -0.068, -0.118, 0.491, 1.138, 1.138, 0.491, -0.118, -0.068, 0.044, 0.015]
)  # augmentation's


@dataclass(frozen=True)
class Call:
    """A differentiable call: `function(*tensors)`.

    Attributes:
        op: Name of the operator, as `hsr_kernels.explain` knows it.
        function: Takes the tensors.
        shapes: Shapes of the tensors; the first is what an image is to the operator.
        layout: Of the tensors with four dimensions and more than one pixel.
        orders: Orders of derivatives that are native.
        apart: Take derivatives by the first tensor alone too.
    """

    op: str
    function: Callable[..., torch.Tensor]
    shapes: Sequence[tuple[int, ...]]
    layout: torch.memory_format = torch.contiguous_format
    orders: int = 2
    apart: bool = True

    def run(self, dtype: torch.dtype) -> None:
        """Forward, and derivatives by the first tensor alone (as R1 takes them) and by all."""
        tensors = [self._tensor(shape, dtype) for shape in self.shapes]
        everything = range(len(tensors))
        for wanted in {(0,), tuple(everything)} if self.apart else {tuple(everything)}:
            self._differentiate(tensors, wanted)

    def _tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(
            shape, dtype=dtype, memory_format=self.layout if len(shape) == 4 else torch.contiguous_format
        )

    def _differentiate(self, tensors: list[torch.Tensor], wanted: tuple[int, ...]) -> None:
        leaves = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
        inputs = [leaves[i] for i in wanted]
        twice = self.orders == 2
        y = self.function(*leaves)
        cotangent = torch.empty_like(y).requires_grad_(twice)
        first = torch.autograd.grad(y, inputs, cotangent, create_graph=twice, allow_unused=True)
        curved = [g for g in first if g is not None and g.requires_grad]
        if curved:
            torch.autograd.grad(curved, [*inputs, cotangent], [torch.empty_like(g) for g in curved], allow_unused=True)


def calls(dtypes: Iterable[torch.dtype] = tuple(DTYPES.values())) -> Iterator[Callable[[], None]]:
    """Every call whose operator has a Triton implementation, with and without leave to compute in TF32."""
    for call in _calls():
        if "triton" in implemented(call.op):
            for dtype in dtypes:
                for allowed in (False, True) if dtype == torch.float32 and call.op in _MULTIPLYING else (False,):
                    yield partial(_with_tf32, allowed, partial(call.run, dtype))
                    if call.op == "modulated_conv2d":  # first derivatives with nothing to follow can be one kernel
                        fused = partial(_on_route, "fused", partial(replace(call, orders=1).run, dtype))
                        yield partial(_with_tf32, allowed, fused)


def _with_tf32(allowed: bool, function: Callable[[], None]) -> None:
    with _tf32(allowed):
        function()


def _on_route(route: str, function: Callable[[], None]) -> None:
    with hk.use_route(route):
        function()


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def _calls() -> Iterator[Call]:
    yield from _bias_act()
    yield from _upfirdn2d()
    yield from _resampled()
    yield from _modulated()
    yield from _feature_loss()


def _bias_act() -> Iterator[Call]:
    def call(shape: tuple[int, ...], layout: torch.memory_format, act: str, bias: bool = True) -> Call:
        shapes = (shape, shape[1:2]) if bias else (shape,)
        return Call("bias_act", partial(hk.bias_act, act=act, clamp=256), shapes, layout)

    for layout in _LAYOUTS:
        for c, side in _MAPS:
            yield call((4, c, side, side), layout, "lrelu")
        for side in _IMAGES:
            yield call((4, 3, side, side), layout, "linear")
        for h, w in _ODD:
            yield call((2, 5, h, w), layout, "lrelu")
        for act in ("relu", *_CURVED):
            yield call((4, 64, 256, 256), layout, act)
        yield call((4, 64, 256, 256), layout, "lrelu", bias=False)
        yield call((4, 512, 1024, 1024 + 64), layout, "lrelu")  # more than 2^31 elements
    yield call((8, 512), torch.contiguous_format, "lrelu")
    yield call((8, 512), torch.contiguous_format, "linear")


def _upfirdn2d() -> Iterator[Call]:
    def call(function: Callable[..., Any], f: torch.Tensor | None, shape: tuple[int, ...], **options: Any) -> None:
        found.extend(Call("upfirdn2d", partial(function, f=f, **options), (shape,), layout) for layout in _LAYOUTS)

    found: list[Call] = []
    for function in (hk.upsample2d, hk.downsample2d, hk.filter2d):
        for side in _IMAGES:
            call(function, _FIR4, (4, 3, side, side))
        for c, side in _MAPS[::2]:
            call(function, _FIR4, (4, c, side, side))
        call(function, _FIR4_SEPARABLE, (4, 64, 64, 64))
        call(function, _FIR12, (4, 3, 256, 256))
        for h, w in _ODD:
            call(function, _FIR4, (2, 5, h, w))
    call(hk.upsample2d, _FIR12, (1, 3, 63, 65), up=4)
    call(hk.upfirdn2d, _FIR12, (1, 3, 63, 65), up=(2, 3), down=(3, 2), padding=(3, -1, 2, 4), flip_filter=True)
    call(hk.upfirdn2d, None, (4, 3, 64, 64), up=2, padding=(1, 0))
    call(hk.upsample2d, _FIR4, (2, 512, 1024, 1024 + 64))
    yield from found


def _resampled() -> Iterator[Call]:
    for layout in _LAYOUTS:
        for c, side in ((512, 32), (128, 256)):
            for k, up, down in ((3, 1, 2), (1, 1, 2), (3, 2, 1)):
                function = partial(hk.conv2d_resample, f=_FIR4, padding=k // 2, up=up, down=down)
                yield Call("conv2d_resample", function, ((4, c, side, side), (c, c, k, k)), layout)


def _styled(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, bias: torch.Tensor, noise: torch.Tensor,
            **options: Any) -> torch.Tensor:  # fmt: skip
    padding = weight.shape[2] // 2
    return hk.modulated_conv2d(x, weight, styles, noise, padding=padding, bias=bias, **options)


def _plain(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, **options: Any) -> torch.Tensor:
    return hk.modulated_conv2d(x, weight, styles, padding=weight.shape[2] // 2, **options)


def _to_rgb(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return hk.modulated_conv2d(x, weight, styles, demodulate=False, bias=bias, clamp=256)


def _modulated() -> Iterator[Call]:
    def call(function: Callable[..., Any], c: int, o: int, k: int, hw: tuple[int, int], *more: tuple[int, ...],
             **options: Any) -> None:  # fmt: skip
        shapes = ((4, c, *hw), (o, c, k, k), (4, c), *more)
        apart = hw in _ODD  # many operations each: once is enough
        styled = partial(function, **options)
        found.extend(Call("modulated_conv2d", styled, shapes, layout, apart=apart) for layout in _LAYOUTS)

    found: list[Call] = []
    lrelu: dict[str, Any] = {"act": "lrelu", "clamp": 256}
    up: dict[str, Any] = {"up": 2, "resample_filter": _FIR4, "flip_weight": False}
    for c, side in _MAPS[::2]:
        noise = (4, 1, side, side)
        call(_styled, c, c, 3, (side, side), (c,), noise, **lrelu)
        call(_to_rgb, c, 3, 1, (side, side), (3,))
        call(_styled, min(2 * c, 512), c, 3, (side // 2, side // 2), (c,), noise, **lrelu, **up)
    for h, w in _ODD:
        call(_styled, 5, 7, 3, (h, w), (7,), (1, 1, h, w), **lrelu)
        call(_styled, 5, 7, 3, (h, w), (7,), (1, 1, 2 * h, 2 * w), **lrelu, **up)
    for options in ({}, up):
        call(_plain, 64, 64, 3, (64, 64), **options)
        call(_styled, 64, 64, 3, (64, 64), (64,), (), act="swish", **options)
        call(_styled, 64, 64, 3, (64, 64), (64,), (), act="linear", **options)
    call(_plain, 64, 64, 3, (64, 64), down=2, resample_filter=_FIR4, **lrelu)
    call(_plain, 64, 64, 3, (64, 64), up=2, resample_filter=_FIR12, **lrelu)
    yield from found


def _scales(*tensors: torch.Tensor, targets: Sequence[int]) -> torch.Tensor:
    """x, w1, b1, w2, b2 of one scale after another."""
    features, *heads = (tensors[i::5] for i in range(5))
    goals = [
        torch.empty(x.shape[0], w2.shape[0], t, t, dtype=x.dtype, device=x.device)
        for x, w2, t in zip(features, heads[2], targets, strict=True)
    ]
    return hk.feature_projection_loss(features, goals, list(zip(*heads, strict=True)))


def _feature_loss() -> Iterator[Call]:
    def call(layout: torch.memory_format, n: int, k: int, *scales: tuple[int, int, int, int]) -> Call:
        """`scales`: (channels, side, target channels, target side)."""
        shapes = [shape for c, side, d, _ in scales for shape in ((n, c, side, side), (k, c), (k,), (d, k), (d,))]
        function = partial(_scales, targets=[scale[3] for scale in scales])
        return Call("feature_projection_loss", function, shapes, layout, orders=1, apart=False)

    for layout in _LAYOUTS:
        yield call(layout, 16, 4096, (512, 8, 768, 14), (512, 16, 768, 14), (512, 32, 768, 14), (256, 64, 768, 14))
    # A ResNet's targets, and what no power of 2 divides.
    yield call(_LAYOUTS[1], 16, 4096, (512, 8, 2048, 7), (512, 16, 1024, 14), (512, 32, 512, 28), (256, 64, 256, 56))
    yield call(_LAYOUTS[0], 3, 70, (33, 9, 7, 5), (33, 5, 7, 5))
