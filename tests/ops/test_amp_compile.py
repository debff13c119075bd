# SPDX-License-Identifier: Apache-2.0
"""Autocast on the CPU and torch.compile of first-order uses."""

import copy

import pytest
import torch
import torch.nn.functional as F

import hsr_kernels as hk
from benchmarks.parity.inputs import draw, evaluate
from tests.cases import BY_NAME, FIR4
from tests.native import BACKENDS, requires_native

_NAMES = ("conv2d-3x3", "conv_transpose2d-3x3", "conv2d_resample-up-2", "conv2d_resample-down-2",
          "modulated_conv2d-styled", "modulated_conv2d-styled-up", "modulated_conv2d-to-rgb")  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", _NAMES)
def test_autocast_computes_and_saves_in_bfloat16(name, backend):
    case = BY_NAME[name]
    inputs = draw(case, torch.float32)
    tensors = {name: t.clone().requires_grad_() for name, t in inputs.tensors.items()}
    saved: list[torch.Tensor] = []
    with (
        hk.use_backend(backend),
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t),
    ):
        y = case.call(tensors)
    assert y.dtype == torch.bfloat16
    if backend == "cpu":
        float32_maps = [t for t in saved if t.dtype == torch.float32 and t.numel() > 4 * max(t.shape[0] for t in saved)]
        assert not [t for t in float32_maps if t.shape == y.shape or t.shape == next(iter(tensors.values())).shape]
    y.backward(inputs.cotangent.bfloat16())
    for t in tensors.values():
        assert t.grad.dtype == torch.float32 and t.grad.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", _NAMES)
def test_autocast_matches_explicit_casts(name, backend):
    case = BY_NAME[name]
    tensors = draw(case, torch.float32).tensors
    cast = ("input", "x", "weight", "w", "styles", "bias") if "modulated" not in name else ("x", "weight", "styles")
    with hk.use_backend(backend), torch.no_grad():
        expected = case.call({k: t.bfloat16() if k in cast else t for k, t in tensors.items()})
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(case.call(tensors), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_leaves_other_operators_in_the_dtype_of_their_input(backend):
    x = torch.randn(1, 2, 4, 4)
    with hk.use_backend(backend), torch.autocast("cpu", dtype=torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            assert hk.bias_act(x.to(dtype), act="lrelu").dtype == dtype
            assert hk.upsample2d(x.to(dtype), FIR4).dtype == dtype
            assert hk.filtered_lrelu(x.to(dtype), FIR4, FIR4, up=2, padding=4).dtype == dtype


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_keeps_positions_in_float32(backend):
    """As for PyTorch's grid_sample, which is float32 under autocast on the CPU."""
    image = torch.rand(1, 1, 300, 300)
    grid = torch.rand(1, 9, 9, 2) * 1.8 - 0.9
    expected = F.grid_sample(image, grid, align_corners=False)
    with hk.use_backend(backend), torch.autocast("cpu", dtype=torch.bfloat16):
        for x in (image, image.bfloat16()):
            assert F.grid_sample(x, grid, align_corners=False).dtype == torch.float32
            y = hk.grid_sample(x, grid)
            assert y.dtype == torch.float32
            torch.testing.assert_close(y, expected, rtol=0, atol=1e-5 if x is image else 2**-8)


@requires_native
@pytest.mark.parametrize(
    "name", ("filtered_lrelu-stylegan3", "modulated_conv2d-styled-up", "feature_projection_loss-grow-equal-shrink")
)
def test_traced_gradients_are_the_same(name):
    """Forward and first-order backward through all of torch.compile but its code generator, without a graph break."""
    case = BY_NAME[name]
    inputs = draw(case, torch.float32)
    torch._dynamo.reset()
    with_compiler = copy.copy(case)
    call = torch.compile(case.call, backend="aot_eager", fullgraph=True)
    object.__setattr__(with_compiler, "call", call)
    for layout in ("contiguous", "channels_last"):
        expected = evaluate(case, inputs, 1, layout)
        for result, t in evaluate(with_compiler, inputs, 1, layout).items():
            torch.testing.assert_close(t, expected[result], rtol=1e-5, atol=1e-5)
            assert t.stride() == expected[result].stride(), result


@requires_native
def test_compiled_function_gives_the_same_values():
    """Generated code around native operators: it relies on the strides of their fake implementations."""
    x = torch.randn(1, 2, 6, 5).to(memory_format=torch.channels_last)

    def function(x: torch.Tensor) -> torch.Tensor:
        return hk.bias_act(hk.upsample2d(x * 2, FIR4) + 1, act="lrelu", clamp=1.5) * 3

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True)
    results = []
    for call in (compiled, function):
        leaf = x.clone().requires_grad_()
        y = call(leaf)
        results.append((y.detach(), torch.autograd.grad(y.square().sum(), leaf)[0]))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        assert a.stride() == b.stride()


_NUMBERS = {
    "bias_act": lambda x, number: hk.bias_act(x, act="lrelu", alpha=number / 8, gain=number, clamp=number),
    "upfirdn2d": lambda x, number: hk.upfirdn2d(x, FIR4, up=2, padding=(2, 1, 2, 1), gain=number),
    "filtered_lrelu": lambda x, number: hk.filtered_lrelu(
        x, FIR4, FIR4, up=2, padding=4, gain=number, slope=number / 8, clamp=number
    ),
    "feature_projection_loss": lambda x, number: hk.feature_projection_loss(
        [x],
        [x.new_ones(1, 3, 2, 2)],
        [(x.new_ones(4, 2), x.new_ones(4), x.new_ones(3, 4), x.new_ones(3))],
        hidden_gain=number,
    ),
}


@pytest.mark.parametrize("name", _NUMBERS)
def test_numbers_and_sizes_that_change_are_traced(name):
    """A program may compile a function whose numbers change from call to call, such as a gain that is faded in."""
    call = _NUMBERS[name]
    torch._dynamo.reset()
    compiled = torch.compile(call, backend="eager", fullgraph=True, dynamic=True)
    for number, size in ((1.5, 4), (1.5, 6), (0.75, 6)):
        x = torch.randn(1, 2, size, size)
        torch.testing.assert_close(compiled(x, number), call(x, number))
