# SPDX-License-Identifier: Apache-2.0
"""Derivatives with respect to some of the inputs only, as frozen networks and frozen images ask for."""

import dataclasses

import pytest
import torch

import hsr_kernels as hk
from benchmarks.parity.inputs import draw, evaluate
from tests.cases import BY_NAME, Case
from tests.native import TRITON_DEVICES, requires_native

_NAMES = (
    "bias_act-lrelu-clamped", "bias_act-swish-clamped", "conv2d-dilated-grouped", "conv_transpose2d-3x3",
    "conv2d_resample-up-2", "conv2d_resample-down-2", "modulated_conv2d-styled", "modulated_conv2d-styled-up",
    "filtered_lrelu-rectangular", "modulated_conv2d-1x1-down", "modulated_conv2d-to-rgb",
    "modulated_conv2d-not-demodulated", "grid_sample-odd",
    "feature_projection_loss-resnet-shrink-4", "feature_projection_loss-grow-uneven",
)  # fmt: skip


def _selections(name: str) -> list[tuple[str, str, bool]]:
    return [(name, argument, alone) for argument in BY_NAME[name].differentiated for alone in (True, False)]


@requires_native
@pytest.mark.parametrize("name, argument, alone", [s for name in _NAMES for s in _selections(name)])
def test_gradients_of_one_input_alone_and_of_all_others(name, argument, alone):
    case = BY_NAME[name]
    constants = [a for a in case.shapes if a in case.constants or (a == argument) != alone]
    case = dataclasses.replace(case, constants=tuple(constants))
    inputs = draw(case, torch.float64)
    for order in (1, 2):
        with hk.use_backend("reference"):
            expected = evaluate(case, inputs, order)
        with hk.use_backend("cpu"):
            actual = evaluate(case, inputs, order)
        for result, t in expected.items():
            torch.testing.assert_close(actual[result], t, rtol=1e-11, atol=1e-11)


@requires_native
@pytest.mark.parametrize("name", _NAMES)
def test_nothing_is_kept_without_grad(name):
    case = BY_NAME[name]
    tensors = draw(case, torch.float32).tensors
    with torch.autograd.graph.saved_tensors_hooks(lambda t: pytest.fail("a tensor was kept"), lambda t: t):
        assert not case.call(tensors).requires_grad
        with torch.no_grad():
            assert not case.call({k: t.clone().requires_grad_() for k, t in tensors.items()}).requires_grad


@requires_native
@pytest.mark.parametrize("act", ("relu", "lrelu", "tanh"))
def test_overwriting_an_output_is_noticed(act):
    """Derivatives are recovered from the output, so autograd must refuse to use one that has been changed."""
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    y = hk.bias_act(x, act=act)
    with torch.no_grad():
        y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@requires_native
def test_overwriting_the_output_of_a_layer_is_noticed():
    case: Case = BY_NAME["modulated_conv2d-styled"]
    y = case.call({k: t.requires_grad_() for k, t in draw(case, torch.float32).tensors.items()})
    with torch.no_grad():
        y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


_INTERPRETED = pytest.param("triton", marks=TRITON_DEVICES["cpu"])


@pytest.mark.parametrize("backend", ("reference", pytest.param("cpu", marks=requires_native), _INTERPRETED))
def test_feature_loss_of_an_empty_batch_is_nan(backend):
    """The mean over nothing is not a number, and neither it nor its derivatives are an error."""
    x = torch.zeros(0, 3, 4, 4, requires_grad=True)
    head = tuple(torch.zeros(shape, requires_grad=True) for shape in ((5, 3), (5,), (2, 5), (2,)))
    with hk.use_backend(backend):
        loss = hk.feature_projection_loss([x], [torch.zeros(0, 2, 3, 3)], [head])
        assert loss.shape == (1,) and loss.isnan().all()
        # The backward belongs in here: the backend that is interpreted must also find what its forward kept.
        loss.sum().backward()
    assert x.grad.shape == x.shape and all(t.grad.shape == t.shape for t in head)
