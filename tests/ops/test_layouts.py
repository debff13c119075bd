# SPDX-License-Identifier: Apache-2.0
"""Outputs and gradients keep the layout of their inputs, dense layouts run without a copy, any other is still right."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import hsr_kernels as hk
from benchmarks.parity.inputs import draw, evaluate, lay_out
from hsr_kernels import use_backend
from tests.cases import CASES, FIR4, FIR12, Case
from tests.native import BACKENDS, requires_native

CONTIGUOUS, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
FORMATS = pytest.mark.parametrize("memory_format", (CONTIGUOUS, CHANNELS_LAST), ids=("contiguous", "channels_last"))
_LAYER = {"x": (2, 8, 12, 10), "weight": (6, 8, 3, 3), "styles": (2, 8), "bias": (6,)}
_LRELU = {"padding": 1, "act": "lrelu", "clamp": 1.5}

IMAGE_CASES = [
    Case("bias_act", "lrelu", {"x": (2, 8, 12, 10), "b": (8,)}, {"act": "lrelu", "clamp": 1.0}),
    Case("bias_act", "swish", {"x": (2, 8, 12, 10), "b": (8,)}, {"act": "swish"}),
    Case("bias_act", "linear", {"x": (2, 8, 12, 10)}, {"clamp": 1.0}),
    Case("upsample2d", "up", {"x": (2, 8, 12, 10)}, {"f": FIR4}),
    Case("downsample2d", "down", {"x": (2, 8, 12, 10)}, {"f": FIR12}),
    Case("filter2d", "blur", {"x": (2, 8, 12, 10)}, {"f": FIR4}),
    Case("upfirdn2d", "crop", {"x": (2, 8, 12, 10)}, {"f": FIR4, "padding": (-1, 2, -2, 1)}),
    Case(
        "filtered_lrelu",
        "doubled",
        {"x": (2, 8, 12, 10), "b": (8,)},
        {"fu": FIR12, "fd": FIR4, "up": 2, "down": 2, "padding": 7, "clamp": 1.0},
    ),
    Case("modulated_conv2d", "styled", _LAYER | {"noise": (2, 1, 12, 10)}, _LRELU),
    Case("modulated_conv2d", "up", _LAYER, _LRELU | {"up": 2, "resample_filter": FIR4}),
    Case("modulated_conv2d", "down", _LAYER, _LRELU | {"down": 2, "resample_filter": FIR4}),
    Case("modulated_conv2d", "swish", _LAYER, {"padding": 1, "act": "swish"}),
    Case("modulated_conv2d", "to-rgb", _LAYER | {"weight": (2, 8, 1, 1), "bias": (2,)}, {"demodulate": False}),
    Case("conv2d_resample", "down", {"x": (2, 8, 12, 10), "w": (6, 8, 3, 3)}, {"f": FIR4, "down": 2, "padding": 1}),
    Case("conv2d_resample", "up", {"x": (2, 8, 12, 10), "w": (6, 8, 3, 3)}, {"f": FIR4, "up": 2, "padding": 1}),
]
ONE_PASS_CASES = [case for case in IMAGE_CASES if "conv2d" not in case.op]


def is_in(t: torch.Tensor, memory_format: torch.memory_format) -> bool:
    """Whether `t` is dense in this format and not in the other."""
    other = CHANNELS_LAST if memory_format is CONTIGUOUS else CONTIGUOUS
    return t.is_contiguous(memory_format=memory_format) and not t.is_contiguous(memory_format=other)


@requires_native
@FORMATS
@pytest.mark.parametrize("case", IMAGE_CASES, ids=str)
def test_output_and_gradient_keep_the_layout(case, memory_format):
    x, *others = (torch.randn(shape) for shape in case.shapes.values())
    x = x.to(memory_format=memory_format).requires_grad_()
    y = case.call(dict(zip(case.shapes, (x, *others), strict=True)))
    assert is_in(y, memory_format)
    v = torch.randn(y.shape).to(memory_format=memory_format)
    (dx,) = torch.autograd.grad(y, x, v)
    assert is_in(dx, memory_format)


@requires_native
@FORMATS
@pytest.mark.parametrize("case", ONE_PASS_CASES, ids=str)
def test_second_derivatives_keep_the_layout(case, memory_format):
    x, *others = (torch.randn(shape) for shape in case.shapes.values())
    x = x.to(memory_format=memory_format).requires_grad_()
    y = case.call(dict(zip(case.shapes, (x, *others), strict=True)))
    v = torch.randn(y.shape).to(memory_format=memory_format).requires_grad_()
    (dx,) = torch.autograd.grad(y, x, v, create_graph=True)
    (dv,) = torch.autograd.grad(dx, v, torch.randn(dx.shape).to(memory_format=memory_format))
    assert is_in(dv, memory_format)


def _copies(call, min_elements: int) -> list[str]:
    """Names of the copying operators that ran inside `call` on tensors of at least `min_elements`."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        call()
    copying = ("aten::copy_", "aten::clone", "aten::contiguous", "aten::_to_copy")
    return [
        event.name
        for event in profiler.events()
        if event.name in copying
        and event.input_shapes
        and torch.Size(event.input_shapes[0] or [0]).numel() >= min_elements
    ]


@requires_native
@FORMATS
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("float32", "bfloat16"))
@pytest.mark.parametrize("case", ONE_PASS_CASES, ids=str)
def test_dense_layouts_run_without_a_copy(case, dtype, memory_format):
    tensors = {name: torch.randn(shape).to(dtype) for name, shape in case.shapes.items()}
    tensors["x"] = tensors["x"].to(memory_format=memory_format).requires_grad_()
    y = case.call(tensors)
    v = torch.randn(y.shape).to(dtype).to(memory_format=memory_format)
    min_elements = min(tensors["x"].numel(), y.numel())
    assert not _copies(lambda: case.call(tensors), min_elements)
    assert not _copies(lambda: torch.autograd.grad(y, tensors["x"], v), min_elements)


def test_copies_are_noticed():
    """The test above would notice a copy."""
    x = torch.randn(2, 8, 12, 10).to(memory_format=CHANNELS_LAST)
    assert _copies(lambda: x.contiguous(), x.numel())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "arrange", ("transposed", "expanded batch", "expanded pixels", "flipped strides", "every other")
)
@pytest.mark.parametrize("case", IMAGE_CASES, ids=str)
def test_other_layouts_give_the_same_results(case, arrange, backend):
    """Transposed, broadcast and strided images are copied where necessary, as inputs and as cotangents."""
    tensors = draw(case, torch.float64).tensors

    def arranged(t: torch.Tensor) -> torch.Tensor:
        return {
            "transposed": lambda: t.transpose(2, 3).contiguous().transpose(2, 3),
            "expanded batch": lambda: t[:1].expand_as(t),
            "expanded pixels": lambda: t[:, :, :1, :1].expand_as(t),
            "flipped strides": lambda: t.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
            "every other": lambda: t.repeat_interleave(2, 3)[..., ::2],
        }[arrange]()

    def results(backend: str, arrangement) -> list[torch.Tensor]:
        # The leaf lies below the view, since leaves can't be expanded.
        x = tensors["x"].clone().requires_grad_()
        y = case.call({**tensors, "x": arrangement(arranged(x))})
        v = arrangement(arranged(torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))))
        return [y.detach(), *torch.autograd.grad(y, x, v)]

    with use_backend("reference"):
        expected = results("reference", torch.Tensor.contiguous)
    with use_backend(backend):
        actual = results(backend, lambda t: t)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", IMAGE_CASES, ids=str)
def test_gradient_of_a_sum_is_right(case, backend):
    """`y.sum().backward()` brings a cotangent whose strides are all zero."""
    tensors = draw(case, torch.float64).tensors

    def gradient(backend: str) -> torch.Tensor:
        x = tensors["x"].clone().requires_grad_()
        with use_backend(backend):
            case.call({**tensors, "x": x}).sum().backward()
        return x.grad

    torch.testing.assert_close(gradient(backend), gradient("reference"), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", sorted({case.op for case in CASES}))
def test_arguments_are_not_written_to(op, backend):
    """No operator writes to what it is given, cotangents included."""
    case = next(case for case in CASES if case.op == op)
    inputs = draw(case, torch.float32)
    with use_backend(backend):
        before = [t.clone() for t in (*inputs.tensors.values(), inputs.cotangent)]
        leaves = [
            t.clone().requires_grad_() if name in case.differentiated else t.clone()
            for name, t in inputs.tensors.items()
        ]
        v = inputs.cotangent.clone()
        case.call(dict(zip(inputs.tensors, leaves, strict=True))).backward(v)
    for t, original in zip((*leaves, v), before, strict=True):
        assert torch.equal(t.detach(), original)


@requires_native
@FORMATS
def test_identity_does_not_alias_its_input(memory_format):
    """Writing to an output must not change the input, even where the operator does nothing."""
    x = torch.randn(1, 2, 3, 4).to(memory_format=memory_format)
    before = x.clone()
    for y in (hk.bias_act(x), hk.upfirdn2d(x, None), hk.filter2d(x, None)):
        y.zero_()
        assert torch.equal(x, before)


@pytest.mark.usefixtures("poisoned_memory")
def test_poison_reaches_fresh_memory():
    """What test_parity.py relies on: unwritten output would be NaN."""
    for fresh in (torch.empty(3), torch.empty_like(torch.ones(2, 2)), torch.ones(1).new_empty(4)):
        assert fresh.isnan().all()
    assert torch.empty((1, 2, 3, 4), memory_format=CHANNELS_LAST, dtype=torch.bfloat16).isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_slices_are_read_within_their_bounds(backend):
    """The buffer around a slice is NaN: `lay_out` makes it so, and no result shows it."""
    case = IMAGE_CASES[3]
    inputs = draw(case, torch.float32)
    assert lay_out("x", inputs.tensors["x"], "slice")._base.isnan().any()
    with use_backend(backend):
        for order in (0, 1, 2):
            assert all(t.isfinite().all() for t in evaluate(case, inputs, order, "slice").values())
