# SPDX-License-Identifier: Apache-2.0
"""no_weight_gradients, which leaves out work and changes nothing else; and transposed convolutions by phases."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import hsr_kernels as hk
from hsr_kernels.conv2d import autograd, cpu_impl
from tests.cases import FIR4
from tests.native import BACKENDS, requires_native

backends = pytest.mark.parametrize("backend", BACKENDS)


def flops(call: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products inside `call`, whatever they are called."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64).requires_grad_()


# (function of x and w, shape of x, shape of w)
LAYERS = {
    "conv2d": (lambda x, w: hk.conv2d(x, w, padding=1), (2, 3, 8, 6), (4, 3, 3, 3)),
    "conv2d strided": (lambda x, w: hk.conv2d(x, w, stride=2), (2, 4, 9, 9), (4, 4, 3, 3)),
    "conv_transpose2d": (lambda x, w: hk.conv_transpose2d(x, w, stride=2), (2, 3, 5, 4), (3, 4, 3, 3)),
    "conv2d_resample up": (
        lambda x, w: hk.conv2d_resample(x, w, FIR4, up=2, padding=1), (2, 3, 5, 4), (4, 3, 3, 3),
    ),
    "conv2d_resample down": (
        lambda x, w: hk.conv2d_resample(x, w, FIR4, down=2, padding=1), (2, 3, 8, 8), (4, 3, 3, 3),
    ),
    "modulated_conv2d": (
        lambda x, w: hk.modulated_conv2d(x, w, x.mean([2, 3]), padding=1, demodulate=False), (2, 3, 8, 6), (4, 3, 3, 3),
    ),
}  # fmt: skip
layers = pytest.mark.parametrize("layer, x_shape, w_shape", LAYERS.values(), ids=LAYERS.keys())


@requires_native
@layers
def test_weight_gradient_is_not_computed(layer, x_shape, w_shape):
    x, w = normal(*x_shape), normal(*w_shape)

    def backward(disable: bool | None) -> int:
        y = layer(x, w)
        if disable is None:
            return flops(y.sum().backward)
        with hk.no_weight_gradients(disable):
            return flops(y.sum().backward)

    both_gradients_flops = backward(None)
    weight_gradient = w.grad
    assert weight_gradient is not None
    w.grad = None
    # The gradients of input and weight cost the same.
    assert backward(True) * 2 == both_gradients_flops
    assert w.grad is None and x.grad is not None
    assert backward(False) == both_gradients_flops
    torch.testing.assert_close(w.grad, weight_gradient)


@requires_native
@layers
def test_other_gradients_are_unaffected(layer, x_shape, w_shape):
    x, w = normal(*x_shape), normal(*w_shape)
    y = layer(x, w)
    v = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, x, v, retain_graph=True)
    with hk.no_weight_gradients():
        (actual,) = torch.autograd.grad(y, x, v)
    assert torch.equal(actual, expected)


@backends
def test_bias_gradient_is_unaffected(backend):
    x, w, b = normal(2, 3, 5, 5), normal(4, 3, 3, 3), normal(4)
    with hk.use_backend(backend), hk.no_weight_gradients():
        hk.conv2d(x, w, b).sum().backward()
    assert w.grad is None
    assert b.grad.eq(2 * 3 * 3).all()


@backends
def test_no_weight_gradients_nests_and_ends(backend):
    def weight_gradient() -> torch.Tensor | None:
        x, w = normal(1, 2, 4, 4), normal(3, 2, 3, 3)
        with hk.use_backend(backend):
            hk.conv2d(x, w).sum().backward()
        return w.grad

    with hk.no_weight_gradients():
        assert weight_gradient() is None
        # This does nothing, so the outer one still holds.
        with hk.no_weight_gradients(disable=False):
            assert weight_gradient() is None
        with hk.no_weight_gradients():
            assert weight_gradient() is None
        assert weight_gradient() is None
    assert weight_gradient() is not None
    with hk.no_weight_gradients(False):
        assert weight_gradient() is not None


def discriminator(convolve: Callable[..., torch.Tensor], x: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor):
    h = torch.tanh(convolve(x, w1, padding=1))
    return convolve(h, w2, stride=2).tanh().sum([1, 2, 3])


@backends
def test_r1_gives_the_weights_their_second_order_gradients(backend):
    """The penalty's own backward runs outside, and reaches the weights through the first gradient."""
    x, w1, w2 = normal(2, 3, 8, 8), normal(5, 3, 3, 3), normal(4, 5, 3, 3)

    def penalty(convolve: Callable[..., torch.Tensor], disable: bool) -> list[torch.Tensor]:
        with hk.no_weight_gradients(disable):
            (g,) = torch.autograd.grad(discriminator(convolve, x, w1, w2).sum(), x, create_graph=True)
        return list(torch.autograd.grad(g.square().sum(), (w1, w2)))

    expected = penalty(F.conv2d, False)
    for disable in (True, False):
        with hk.use_backend(backend):
            actual = penalty(hk.conv2d, disable)
        for a, b in zip(actual, expected, strict=True):
            assert b.abs().max() > 0
            torch.testing.assert_close(a, b)


@requires_native
def test_r1_step_skips_the_weights_in_its_first_gradient():
    x, w1, w2 = normal(2, 3, 8, 8), normal(5, 3, 3, 3), normal(4, 5, 3, 3)

    def first_gradient() -> None:
        torch.autograd.grad(discriminator(hk.conv2d, x, w1, w2).sum(), x, create_graph=True)

    def backward_of_logits(disable: bool) -> int:
        logits = discriminator(hk.conv2d, x, w1, w2).sum()
        with hk.no_weight_gradients(disable):
            return flops(lambda: torch.autograd.grad(logits, (x, w1, w2), create_graph=True, allow_unused=True))

    with hk.no_weight_gradients():
        without_weights = flops(first_gradient)
    assert backward_of_logits(True) * 2 == backward_of_logits(False)
    assert without_weights == flops(lambda: discriminator(hk.conv2d, x, w1, w2)) + backward_of_logits(True)


def test_third_order_matches_the_reference():
    """Every order of derivative exists."""
    x, w = normal(1, 2, 5, 5), normal(3, 2, 3, 3)
    v = torch.randn(1, 3, 3, 3, dtype=torch.float64)

    def third(convolve: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        y = (convolve(x, w).square() * v).sum()
        (g1,) = torch.autograd.grad(y, x, create_graph=True)
        (g2,) = torch.autograd.grad(g1.square().sum(), w, create_graph=True)
        return list(torch.autograd.grad(g2.square().sum(), (x, w)))

    for a, b in zip(third(hk.conv2d), third(F.conv2d), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last), ids=("nchw", "channels_last"))
@pytest.mark.parametrize("has_bias", (False, True))
def test_transposed_convolution_by_phases(layout, has_bias, monkeypatch):
    """What oneDNN is slow at on processors with AMX, for drawn sizes, held to float64; also as an input gradient."""
    monkeypatch.setattr(cpu_impl, "bfloat16_unit", lambda: "AMX")
    # PyTorch's own has no part in it.
    monkeypatch.setattr(autograd, "_conv_transpose2d", None)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, ()))

    compared = 0
    while compared < 60:
        kernel, stride, padding = (tuple(draw(low, 4) for _ in "yx") for low in (1, 1, 0))
        output_padding, groups = tuple(draw(0, s - 1) for s in stride), draw(1, 2)
        x = torch.randn(draw(1, 2), 3 * groups, draw(1, 6), draw(1, 6)).bfloat16().contiguous(memory_format=layout)
        w, b = torch.randn(3 * groups, 2, *kernel).bfloat16(), torch.randn(2 * groups).bfloat16() if has_bias else None
        sizes = zip(x.shape[2:], stride, padding, kernel, output_padding, strict=True)
        is_possible = all((size - 1) * s - 2 * p + k + extra > 0 for size, s, p, k, extra in sizes)
        if max(stride) == 1 or not is_possible:
            continue
        options = {"padding": padding, "output_padding": output_padding, "groups": groups, "stride": stride}
        bias = None if b is None else b.double()
        truth = F.conv_transpose2d(x.double(), w.double(), bias, **options)
        magnitude = F.conv_transpose2d(x.double().abs(), w.double().abs(), None if b is None else bias.abs(), **options)
        y = hk.conv_transpose2d(x, w, b, **options)
        assert y.shape == truth.shape and y.dtype == x.dtype
        assert ((y.double() - truth).abs() <= torch.finfo(x.dtype).eps * magnitude).all(), (x.shape, w.shape, options)
        compared += 1
    x = torch.randn(2, 3, 9, 8).bfloat16().contiguous(memory_format=layout).requires_grad_()
    w = torch.randn(4, 3, 3, 3).bfloat16()
    y = hk.conv2d(x, w, stride=2, padding=1)
    (dx,) = torch.autograd.grad(y.sum(), x)
    expected = torch.nn.grad.conv2d_input(x.shape, w.double(), torch.ones_like(y).double(), stride=2, padding=1)
    torch.testing.assert_close(dx.double(), expected, rtol=0.02, atol=0.1)
