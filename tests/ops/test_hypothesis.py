# SPDX-License-Identifier: Apache-2.0
"""Shapes, paddings and factors that nobody thought of, against the float64 reference; derandomised."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import hsr_kernels as hk
from benchmarks.parity.inputs import LAYOUTS, draw, evaluate
from tests.cases import Case
from tests.native import BACKENDS, EMULATED_CUDA
from tests.ops.literal import PARAMETERS as ACTIVATIONS

backends = pytest.mark.parametrize("backend", BACKENDS)
with_kernels = pytest.mark.parametrize("backend", [*BACKENDS, EMULATED_CUDA])
sizes = st.integers(1, 9)
factors = st.integers(1, 4)
layouts = st.sampled_from(LAYOUTS)
pads = st.tuples(*[st.integers(-3, 7)] * 4)


def check(case: Case, backend: str, layout: str) -> None:
    """Output, first and second derivatives in a dtype in which any slip of an index is far above rounding."""
    dtype, rounding = (torch.float32, 1e-4) if backend == "cuda" else (torch.float64, 1e-11)
    inputs = draw(case, dtype)
    for order in (0, 1, 2):
        with hk.use_backend("reference"):
            expected = evaluate(case, inputs.in_float64(), order)
        with hk.use_backend(backend):
            actual = evaluate(case, inputs, order, layout)
        for name, t in expected.items():
            assert actual[name].shape == t.shape
            scale = float(t.abs().max()) if t.numel() else 0.0
            tolerance = dict(rtol=0, atol=rounding * max(scale, 1.0), msg=name)
            torch.testing.assert_close(actual[name].double(), t.double(), **tolerance)


@st.composite
def filters(draw_from) -> torch.Tensor | None:
    kind = draw_from(st.sampled_from(("none", "separable", "outer", "full")))
    if kind == "none":
        return None
    generator = torch.Generator().manual_seed(draw_from(st.integers(0, 1000)))
    height, width = draw_from(st.tuples(st.integers(1, 7), st.integers(1, 13)))
    if kind == "separable":
        return torch.randn(width, generator=generator)
    if kind == "outer":
        return torch.outer(torch.randn(height, generator=generator), torch.randn(width, generator=generator))
    return torch.randn(height, width, generator=generator)


def fits(size: tuple[int, int], f: torch.Tensor | None, up: tuple[int, int], padding: tuple[int, ...]) -> bool:
    fh, fw = (1, 1) if f is None else (f.shape[0], f.shape[-1])
    x0, x1, y0, y1 = padding
    return size[0] * up[1] + y0 + y1 >= fh and size[1] * up[0] + x0 + x1 >= fw


@with_kernels
@given(
    n=st.integers(0, 3), c=sizes, size=st.tuples(sizes, st.integers(1, 40)), f=filters(),
    up=st.tuples(factors, factors), down=st.tuples(factors, factors), padding=pads, flip=st.booleans(), layout=layouts,
)  # fmt: skip
def test_upfirdn2d(backend, n, c, size, f, up, down, padding, flip, layout):
    assume(fits(size, f, up, padding))
    options = {"f": f, "up": up, "down": down, "padding": padding, "flip_filter": flip, "gain": 1.25}
    check(Case("upfirdn2d", "drawn", {"x": (n, c, *size)}, options), backend, layout)


@backends
@given(
    n=st.integers(0, 2), c=st.sampled_from((1, 3, 17, 20)), size=st.tuples(sizes, st.integers(1, 40)), fu=filters(),
    fd=filters(), up=factors, down=factors, padding=pads, flip=st.booleans(), clamp=st.sampled_from((None, 0.7)),
    layout=layouts,
)  # fmt: skip
def test_filtered_lrelu(backend, n, c, size, fu, fd, up, down, padding, flip, clamp, layout):
    assume(fits(size, fu, (up, up), padding))
    upsampled = hk.upfirdn2d(torch.empty(0, 1, *size), fu, up, 1, padding).shape[2:]
    assume(fits(upsampled, fd, (1, 1), (0, 0, 0, 0)))
    options = {"fu": fu, "fd": fd, "up": up, "down": down, "padding": padding, "flip_filter": flip, "clamp": clamp}
    check(Case("filtered_lrelu", "drawn", {"x": (n, c, *size), "b": (c,)}, options), backend, layout)


@with_kernels
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=5), data=st.data(), act=st.sampled_from(list(ACTIVATIONS)),
    gain=st.sampled_from((None, 0.5, -2.0)), clamp=st.sampled_from((None, 0.7, 4.0)), layout=layouts,
    bias=st.booleans(),
)  # fmt: skip
def test_bias_act(backend, shape, data, act, gain, clamp, layout, bias):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    shapes = {"x": tuple(shape)} | ({"b": (shape[dim],)} if bias else {})
    options = {"dim": dim, "act": act, "gain": gain, "clamp": clamp}
    check(Case("bias_act", "drawn", shapes, options), backend, layout)


@with_kernels
@given(
    n=st.integers(0, 2), c=st.integers(1, 4), o=st.integers(1, 4), size=st.tuples(sizes, sizes),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)), f=filters(), up=st.integers(1, 3), down=st.integers(1, 3),
    padding=pads, flip_weight=st.booleans(), flip_filter=st.booleans(), layout=layouts,
)  # fmt: skip
def test_conv2d_resample(backend, n, c, o, size, kernel, f, up, down, padding, flip_weight, flip_filter, layout):
    taps = (1, 1) if f is None else (f.shape[0], f.shape[-1])
    for axis, pad in ((0, padding[2] + padding[3]), (1, padding[0] + padding[1])):
        # What is left of the upsampled image after centring, the up-filter and the kernel must hold the down-filter.
        left = size[axis] * up + pad - (kernel[axis] - 1) + (taps[axis] - down if down > 1 else 0)
        assume(left >= (taps[axis] if down > 1 else 1))
    options = {
        "f": f, "up": up, "down": down, "padding": padding, "flip_weight": flip_weight, "flip_filter": flip_filter,
    }  # fmt: skip
    check(Case("conv2d_resample", "drawn", {"x": (n, c, *size), "w": (o, c, *kernel)}, options), backend, layout)


@with_kernels
@given(
    n=st.integers(1, 3), c=st.integers(1, 5), o=st.integers(1, 5), size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    kernel=st.sampled_from((1, 3)), resample=st.sampled_from(({}, {"up": 2}, {"down": 2}, {"up": 3})), f=filters(),
    noise=st.sampled_from(("none", "scalar", "shared", "own")), bias=st.booleans(), demodulate=st.booleans(),
    act=st.sampled_from(("linear", "relu", "lrelu", "swish")), clamp=st.sampled_from((None, 0.9)), layout=layouts,
)  # fmt: skip
def test_modulated_conv2d(backend, n, c, o, size, kernel, resample, f, noise, bias, demodulate, act, clamp, layout):
    options = {
        **resample, "resample_filter": f, "padding": kernel // 2, "demodulate": demodulate, "act": act, "clamp": clamp,
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"x": (n, c, *size), "weight": (o, c, kernel, kernel), "styles": (n, c)}
    out = Case("modulated_conv2d", "drawn", shapes, options).call({k: torch.ones(v) for k, v in shapes.items()})
    if noise != "none":
        shapes["noise"] = () if noise == "scalar" else (1 if noise == "shared" else n, 1, *out.shape[2:])
    if bias:
        shapes["bias"] = (o,)
    # With one input channel demodulation cancels the styles but for its epsilon: nothing is left to compare.
    assume(c > 1 or not demodulate)
    check(Case("modulated_conv2d", "drawn", shapes, options), backend, layout)


@backends
@given(
    n=st.integers(1, 2), hidden=st.integers(1, 20), layout=layouts, gain=st.sampled_from((0.5, 2**0.5)),
    scales=st.lists(st.tuples(*(st.integers(1, limit) for limit in (5, 17, 17, 4, 15))),
                    min_size=1, max_size=2),
)  # fmt: skip
def test_feature_projection_loss(backend, n, hidden, scales, layout, gain):
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (c, h, w, d, t) in enumerate(scales):
        shapes |= {
            f"features.{i}": (n, c, h, w), f"targets.{i}": (n, d, t, t),
            f"w1.{i}": (hidden, c), f"b1.{i}": (hidden,), f"w2.{i}": (d, hidden), f"b2.{i}": (d,),
        }  # fmt: skip
    constants = tuple(name for name in shapes if name.startswith("targets"))
    case = Case("feature_projection_loss", "drawn", shapes, {"hidden_gain": gain}, constants)
    check(case, backend, layout)


@backends
@given(
    x=st.tuples(st.integers(0, 2), st.just(4), sizes, sizes), o=st.integers(1, 3), groups=st.sampled_from((1, 2, 4)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)), stride=st.tuples(factors, factors),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)), dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    transposed=st.booleans(), layout=layouts,
)  # fmt: skip
def test_convolutions(backend, x, o, groups, kernel, stride, padding, dilation, transposed, layout):
    reach = [dilation[i] * (kernel[i] - 1) + 1 for i in (0, 1)]
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    for i in (0, 1):
        size = x[2 + i]
        assume((size - 1) * stride[i] + reach[i] > 2 * padding[i] if transposed else size + 2 * padding[i] >= reach[i])
    weight = (4, o, *kernel) if transposed else (o * groups, 4 // groups, *kernel)
    op = "conv_transpose2d" if transposed else "conv2d"
    check(Case(op, "drawn", {"input": x, "weight": weight}, options), backend, layout)


@backends
@given(
    image=st.tuples(st.integers(1, 2), st.integers(1, 3), sizes, sizes), size=st.tuples(sizes, sizes), layout=layouts
)
def test_grid_sample(backend, image, size, layout):
    check(Case("grid_sample", "drawn", {"input": image, "grid": (image[0], *size, 2)}), backend, layout)
