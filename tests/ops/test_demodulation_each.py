# SPDX-License-Identifier: Apache-2.0
"""Several layers that are demodulated at once are what they are one by one."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch

import hsr_kernels as hk
from hsr_kernels.modulated_conv2d import demodulation_each
from tests.cases import FIR4
from tests.native import CUDA_DEVICES, TRITON_DEVICES, requires_native
from tests.selection import every_other

BACKENDS = [
    pytest.param("reference", "cpu"),
    pytest.param("cpu", "cpu", marks=requires_native),
    *(pytest.param("triton", device, marks=mark) for device, mark in TRITON_DEVICES.items()),
    *(pytest.param("cuda", device, marks=mark) for device, mark in CUDA_DEVICES.items()),
]


class Layer(NamedTuple):
    """A layer: shape of its weight, dtypes of images and parameters, and factor by which it upsamples."""

    weight: tuple[int, int, int, int]
    dtype: torch.dtype = torch.float32
    parameters_dtype: torch.dtype = torch.float32
    up: int = 1


# Of several kinds, in turns; of most there are several, with other numbers of channels and taps.
LAYERS = (
    Layer((5, 6, 3, 3)),
    Layer((3, 70, 3, 3), torch.float16),
    Layer((6, 5, 3, 3), up=2),
    Layer((3, 4, 1, 1)),
    Layer((4, 3, 3, 3), torch.float16, up=2),
    Layer((4, 5, 3, 3), torch.bfloat16, torch.bfloat16),
    Layer((3, 5, 1, 1), torch.bfloat16, torch.bfloat16),
    Layer((2, 7, 3, 3), torch.float16),
)


def drawn(layers: Sequence[Layer], device: str) -> tuple[list[torch.Tensor], ...]:
    """Returns images, weights and styles."""
    generator = torch.Generator().manual_seed(0)

    def tensors(dtypes: Sequence[torch.dtype], *shapes: tuple[int, ...]) -> list[torch.Tensor]:
        numbers = (torch.randn(shape, generator=generator) for shape in shapes)
        return [t.to(device, dtype) for t, dtype in zip(numbers, dtypes, strict=True)]

    of_images, of_parameters = ([layer[i] for layer in layers] for i in (1, 2))
    images = tensors(of_images, *((2, layer.weight[1], 2, 3) for layer in layers))
    weights = tensors(of_parameters, *(layer.weight for layer in layers))
    styles = tensors(of_parameters, *((2, layer.weight[1]) for layer in layers))
    return images, weights, styles


def outputs(layers, images, weights, styles, *, at_once: bool) -> list[torch.Tensor]:
    """Of layers whose parameters are prepared at once, or one by one."""
    parameters = [(weight, style, True) for weight, style in zip(weights, styles, strict=True)]
    if at_once:
        dtypes, ups = (layer.dtype for layer in layers), (layer.up for layer in layers)
        parameters = hk.modulated_conv2d_parameters(zip(weights, styles, dtypes, ups, strict=True))
    f = FIR4.to(images[0].device)
    return [
        hk.modulated_conv2d(
            x, weight, style, up=layer.up, padding=weight.shape[2] // 2, demodulate=demodulate,
            resample_filter=f if layer.up > 1 else None, flip_weight=layer.up == 1, act="lrelu",
        )
        for layer, x, (weight, style, demodulate) in zip(layers, images, parameters, strict=True)
    ]  # fmt: skip


def evaluated(device: str, *, at_once: bool, orders: int) -> list[torch.Tensor]:
    """Outputs, and derivatives with respect to weights and styles: as many orders as are asked for."""
    images, weights, styles = drawn(LAYERS, device)
    leaves = [t.requires_grad_() for t in (*weights, *styles)]
    results = found = outputs(LAYERS, images, weights, styles, at_once=at_once)
    for further in reversed(range(orders)):
        total = sum((0.01 * t.float()).square().sum() for t in found)
        found = torch.autograd.grad(total, leaves, create_graph=further > 0)
        results = [*results, *found]
    return results


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("backend, device, orders, max_layers", every_other(BACKENDS, (1, 2), (24, 2)))
def test_at_once_is_one_by_one(backend, device, orders, max_layers, monkeypatch):
    """With two layers in a launch at most, there are several launches for layers that are alike."""
    monkeypatch.setattr(demodulation_each, "MAX_LAYERS", max_layers)
    hk.reset_choices()
    with hk.use_backend(backend):
        found, expected = (evaluated(device, at_once=at_once, orders=orders) for at_once in (True, False))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("device", [pytest.param(device, marks=mark) for device, mark in TRITON_DEVICES.items()])
def test_layers_of_one_launch_have_their_own_gradients(device):
    """Constants stay constants, and where one layer alone has a gradient, the others have none."""
    layers = (Layer((5, 6, 3, 3)), Layer((4, 5, 3, 3)), Layer((3, 4, 3, 3)))
    images, weights, styles = drawn(layers, device)
    weights[0].requires_grad_(), weights[2].requires_grad_(), styles[2].requires_grad_()
    with hk.use_backend("triton"):
        parameters = hk.modulated_conv2d_parameters(zip(weights, styles, [torch.float32] * 3, [1] * 3, strict=True))
        assert [t.requires_grad for t in (t for of_layer in parameters for t in of_layer)] == [
            True, False, True, False, False, False, True, True, True,
        ]  # fmt: skip
        # A call like the one before isn't decided again; its numbers are others.
        weights[2].detach().copy_(torch.randn(3, 4, 3, 3))
        found, expected = (outputs(layers, images, weights, styles, at_once=at_once)[2] for at_once in (True, False))
        leaves = weights[2], styles[2]
        for one, other in zip(*(torch.autograd.grad(y.sum(), leaves) for y in (found, expected)), strict=True):
            torch.testing.assert_close(one, other)
        outputs(layers, images, weights, styles, at_once=True)[2].sum().backward()
        assert weights[0].grad is None and weights[2].grad is not None


@requires_native
def test_a_call_for_images_of_another_dtype_is_decided_again():
    weight, styles = torch.randn(4, 3, 3, 3), torch.randn(2, 3)
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        ((w, s, d),) = hk.modulated_conv2d_parameters([(weight, styles, dtype, 1)])
        assert (w.dtype, s.dtype, d.dtype) == (dtype, torch.float32, torch.float32)
    assert hk.modulated_conv2d_parameters([]) == []
