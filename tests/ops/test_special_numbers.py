# SPDX-License-Identifier: Apache-2.0
"""Infinite values and NaN, how numbers are rounded, and sums that cancel: the same on every backend."""

import pytest
import torch

import hsr_kernels as hk
from tests.native import CUDA_DEVICES, TRITON_DEVICES, requires_native

ACTS = ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish")
_VALUES = (torch.nan, torch.inf, -torch.inf, -2.0, 0.0, 3.0)
_BACKENDS = [
    pytest.param("cpu", "cpu", marks=requires_native),
    *(pytest.param("triton", device, marks=mark) for device, mark in TRITON_DEVICES.items()),
    *(pytest.param("cuda", device, marks=mark) for device, mark in CUDA_DEVICES.items()),
]


@pytest.mark.parametrize("clamp", (None, 2.5))
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("backend, device", _BACKENDS)
def test_bias_act(backend, device, act, clamp):
    x = torch.tensor(_VALUES * 8).reshape(2, 3, 4, 2)
    for images in (x, x.to(memory_format=torch.channels_last)):
        with hk.use_backend("reference"):
            expected = hk.bias_act(images, torch.ones(3), act=act, clamp=clamp)
        with hk.use_backend(backend):
            got = hk.bias_act(images.to(device), torch.ones(3, device=device), act=act, clamp=clamp).cpu()
        torch.testing.assert_close(got, expected, equal_nan=True, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clamp", (None, 2.5))
@pytest.mark.parametrize("backend, device", _BACKENDS)
def test_filtered_lrelu(backend, device, clamp):
    """NaN stays NaN, and where a clamp cuts an infinite value off, the gradient is zero."""
    x, cotangent = torch.tensor(_VALUES * 8).reshape(2, 3, 4, 2), torch.arange(48.0).reshape(2, 3, 4, 2)
    results = []
    for name, target in (("reference", "cpu"), (backend, device)):
        leaf = x.to(target, copy=True).requires_grad_()
        with hk.use_backend(name):
            y = hk.filtered_lrelu(leaf, b=torch.ones(3, device=target), clamp=clamp)
            (dx,) = torch.autograd.grad(y, leaf, cotangent.to(target))
        # Anything may be the gradient of what isn't a number, or isn't finite without a clamp.
        has_gradient = x.isfinite() if clamp is None else ~x.isnan()
        results.append((y.detach().cpu(), torch.where(has_gradient, dx.cpu(), 0)))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, equal_nan=True, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("up", (1, 2))
@pytest.mark.parametrize("act", ("linear", "relu", "lrelu"))
@pytest.mark.parametrize("backend, device", _BACKENDS)
def test_epilogue_of_a_layer(backend, device, act, up):
    # One channel and one pixel of each: a sum of infinities would be NaN before the epilogue sees it.
    x, f = torch.tensor(_VALUES).reshape(6, 1, 1, 1), torch.ones(1, 1)
    arguments = (x, torch.ones(1, 1, 1, 1), torch.ones(6, 1))

    def layer(*tensors: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return hk.modulated_conv2d(*tensors, up=up, resample_filter=f, demodulate=False, act=act, clamp=2.5)

    with hk.use_backend("reference"):
        expected = layer(*arguments, f=f)
    with hk.use_backend(backend):
        got = layer(*(t.to(device) for t in arguments), f=f.to(device)).cpu()
    torch.testing.assert_close(got, expected, equal_nan=True, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
@pytest.mark.parametrize("backend, device", _BACKENDS)
def test_outputs_of_16_bits_are_the_nearest_numbers(backend, device, dtype):
    """Of halves between two numbers the even one, which the tolerance of other tests can't tell from its neighbour."""
    unit = torch.finfo(dtype).eps
    steps = torch.arange(-32, 32, dtype=torch.float32).reshape(1, 1, 8, 8)
    # The sums lie at every quarter between the numbers around 1 and -1, and are exact in float32.
    for base in (1.0, -1.0, 2.0):
        x, b = torch.full((1, 1, 8, 8), base) + steps * unit, torch.tensor([0.25, 0.5, 0.75]) * unit
        images = x.expand(1, 3, 8, 8).to(dtype)
        expected = (images.float() + b[:, None, None]).to(dtype)
        with hk.use_backend(backend):
            got = hk.bias_act(images.to(device), b.to(device, dtype), act="linear").cpu()
        assert torch.equal(got, expected)


@pytest.mark.parametrize("value", (torch.nan, torch.inf), ids=str)
@pytest.mark.parametrize("part", ("feature", "first weight", "first bias"))
@pytest.mark.parametrize("backend, device", _BACKENDS[: 1 + len(TRITON_DEVICES)])
def test_feature_projection_loss(backend, device, part, value):
    """No ReLU hides a NaN, and no loss of infinite values is a number, though NaN may stand for infinity."""
    # One hidden channel, so that no sum of infinite values is NaN before the ReLU sees it.
    x, w1, b1 = torch.full((1, 1, 2, 2), 0.5), torch.ones(1, 1), torch.ones(1)
    {"feature": x, "first weight": w1, "first bias": b1}[part].view(-1)[0] = value
    tensors = [t.to(device) for t in (x, torch.zeros(1, 1, 1, 1), w1, b1, torch.ones(1, 1), torch.ones(1))]
    with hk.use_backend(backend):
        loss = hk.feature_projection_loss([tensors[0]], [tensors[1]], [tuple(tensors[2:])])
    assert loss.isnan().all() if value != value else not loss.isfinite().any()


@pytest.mark.parametrize("slope", (0.2, 0.0), ids=("lrelu", "relu"))
@pytest.mark.parametrize("backend, device", _BACKENDS)
def test_second_derivatives_of_offsets_vanish(backend, device, slope):
    """A layer's styles have gradients that no bias and no noise changes, though they are recovered from the output."""
    torch.manual_seed(0)
    shapes = {"x": (2, 8, 4, 4), "weight": (5, 8, 3, 3), "styles": (2, 8), "bias": (5,), "noise": (2, 1, 8, 8)}
    tensors = {name: torch.randn(shape).to(device).requires_grad_() for name, shape in shapes.items()}
    x, weight, styles, bias, noise = tensors.values()
    options = {"padding": 1, "up": 2, "resample_filter": torch.ones(4, 4, device=device) / 16}
    with hk.use_backend(backend):
        y = hk.modulated_conv2d(
            x, weight, styles, noise=noise, bias=bias, act="lrelu", alpha=slope, gain=1.3, clamp=2.0, **options
        )
        cotangents = [torch.randn_like(t) for t in (y, styles, weight)]
        first = torch.autograd.grad(y, (styles, weight), cotangents[0], create_graph=True)
        second = torch.autograd.grad(first, (bias, noise), cotangents[1:])
    assert [float(t.abs().max()) for t in second] == [0.0, 0.0]
