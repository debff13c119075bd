# SPDX-License-Identifier: Apache-2.0
"""The table of operator cases that the tests hold every backend against; `benchmarks/parity` draws their tensors."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from benchmarks.parity.call import Call as Case
from hsr_kernels import setup_filter

FIR4 = setup_filter([1, 3, 3, 1])
FIR4_SEPARABLE = setup_filter([1, 3, 3, 1], separable=True)
FIR12 = setup_filter([0.015, 0.044, -0.068, -0.118, 0.491, 1.138, 1.138, 0.491, -0.118, -0.068, 0.044, 0.015])
FIR3X5 = setup_filter([[1.0, 2.0, 3.0, -1.0, 0.5], [4.0, -2.0, 6.0, 1.0, 1.0], [0.3, 2.0, 1.0, -1.0, 2.0]])
ROW6 = setup_filter([[1.0, 2, -1, 3, 2, 1]])
ODD5_SEPARABLE = setup_filter([1.0, -2, 3, 2, 0.5], separable=True)
ODD7_SEPARABLE = setup_filter([1.0, -2, 3, 4, 2, -1, 0.5], separable=True)
# As StyleGAN3-R downsamples: a function of the distance from the centre, which isn't separable.
_AXIS = torch.arange(12) - 5.5
RADIAL12 = setup_filter(torch.sinc((_AXIS.square() + _AXIS.square()[:, None]).sqrt() / 2))


def _bias_act() -> list[Case]:
    def case(name: str, x: tuple[int, ...], b: int | None = None, degenerate: bool = False, **options: Any) -> Case:
        shapes = {"x": x} if b is None else {"x": x, "b": (b,)}
        return Case("bias_act", name, shapes, options, degenerate=degenerate)

    acts = ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish")
    return [
        *(case(f"{act}-defaults", (2, 5, 7, 9), 5, act=act) for act in acts),
        *(case(f"{act}-clamped", (2, 5, 7, 9), 5, act=act, alpha=0.3, gain=1.7, clamp=0.9) for act in acts),
        case("styled-64", (2, 16, 16, 16), 16, act="lrelu", gain=2**0.5, clamp=256),
        case("styled-clamped", (3, 12, 8, 8), 12, act="lrelu", clamp=1.0),
        case("mapping", (4, 33), 33, act="lrelu"),
        case("to-rgb", (2, 3, 8, 8), 3, clamp=0.7),
        case("no-bias", (2, 3, 5, 5), act="lrelu", gain=0.5),
        case("identity", (2, 3, 5, 5)),
        case("negative-clamp-is-none", (2, 3, 5, 5), 3, act="lrelu", clamp=-1),
        case("vector", (37,), 37, dim=0, act="lrelu"),
        case("last-dim", (2, 3, 19), 19, dim=-1, act="swish"),
        case("first-dim", (3, 4, 5), 3, dim=0, act="tanh"),
        case("volume", (2, 3, 4, 3, 2), 3, act="lrelu", clamp=1.2),
        case("size-1", (1, 1, 1, 1), 1, act="softplus"),
        case("one-channel", (2, 1, 9, 11), 1, act="lrelu"),
        case("empty-batch", (0, 3, 4, 4), 3, act="lrelu"),
        case("negative-gain", (2, 3, 5, 7), 3, act="lrelu", gain=-0.7, clamp=0.8),
        case("zero-gain", (2, 3, 5, 7), 3, act="swish", gain=0.0, degenerate=True),
        case("zero-alpha", (2, 3, 5, 7), 3, act="lrelu", alpha=0.0),
        case("negative-alpha", (2, 3, 5, 7), 3, act="lrelu", alpha=-0.4, clamp=0.9),
        case("zero-clamp", (2, 3, 5, 7), 3, act="lrelu", clamp=0.0, degenerate=True),
    ]


def _fir() -> list[Case]:
    def case(
        name: str, x: tuple[int, ...], f: torch.Tensor | None, op: str = "upfirdn2d", degenerate: bool = False,
        **options: Any,
    ) -> Case:  # fmt: skip
        return Case(op, name, {"x": x}, {"f": f, **options}, degenerate=degenerate)

    return [
        case("skip-to-rgb", (2, 3, 16, 16), FIR4, "upsample2d"),
        case("separable", (2, 4, 9, 7), FIR4_SEPARABLE, "upsample2d"),
        case("factors-2-3", (1, 2, 5, 4), ODD7_SEPARABLE, "upsample2d", up=(2, 3), padding=(1, 0), gain=0.5),
        case("blur-and-halve", (2, 8, 16, 16), FIR4, "downsample2d"),
        case("odd-12-taps", (2, 3, 17, 13), FIR12, "downsample2d", down=3, flip_filter=True),
        case("blur", (2, 8, 9, 11), FIR4, "filter2d"),
        case("12-taps", (1, 3, 20, 13), FIR12, "filter2d", padding=(1, -1), gain=2),
        case("identity", (2, 3, 5, 7), None),
        case("no-filter", (2, 3, 5, 7), None, up=(2, 3), down=(3, 2), padding=(3, 1, -2, 4), gain=1.5),
        case("one-tap", (2, 3, 5, 7), setup_filter(None), up=2, padding=(1, 0)),
        case("up-2", (2, 5, 8, 8), FIR4, up=2, padding=(2, 1, 2, 1), gain=4),
        case("up-2-wide", (1, 2, 5, 67), FIR4, up=2, padding=(2, 1, 2, 1), gain=4),
        case("up-2-channels", (1, 33, 3, 4), FIR4_SEPARABLE, up=2, padding=(2, 1, 2, 1)),
        case("up-2-12-taps", (1, 3, 9, 10), FIR12, up=2, padding=(6, 5, 6, 5), gain=4),
        case("up-4-down-2", (1, 2, 6, 7), FIR12, up=4, down=2, padding=(5, 4, 3, 6)),
        case("up-3-down-2", (2, 3, 6, 5), FIR3X5, up=(3, 2), down=(2, 3), padding=(4, 2, 1, 3), flip_filter=True),
        case("down-2", (2, 5, 8, 8), FIR4, down=2, padding=(1, 1, 1, 1)),
        case("down-2-wide", (1, 2, 6, 69), FIR4, down=2, padding=(1, 1, 1, 1)),
        case("down-5-of-4", (1, 2, 4, 4), FIR4, down=5, padding=1),
        case("anisotropic-up", (1, 3, 5, 6), ROW6, up=(2, 1), padding=(3, 2, 0, 0)),
        case("anisotropic-down", (1, 3, 7, 6), ROW6.t().contiguous(), down=(1, 2), padding=(0, 0, 3, 2)),
        case("rectangular", (2, 3, 7, 6), FIR3X5, padding=(2, 1, 0, 3)),
        case("rectangular-flipped", (2, 3, 7, 6), FIR3X5, padding=(2, 1, 0, 3), flip_filter=True, gain=-1.5),
        case("outer-product", (2, 3, 7, 6), setup_filter([1, 2, 4, 2]), padding=2, gain=1.1),
        case("crop", (2, 3, 11, 12), FIR4, padding=(-2, -1, -3, 1)),
        case("crop-up-odd", (1, 3, 6, 7), FIR4, up=2, padding=(-1, -3, 2, -1)),
        case("crop-down", (1, 3, 12, 13), FIR4_SEPARABLE, down=2, padding=(-1, -2, -3, 0)),
        case("crop-no-filter", (1, 2, 6, 7), None, padding=(-2, 1, 0, -3)),
        case("crop-beyond-image", (1, 2, 3, 2), FIR4, up=2, padding=(9, -5, -7, 8), degenerate=True),
        case("padding-beyond-filter", (1, 2, 3, 3), FIR4, padding=7),
        case("filter-beyond-image", (1, 2, 3, 2), FIR12, padding=(6, 5, 5, 6)),
        case("size-1", (1, 1, 1, 1), FIR4, up=2, padding=(2, 1, 2, 1)),
        case("size-1-down", (3, 2, 1, 1), FIR4, down=2, padding=2),
        case("one-output-pixel", (1, 2, 4, 4), FIR4),
        case("empty-batch", (0, 3, 4, 4), FIR4, up=2, padding=1),
    ]  # fmt: skip


def _filtered_lrelu() -> list[Case]:
    def case(
        name: str, x: tuple[int, ...], fu: torch.Tensor | None = FIR12, fd: torch.Tensor | None = FIR12,
        bias: bool = True, degenerate: bool = False, **options: Any,
    ) -> Case:  # fmt: skip
        shapes = {"x": x} | ({"b": (x[1],)} if bias else {})
        return Case("filtered_lrelu", name, shapes, {"fu": fu, "fd": fd, **options}, degenerate=degenerate)

    doubled: dict[str, Any] = {"up": 2, "down": 2, "padding": (9, 8, 9, 8)}
    return [
        case("stylegan3", (2, 3, 14, 14), clamp=1.5, **doubled),
        case("up-4-down-2", (1, 2, 8, 9), up=4, down=2, padding=(8, 9, 10, 7), gain=1.0),
        case("up-2-down-4", (1, 2, 12, 15), up=2, down=4, padding=(7, 8, 9, 8), clamp=0.9),
        case("radial", (1, 3, 13, 12), fd=RADIAL12, up=2, down=2, padding=(11, 10, 12, 9), slope=0.1),
        case("to-rgb", (2, 3, 6, 7), None, None, gain=1.0, slope=1.0, clamp=1.0),
        case("rectangular", (2, 3, 6, 5), FIR3X5, FIR4, up=3, down=2, padding=(4, 2, 1, 3), flip_filter=True),
        case("rectangular-down", (1, 2, 9, 8), ODD7_SEPARABLE, FIR3X5, up=2, down=3, padding=5, flip_filter=True),
        case("wide", (1, 2, 5, 75), FIR4_SEPARABLE, FIR4_SEPARABLE, up=2, down=2, padding=(3, 2, 3, 2), clamp=1.2),
        case("many-channels", (2, 35, 5, 4), FIR4, FIR4_SEPARABLE, up=2, down=2, padding=(3, 2, 3, 2), clamp=1.0),
        case("no-bias-up", (2, 3, 5, 6), FIR4, None, bias=False, up=2, padding=(2, 1, 2, 1)),
        # A discriminator's, with bytes of the mask that end early; and more columns than a tile of channels_last has.
        case("blur", (2, 6, 7, 9), None, FIR4_SEPARABLE, padding=2, clamp=1.2),
        case("blur-tiles", (1, 35, 5, 18), None, ODD5_SEPARABLE, padding=(3, 1, -1, 4), flip_filter=True, clamp=1.0),
        case("no-filter-down", (2, 3, 8, 7), None, None, up=1, down=3, padding=(1, 2, -1, 0)),
        case("crop", (1, 2, 12, 11), FIR4, FIR4_SEPARABLE, up=2, down=2, padding=(-3, 5, -6, 2), clamp=1.0),
        case("crop-beyond-image", (1, 2, 3, 2), FIR4, None, up=2, padding=(9, -5, -7, 8), bias=False,
             degenerate=True),
        case("down-5-of-4", (1, 2, 7, 9), FIR4, FIR4, up=2, down=5, padding=4),
        case("negative-numbers", (2, 3, 7, 6), gain=-0.7, slope=-0.4, clamp=0.6, **doubled),
        case("zero-gain", (1, 2, 7, 6), gain=0.0, degenerate=True, **doubled),
        case("zero-clamp", (1, 2, 7, 6), clamp=0.0, degenerate=True, **doubled),
        case("size-1", (1, 1, 1, 1), FIR4, FIR4, up=2, down=2, padding=(4, 3, 4, 3)),
        case("empty-batch", (0, 3, 6, 6), **doubled),
    ]  # fmt: skip


def _convolutions() -> list[Case]:
    def conv(
        name: str,
        x: tuple[int, ...],
        w: tuple[int, ...],
        bias: int | None = None,
        op: str = "conv2d",
        **options: Any,
    ) -> Case:
        shapes = {"input": x, "weight": w} | ({} if bias is None else {"bias": (bias,)})
        return Case(op, name, shapes, options)

    def resample(
        name: str, x: tuple[int, ...], w: tuple[int, ...], f: torch.Tensor | None = FIR4, **options: Any
    ) -> Case:
        return Case("conv2d_resample", name, {"x": x, "w": w}, {"f": f, **options})

    transposed = "conv_transpose2d"
    return [
        conv("3x3", (2, 8, 8, 8), (6, 8, 3, 3), 6, padding=1),
        conv("1x1", (2, 5, 6, 7), (3, 5, 1, 1)),
        conv("strided", (2, 3, 9, 8), (4, 3, 3, 3), stride=2, padding=(1, 0)),
        conv("dilated-grouped", (2, 4, 9, 10), (6, 2, 3, 2), 6,
             stride=(1, 2), padding=(2, 1), dilation=(2, 1), groups=2),
        conv("size-1", (1, 1, 1, 1), (1, 1, 1, 1), 1),
        conv("empty-batch", (0, 3, 5, 5), (4, 3, 3, 3), 4),
        conv("3x3", (2, 8, 6, 6), (8, 5, 3, 3), 5, transposed, stride=2),
        conv("grouped", (2, 4, 5, 4), (4, 3, 3, 2), None, transposed,
             stride=(2, 1), padding=(1, 0), output_padding=(1, 0), groups=2),
        conv("dilated", (1, 2, 4, 5), (2, 3, 3, 3), 3, transposed, dilation=(1, 2), padding=1),
        resample("plain", (2, 6, 8, 8), (5, 6, 3, 3), padding=1),
        resample("up-2", (2, 6, 5, 7), (5, 6, 3, 3), up=2, padding=1),
        resample("up-2-no-filter", (1, 3, 5, 4), (4, 3, 3, 3), None, up=2, padding=1, flip_weight=False),
        resample("up-2-1x1", (2, 6, 4, 5), (3, 6, 1, 1), up=2),
        resample("up-3-5x5-12-taps", (1, 2, 4, 5), (3, 2, 5, 5), FIR12, up=3, padding=(2, 1, 3, 2)),
        resample("up-2-2x2-cropped", (1, 3, 6, 7), (2, 3, 2, 2), up=2, padding=(-1, 2, 1, -3)),
        resample("down-2", (2, 6, 8, 10), (5, 6, 3, 3), down=2, padding=1),
        resample("down-2-odd", (2, 3, 9, 7), (4, 3, 3, 3), down=2, padding=1, flip_filter=True),
        resample("down-2-1x1-skip", (2, 6, 8, 8), (5, 6, 1, 1), down=2),
        resample("down-2-no-filter", (1, 3, 9, 8), (4, 3, 3, 3), None, down=2, padding=(1, 0)),
        resample("up-2-down-2", (1, 3, 6, 5), (2, 3, 3, 3), FIR3X5, up=2, down=2, padding=1),
        resample("grouped-up-2", (2, 4, 5, 5), (6, 2, 3, 3), up=2, padding=1, groups=2, flip_weight=False),
        resample("grouped-down-2", (2, 4, 6, 6), (6, 2, 3, 3), down=2, padding=1, groups=2),
        resample("asymmetric-cropped", (1, 3, 9, 8), (4, 3, 3, 3), padding=(2, -1, 0, 1), flip_weight=False),
        resample("size-1-up-2", (1, 2, 1, 1), (3, 2, 3, 3), up=2, padding=1),
        resample("empty-batch", (0, 3, 6, 6), (4, 3, 3, 3), up=2, padding=1),
    ]  # fmt: skip


def _modulated() -> list[Case]:
    def case(
        name: str, n: int, c: int, size: tuple[int, int], o: int, kernel: int = 3,
        noise: tuple[int, ...] | None = None, bias: bool = True, **options: Any,
    ) -> Case:  # fmt: skip
        shapes: dict[str, tuple[int, ...]] = {
            "x": (n, c, *size),
            "weight": (o, c, kernel, kernel),
            "styles": (n, c),
        }
        if noise is not None:
            shapes["noise"] = noise
        if bias:
            shapes["bias"] = (o,)
        return Case("modulated_conv2d", name, shapes, {"padding": kernel // 2, **options})

    lrelu: dict[str, Any] = {"act": "lrelu", "clamp": 1.5}
    up: dict[str, Any] = {"up": 2, "resample_filter": FIR4}
    down: dict[str, Any] = {"down": 2, "resample_filter": FIR4}
    return [
        case("styled", 2, 8, (8, 8), 8, noise=(2, 1, 8, 8), **lrelu),
        case("styled-up", 2, 8, (4, 4), 5, noise=(2, 1, 8, 8), flip_weight=False, **lrelu, **up),
        case("styled-down", 2, 6, (8, 8), 5, noise=(2, 1, 4, 4), **lrelu, **down),
        case("to-rgb", 2, 8, (8, 8), 3, 1, demodulate=False, clamp=1.5),
        # Several tiles of columns and of channels, whose sums are added up.
        case(
            "styled-up-separable",
            2,
            3,
            (4, 9),
            35,
            noise=(2, 1, 8, 18),
            flip_weight=False,
            **lrelu,
            up=2,
            resample_filter=FIR4_SEPARABLE,
        ),
        case("to-rgb-up", 2, 8, (5, 4), 3, 1, demodulate=False, clamp=1.5, **up),
        case("1x1-down", 2, 5, (6, 8), 4, 1, act="swish", **down),
        case("1x1", 3, 8, (9, 7), 6, 1, noise=(3, 1, 9, 7), **lrelu),
        case("1x1-one-sample", 1, 8, (9, 7), 20, 1, act="lrelu"),
        case("several-tiles", 2, 36, (12, 13), 132, noise=(2, 1, 12, 13), **lrelu),
        case("uneven-padding", 2, 5, (6, 7), 4, padding=(2, 0), act="lrelu"),
        case("plain", 2, 5, (7, 9), 7, bias=False),
        case("constant-noise", 3, 5, (7, 6), 4, noise=(1, 1, 7, 6), act="lrelu", alpha=0.1, gain=0.8),
        case("scalar-noise", 2, 5, (6, 6), 4, noise=(), act="lrelu", gain=1.3),
        case("scalar-noise-up", 2, 3, (5, 3), 4, noise=(), bias=False, act="tanh", **up),
        case("constant-noise-up", 2, 3, (3, 5), 4, noise=(1, 1, 6, 10), **lrelu, **up),
        case(
            "not-demodulated",
            2,
            5,
            (6, 5),
            4,
            demodulate=False,
            flip_weight=False,
            noise=(2, 1, 6, 5),
            **lrelu,
        ),
        case("not-demodulated-up", 2, 5, (3, 5), 4, demodulate=False, act="sigmoid", clamp=0.7, **up),
        case("up-no-filter", 1, 3, (4, 5), 4, up=2, **lrelu),
        case("up-3-12-taps", 1, 3, (4, 5), 2, up=3, resample_filter=FIR12, act="selu"),
        case("up-2-down-3", 2, 5, (7, 8), 4, up=2, down=3, resample_filter=FIR4, act="elu", clamp=1.2),
        case("many-channels", 1, 40, (4, 4), 33, noise=(1, 1, 4, 4), act="softplus", clamp=2.0),
        case("linear-clamp", 2, 4, (5, 5), 6, noise=(2, 1, 5, 5), clamp=0.8),
        case("relu-no-bias", 2, 4, (5, 5), 6, bias=False, act="relu"),
        case("size-1", 1, 1, (1, 1), 1, 1, noise=(1, 1, 1, 1), demodulate=False, act="swish"),
        case("size-1-3x3", 2, 3, (1, 1), 2, noise=(1, 1, 1, 1), **lrelu),
        case("size-1-up", 2, 3, (1, 1), 2, act="tanh", **up),
        case("empty-batch", 0, 4, (4, 4), 3, noise=(1, 1, 4, 4), **lrelu),
        case("empty-batch-up", 0, 4, (4, 4), 3, **lrelu, **up),
    ]


def _demodulated() -> list[Case]:
    """Modulated layers whose demodulation was computed before."""
    lrelu: dict[str, Any] = {"act": "lrelu", "clamp": 1.5, "padding": 1}
    layer = {"x": (2, 8, 8, 8), "weight": (5, 8, 3, 3), "styles": (2, 8), "demodulate": (2, 5)}
    up = {"x": (3, 6, 4, 5), "weight": (4, 6, 3, 3), "styles": (3, 6), "demodulate": (3, 4), "bias": (4,)}
    return [
        Case("modulated_conv2d", "demodulated", layer | {"noise": (2, 1, 8, 8)}, lrelu),
        Case(
            "modulated_conv2d", "demodulated-up", up, lrelu | {"up": 2, "resample_filter": FIR4, "flip_weight": False}
        ),
    ]


def _sampling() -> list[Case]:
    def case(name: str, image: tuple[int, ...], size: tuple[int, int]) -> Case:
        return Case("grid_sample", name, {"input": image, "grid": (image[0], *size, 2)})

    return [
        case("square", (2, 3, 8, 8), (8, 8)),
        case("odd", (2, 2, 5, 9), (7, 4)),
        case("size-1", (1, 1, 1, 1), (1, 1)),
        case("empty-batch", (0, 3, 4, 4), (5, 5)),
    ]


def _feature_loss() -> list[Case]:
    def case(name: str, n: int, hidden: int, *scales: tuple[int, int, int, int, int], **options: Any) -> Case:
        """`scales`: (channels, height, width, target channels, target size)."""
        shapes: dict[str, tuple[int, ...]] = {}
        for i, (c, h, w, d, t) in enumerate(scales):
            shapes |= {
                f"features.{i}": (n, c, h, w), f"targets.{i}": (n, d, t, t),
                f"w1.{i}": (hidden, c), f"b1.{i}": (hidden,), f"w2.{i}": (d, hidden), f"b2.{i}": (d,),
            }  # fmt: skip
        constants = tuple(name for name in shapes if name.startswith("targets"))
        return Case("feature_projection_loss", name, shapes, options, constants)

    return [
        case("grow-equal-shrink", 2, 24, (12, 4, 4, 10, 7), (8, 7, 7, 10, 7), (6, 16, 16, 10, 7)),
        case("vit-16-to-14", 1, 16, (6, 16, 16, 8, 14)),
        case("resnet-shrink-4", 2, 17, (5, 12, 12, 7, 3), hidden_gain=1.0),
        case("grow-uneven", 2, 13, (3, 5, 5, 4, 7)),
        case("rectangular", 3, 11, (4, 9, 5, 3, 4)),
        case("grow-and-shrink", 2, 9, (4, 3, 10, 5, 6), hidden_gain=0.7),
        case("to-one-pixel", 2, 7, (3, 6, 6, 5, 1)),
        case("size-1", 1, 5, (1, 1, 1, 1, 1)),
        case("from-one-pixel", 2, 6, (5, 1, 1, 4, 3)),
        case("no-multiples", 3, 70, (33, 9, 7, 5, 4), (9, 5, 6, 4, 7)),
        case("windows-wider-than-tiles", 2, 5, (3, 5, 150, 4, 2)),
        case("rows-in-sides", 1, 5, (3, 4, 100, 4, 3)),
    ]


def _large() -> list[Case]:
    """Cases larger than the blocks, tiles and chunks that native kernels work in, and no multiple of any."""
    lrelu = {"act": "lrelu", "clamp": 1.5}
    up = {"up": 2, "resample_filter": FIR4}
    layer = {"x": (2, 70, 61, 67), "styles": (2, 70)}
    same = layer | {"weight": (66, 70, 1, 1), "noise": (2, 1, 61, 67), "bias": (66,)}
    doubled = layer | {"weight": (20, 70, 1, 1), "noise": (1, 1, 122, 134), "bias": (20,)}
    loss = {
        "features.0": (1, 3, 64, 64), "targets.0": (1, 2, 14, 14),
        "w1.0": (272, 3), "b1.0": (272,), "w2.0": (2, 272), "b2.0": (2,),
    }  # fmt: skip
    return [
        Case("bias_act", "large-rows", {"x": (2, 3, 151, 153), "b": (3,)}, lrelu),
        Case("bias_act", "large-matrix", {"x": (700, 130), "b": (130,)}, {"act": "swish"}),
        Case("bias_act", "large-batch", {"x": (300, 40, 3, 3), "b": (40,)}, {"act": "tanh"}),
        Case("upfirdn2d", "large-up", {"x": (1, 3, 131, 150)}, {"f": FIR4, "up": 2, "padding": (2, 1, 2, 1)}),
        Case("upfirdn2d", "large-down", {"x": (1, 70, 40, 43)}, {"f": FIR12, "down": 2, "padding": 5}),
        Case("upfirdn2d", "large-filter", {"x": (1, 5, 67, 131)}, {"f": FIR3X5, "padding": 2}),
        Case("filtered_lrelu", "large", {"x": (1, 1, 270, 266), "b": (1,)},
             {"fu": FIR4, "fd": FIR4_SEPARABLE, "up": 2, "down": 2, "padding": (3, 2, 3, 2)}),
        Case("modulated_conv2d", "large", same, lrelu),
        Case("modulated_conv2d", "large-up", doubled, lrelu | up),
        Case("feature_projection_loss", "large", loss, {}, ("targets.0",)),
    ]  # fmt: skip


CASES: tuple[Case, ...] = (
    *_bias_act(), *_fir(), *_filtered_lrelu(), *_convolutions(), *_modulated(), *_sampling(), *_feature_loss(),
    *_demodulated(),
)  # fmt: skip
LARGE_CASES = tuple(_large())
BY_NAME: Mapping[str, Case] = MappingProxyType({str(case): case for case in CASES})
