# SPDX-License-Identifier: Apache-2.0
"""First and second derivatives of every operator against finite differences, in float64."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import hsr_kernels as hk
from benchmarks.parity.inputs import LAYOUTS, draw, lay_out
from hsr_kernels import use_backend
from tests.cases import FIR4, FIR4_SEPARABLE, Case
from tests.native import BACKENDS, requires_native
from tests.ops.literal import PARAMETERS as ACTIVATIONS

_LAYER = {"x": (2, 2, 3, 2), "weight": (3, 2, 3, 3), "styles": (2, 2), "bias": (3,)}
_HEAD = {"features.0": (1, 2, 3, 3), "w1.0": (3, 2), "b1.0": (3,), "w2.0": (2, 3), "b2.0": (2,)}
_UP, _DOWN = {"up": 2, "resample_filter": FIR4}, {"down": 2, "resample_filter": FIR4}

CASES = [
    *(Case("bias_act", act, {"x": (2, 3, 4), "b": (3,)}, {"act": act, "clamp": 1.1}) for act in ACTIVATIONS),
    Case("bias_act", "alpha", {"x": (2, 3, 4), "b": (3,)}, {"act": "lrelu", "alpha": -0.3, "gain": -0.7}),
    Case("upfirdn2d", "up", {"x": (1, 2, 3, 4)}, {"f": FIR4_SEPARABLE, "up": (2, 3), "padding": (2, 1, 4, -1)}),
    Case("upfirdn2d", "down", {"x": (1, 2, 6, 5)}, {"f": FIR4, "down": (2, 3), "padding": 2, "flip_filter": True}),
    Case("filter2d", "blur", {"x": (1, 1, 4, 3)}, {"f": FIR4}),
    Case("upsample2d", "double", {"x": (1, 1, 3, 2)}, {"f": FIR4}),
    Case("downsample2d", "halve", {"x": (1, 1, 6, 4)}, {"f": FIR4}),
    Case("filtered_lrelu", "double", {"x": (1, 2, 3, 4), "b": (2,)},
         {"fu": FIR4_SEPARABLE, "fd": FIR4, "up": 2, "down": 2, "padding": (2, 3, 4, 1), "clamp": 0.9}),
    Case("filtered_lrelu", "crop", {"x": (2, 1, 4, 3), "b": (1,)},
         {"fu": FIR4, "fd": FIR4_SEPARABLE, "up": 3, "down": 2, "padding": (4, -1, 1, 2), "flip_filter": True}),
    Case("conv2d", "strided", {"input": (2, 2, 5, 4), "weight": (4, 1, 3, 2), "bias": (4,)},
         {"stride": 2, "padding": (1, 0), "groups": 2}),
    Case("conv_transpose2d", "strided", {"input": (2, 2, 3, 2), "weight": (2, 3, 3, 2), "bias": (3,)},
         {"stride": 2, "padding": 1, "output_padding": 1}),
    Case("conv2d_resample", "up", {"x": (1, 2, 3, 2), "w": (3, 2, 3, 3)}, {"f": FIR4, "up": 2, "padding": 1}),
    Case("conv2d_resample", "down", {"x": (1, 2, 4, 4), "w": (3, 2, 3, 3)}, {"f": FIR4, "down": 2, "padding": 1}),
    Case("modulated_conv2d", "styled", _LAYER | {"noise": (2, 1, 3, 2)}, {"padding": 1, "act": "lrelu", "clamp": 1.5}),
    Case("modulated_conv2d", "up", _LAYER | {"noise": (1, 1, 6, 4)}, {"padding": 1, "act": "lrelu", **_UP}),
    Case("modulated_conv2d", "down", _LAYER | {"x": (2, 2, 4, 4), "noise": ()},
         {"padding": 1, "act": "swish", **_DOWN}),
    Case("modulated_conv2d", "to-rgb", {"x": (2, 4, 2, 2), "weight": (1, 4, 1, 1), "styles": (2, 4), "bias": (1,)},
         {"demodulate": False, "clamp": 0.9}),
    Case("grid_sample", "inside-and-out", {"input": (1, 2, 4, 3), "grid": (1, 3, 3, 2)}),
    Case("feature_projection_loss", "shrink", _HEAD | {"targets.0": (1, 2, 2, 2)}, {}, ("targets.0",)),
    Case("feature_projection_loss", "grow", _HEAD | {"targets.0": (1, 2, 4, 4)}, {}, ("targets.0",)),
]  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_derivatives_match_finite_differences(case, backend):
    tensors = draw(case, torch.float64).tensors
    leaves = [tensors[name].clone().requires_grad_() for name in case.differentiated]

    def function(*leaves: torch.Tensor) -> torch.Tensor:
        return case.call({**tensors, **dict(zip(case.differentiated, leaves, strict=True))})

    with use_backend(backend):
        assert gradcheck(function, leaves)
        assert gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives_match_finite_differences_in_other_layouts(backend, layout):
    """Derivatives with respect to tensors that aren't contiguous, through one layer that uses them all."""
    (case,) = (c for c in CASES if str(c) == "modulated_conv2d-up")
    tensors = draw(case, torch.float64).tensors
    leaves = [lay_out(name, t, layout).requires_grad_() for name, t in tensors.items()]

    def function(*leaves: torch.Tensor) -> torch.Tensor:
        return case.call(dict(zip(tensors, leaves, strict=True)))

    with use_backend(backend):
        assert gradcheck(function, leaves)
        assert gradgradcheck(function, leaves, fast_mode=True)


@requires_native
@pytest.mark.parametrize("act", ("linear", "relu", "lrelu"))
def test_third_order_of_piecewise_linear_activations(act):
    """Under a cube three of them differ from zero, with respect to the bias too."""
    tensors = draw(Case("bias_act", act, {"x": (2, 3, 4), "b": (3,)}), torch.float64).tensors

    def third(backend: str) -> list[torch.Tensor]:
        x, b = leaves = [t.clone().requires_grad_() for t in tensors.values()]
        with use_backend(backend):
            total = hk.bias_act(x, b, act=act, gain=-0.7, clamp=1.1).pow(3).sum()
            for _ in range(2):
                total = sum(g.sum() for g in torch.autograd.grad(total, leaves, create_graph=True))
            return list(torch.autograd.grad(total, leaves))

    expected = third("reference")
    assert all(t.count_nonzero() for t in expected)
    torch.testing.assert_close(third("cpu"), expected)


@requires_native
def test_third_order_of_filtered_lrelu():
    """The mask makes it linear, and each transposed map is another one of its kind, with other sizes."""
    options = {"fu": FIR4_SEPARABLE, "fd": FIR4, "up": 3, "down": 2, "padding": (3, 1, 0, 4), "clamp": 1.1}
    case = Case("filtered_lrelu", "cubed", {"x": (1, 2, 5, 6), "b": (2,)}, options)
    tensors = draw(case, torch.float64).tensors

    def third(backend: str) -> list[torch.Tensor]:
        leaves = {name: t.clone().requires_grad_() for name, t in tensors.items()}
        with use_backend(backend):
            total = case.call(leaves).pow(3).sum()
            for _ in range(2):
                total = sum(g.pow(2).sum() for g in torch.autograd.grad(total, leaves.values(), create_graph=True))
            return list(torch.autograd.grad(total, leaves.values()))

    expected = third("reference")
    assert all(t.count_nonzero() for t in expected)
    torch.testing.assert_close(third("cpu"), expected)


@requires_native
@pytest.mark.parametrize("up", [1, 2])
def test_third_order_of_modulated_conv2d(up):
    """A differentiable second derivative is computed in another way: both must agree, and the third be right."""
    taps = hk.setup_filter([1, 3, 3, 1]) if up > 1 else None
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    tensors = [normal(2, 3, 5, 4), normal(4, 3, 3, 3), 1 + normal(2, 3) / 4, normal(4), normal(1, 1, 5 * up, 4 * up)]
    v = normal(2, 4, 5 * up, 4 * up)

    def derivatives(backend: str) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        x, weight, styles, bias, noise = leaves = [t.clone().requires_grad_() for t in tensors]
        with hk.use_backend(backend):
            y = hk.modulated_conv2d(
                x, weight, styles, noise, up=up, padding=1, resample_filter=taps, bias=bias, act="lrelu", clamp=1.0
            )
            first = torch.autograd.grad((y * v).sum(), leaves, create_graph=True)
            penalty = sum((g.square().sum() for g in first), torch.zeros(()))
            second_without_graph = torch.autograd.grad(penalty, leaves, retain_graph=True)
            second = torch.autograd.grad(penalty, leaves, create_graph=True)
            penalty = sum((g.square().sum() for g in second), torch.zeros(()))
            return list(second_without_graph), list(second), list(torch.autograd.grad(penalty, leaves))

    second_without_graph, second, third = derivatives("cpu")
    _, expected_second, expected_third = derivatives("reference")
    torch.testing.assert_close(second_without_graph, expected_second)
    torch.testing.assert_close(second, expected_second)
    torch.testing.assert_close(third, expected_third)
