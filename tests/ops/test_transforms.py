# SPDX-License-Identifier: Apache-2.0
"""PyTorch's transforms of functions: torch.func, batched gradients, forward mode, TorchScript, whole graphs."""

import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functionalize, grad, jacrev, jvp, vmap

import hsr_kernels as hk
from hsr_kernels._dispatch.operators import operators as registered
from tests.native import BACKENDS, EMULATED_CUDA, requires_native

F4 = hk.setup_filter([1, 3, 3, 1])
_W, _B = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(3)), torch.tensor([0.3, -0.2])
_STYLES = torch.tensor([[1.0, 0.5], [-0.7, 1.2]])
_GRID = torch.tensor([[[0.1, -0.3], [0.6, 0.2], [-1.1, 0.9]]])


def _loss(x: torch.Tensor) -> torch.Tensor:
    head = (_W[:, :, 0, 0], torch.ones(3), _W[:2, 0, 0, :], torch.ones(2))
    scales = hk.feature_projection_loss([x, x + 1], [torch.zeros(len(x), 2, 3, 3)] * 2, [head, head])
    return scales @ torch.tensor([[1.0], [-3.0]])


def _layers_at_once(x: torch.Tensor) -> torch.Tensor:
    styles = x.mean((2, 3))
    layers = [(_W, styles, x.dtype, 1), (_W[:2] * styles.mean(), 1 - styles, x.dtype, 1)]
    for weight, style, factors in hk.modulated_conv2d_parameters(layers)[::-1]:
        x = hk.modulated_conv2d(x, weight, style, padding=1, demodulate=factors)
    return x


OPERATORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "bias_act": lambda x: hk.bias_act(x, _B, act="swish", clamp=0.9),
    "upsample2d": lambda x: hk.upsample2d(x, F4),
    "filtered_lrelu": lambda x: hk.filtered_lrelu(x, F4, F4, _B, up=2, down=2, padding=4, clamp=0.9),
    "conv2d": lambda x: hk.conv2d(x, _W, padding=1),
    "conv_transpose2d": lambda x: hk.conv_transpose2d(x, _W.transpose(0, 1), stride=2),
    "conv2d_resample": lambda x: hk.conv2d_resample(x, _W, F4, down=2, padding=1),
    "grid_sample": lambda x: hk.grid_sample(x, _GRID[:, None] + 0.05 * x[:, 0, :2, :1, None]),
    "modulated_conv2d": lambda x: hk.modulated_conv2d(x, _W, _STYLES[: len(x)], x[:, :1], padding=1, act="lrelu"),
    "modulated_conv2d up": lambda x: hk.modulated_conv2d(x, _W, x.mean((2, 3)), up=2, padding=1, resample_filter=F4),
    "modulated_conv2d at once": lambda x: _layers_at_once(x),
    "feature_projection_loss": _loss,
}


def _has(backend: str, name: str) -> bool:
    """Whether an operator has kernels of a backend; PyTorch's own on GPUs aren't emulated."""
    operator = registered["upfirdn2d" if name == "upsample2d" else name.split()[0]]
    return backend in operator.implementations and not (backend == "cuda" and operator.of_pytorch)


def _each_on(*backends: Any) -> pytest.MarkDecorator:
    """Runs a test on every operator, on those of the backends that it has."""
    parameters = [
        pytest.param(*backend.values, op, marks=backend.marks, id=f"{name}-{backend.values[0]}")
        for backend in backends
        for name, op in OPERATORS.items()
        if _has(backend.values[0], name)
    ]
    return pytest.mark.parametrize("backend, op", parameters)


everywhere = _each_on(*BACKENDS, EMULATED_CUDA)
on_cpus = _each_on(*BACKENDS)
backends = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 2, 4, 4)


@pytest.fixture(autouse=True)
def _fresh_warnings() -> None:
    hk.reset_choices()


def jacobian(op: Callable, x: torch.Tensor) -> torch.Tensor:
    """The Jacobian row by row, computed by autograd."""
    return torch.autograd.functional.jacobian(op, x)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@everywhere
def test_reverse_mode_matches_autograd(backend, op, x):
    with hk.use_backend(backend):
        expected = jacobian(op, x)
        close(torch.autograd.functional.jacobian(op, x, vectorize=True), expected)
        close(jacrev(op)(x), expected)
        total = lambda v: op(v).square().sum()  # noqa: E731
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(total(leaf), leaf, create_graph=True)
        close(grad(total)(x), first)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        close(grad(lambda v: grad(total)(v).square().sum())(x), second)


@everywhere
def test_vmap_matches_separate_calls(backend, op, x):
    """Each element of the mapped axis is a call by itself, with a batch of its own."""
    with hk.use_backend(backend):
        calls = x[:, None]
        close(vmap(op)(calls), torch.stack([op(sample) for sample in calls]))
        total = lambda v: op(v).square().sum()  # noqa: E731
        close(vmap(grad(total))(calls), torch.stack([grad(total)(sample) for sample in calls]))
        # The mapped axis need not be the first.
        close(vmap(op, in_dims=4, out_dims=1)(calls.movedim(0, 4)), torch.stack([op(v) for v in calls], 1))


@requires_native
def test_vmap_over_an_empty_axis_raises(x):
    """PyTorch's own convolutions return a wrong shape there."""
    with pytest.raises(ValueError, match="at least one element"):
        vmap(OPERATORS["bias_act"])(x[:0, None])


@requires_native
@pytest.mark.filterwarnings("ignore:.*slow reference")
def test_functionalize_rewrites_the_reference(x):
    total = lambda w: hk.bias_act(hk.conv2d(x, w, padding=1), act="swish").square().sum()  # noqa: E731
    close(functionalize(grad(total))(_W), grad(total)(_W))


@on_cpus
def test_forward_mode_matches_the_jacobian(backend, op, x):
    """It runs on plain PyTorch, whatever backend was requested, with a warning unless that was the reference."""
    tangent = torch.randn_like(x)
    expected = jacobian(op, x).flatten(-4) @ tangent.flatten()
    with hk.use_backend(backend), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value, derivative = jvp(op, (x,), (tangent,))
        close(derivative, expected)
        with forward_ad.dual_level():
            close(forward_ad.unpack_dual(op(forward_ad.make_dual(x, tangent))).tangent, expected)
    assert any("forward-mode" in str(w.message) for w in caught) == (backend != "reference")
    close(value, op(x))


@on_cpus
@pytest.mark.filterwarnings("ignore:.*slow reference")
def test_both_modes_within_each_other_match_second_derivatives(backend, op, x):
    total = lambda v: op(v).square().sum()  # noqa: E731
    tangent = torch.randn_like(x)
    with hk.use_backend("reference"):
        expected = torch.autograd.functional.hvp(total, x, tangent)[1]
    with hk.use_backend(backend):
        close(jvp(grad(total), (x,), (tangent,))[1], expected)
        close(grad(lambda v: jvp(total, (v,), (tangent,))[1])(x), expected)


def test_gradients_per_sample(x):
    """Each sample has a weight of its own, as in an ensemble, and shares the rest or doesn't."""
    weights, noise = torch.stack([_W, 2 * _W, -_W]), torch.randn(3, 4, 4)

    def total(w: torch.Tensor, noise: torch.Tensor, b: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        layer = hk.modulated_conv2d(x, w, _STYLES, noise, padding=1, bias=b, act="lrelu")
        return (layer + hk.conv2d(x, w, b, padding=1)).square().sum()

    b = torch.randn(3)
    gradient = grad(total, argnums=(0, 1, 2))
    for b_dim, x_dim, biases, images in ((None, None, [b] * 3, [x] * 3), (0, 1, b.expand(3, 3) + 1, [x, x + 1, -x])):
        mapped = (b if b_dim is None else biases, x if x_dim is None else torch.stack(list(images), 1))
        actual = vmap(gradient, in_dims=(0, 0, b_dim, x_dim), chunk_size=2)(weights, noise, *mapped)
        rows = [gradient(*arguments) for arguments in zip(weights, noise, biases, images, strict=True)]
        for result, expected in zip(actual, zip(*rows, strict=True), strict=True):
            close(result, torch.stack(expected))


FILTERED = {
    "upfirdn2d": lambda x, f: hk.upsample2d(x, f),
    "conv2d_resample": lambda x, f: hk.conv2d_resample(x, _W, f, up=2, padding=1),
    "modulated_conv2d": lambda x, f: hk.modulated_conv2d(x, _W, _STYLES, up=2, padding=1, resample_filter=f),
    "filtered_lrelu": lambda x, f: hk.filtered_lrelu(x, f, f, up=2, down=2, padding=2),
}


@pytest.mark.parametrize("op", FILTERED.values(), ids=FILTERED.keys())
@pytest.mark.filterwarnings("ignore:.*slow reference")
def test_derivatives_by_a_filter_reach_through_inner_transforms(op, x):
    """The fast backends take filters for constants, and an inner transform hides what an outer one differentiates."""
    f, total = torch.tensor([[1.0, 2], [-1, 0.5]]), lambda x, f: op(x, f).square().sum()
    of_gradient = lambda f: grad(total)(x, f).square().sum()  # noqa: E731
    of_calls = lambda fs: vmap(lambda f: total(x, f))(fs).sum()  # noqa: E731
    with hk.use_backend("reference"):
        expected = jacobian(of_gradient, f), jacobian(lambda f: total(x, f), f)
    close(grad(of_gradient)(f), expected[0])
    leaf = f.clone().requires_grad_()
    close(torch.autograd.grad(of_gradient(leaf), leaf)[0], expected[0])
    close(grad(of_calls)(torch.stack([f, f])), torch.stack([expected[1]] * 2))


def test_gradients_of_captured_images_through_vmap(x):
    """vmap doesn't map them, so their gradient is a sum over its elements."""
    leaf, grids = (
        x.clone().requires_grad_(),
        torch.stack([_GRID, _GRID + 0.1, -_GRID])[:, :, None].expand(3, 2, 1, 3, 2),
    )
    vmap(lambda grid: hk.grid_sample(leaf, grid))(grids).square().sum().backward()
    expected = sum(grad(lambda v: hk.grid_sample(v, grid).square().sum())(x) for grid in grids)  # noqa: B023
    close(leaf.grad, expected)


@requires_native
@pytest.mark.parametrize("name", ("bias_act", "feature_projection_loss"))
def test_a_backward_raises_where_it_would_lose_tangents(name, x):
    """The forward ran natively, before anything asked for forward mode."""
    y, backward = torch.func.vjp(OPERATORS[name], x)
    with pytest.raises(NotImplementedError, match="call the operator within the transform"):
        jvp(lambda v: backward(v)[0], (y,), (y,))
    leaf = x.clone().requires_grad_()
    y = OPERATORS[name](leaf)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="call the operator within the transform"):
        torch.autograd.grad(y, leaf, forward_ad.make_dual(y.detach(), y.detach()))


@on_cpus
def test_traces_are_plain_pytorch(backend, op, x, tmp_path):
    """A trace is saved, and loaded where this package isn't."""
    with hk.use_backend(backend), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = op(x)
        trace = torch.jit.trace(op, (x,), check_trace=False)
    close(trace(x), expected)
    assert not [node for node in trace.graph.nodes() if "hsr_kernels" in node.kind() or "PythonOp" in node.kind()]


def test_a_saved_trace_loads_without_this_package(tmp_path: Path, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.trace(OPERATORS["modulated_conv2d"], (x,), check_trace=False)
    module.save(str(tmp_path / "trace.pt"))
    torch.save((x, module(x)), tmp_path / "example.pt")
    code = (
        "import sys, torch\n"
        "x, y = torch.load('example.pt')\n"
        "torch.testing.assert_close(torch.jit.load('trace.pt')(x), y)\n"
        "sys.exit('hsr_kernels' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path).returncode == 0


@requires_native
@pytest.mark.parametrize("name", ("bias_act", "modulated_conv2d up", "feature_projection_loss"))
@pytest.mark.filterwarnings("ignore:.*slow reference")
def test_compiled_transforms_match_eager_ones(name, x):
    """torch.compile would lose the native operators' derivatives there."""
    torch._dynamo.reset()
    total = lambda v: OPERATORS[name](v).square().sum()  # noqa: E731
    compiled = lambda function: torch.compile(function, backend="aot_eager", fullgraph=True)  # noqa: E731
    close(compiled(grad(total))(x), grad(total)(x))
    close(compiled(vmap(grad(total)))(x[:, None]), vmap(grad(total))(x[:, None]))
    directional = lambda v: jvp(OPERATORS[name], (v,), (x,))[1]  # noqa: E731
    close(compiled(directional)(x), directional(x))


@backends
def test_grid_sample_and_filters_compile_without_graph_breaks(backend):
    def warp(image: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        return hk.grid_sample(hk.filter2d(image, hk.setup_filter([1.0, 2.0, 1.0])), grid)

    torch._dynamo.reset()
    image, grid = torch.rand(2, 2, 5, 5), torch.rand(2, 3, 3, 2) - 0.5
    results = []
    with hk.use_backend(backend):
        for call in (warp, torch.compile(warp, backend="aot_eager", fullgraph=True)):
            leaves = [t.clone().requires_grad_() for t in (image, grid)]
            y = call(*leaves)
            results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    for actual, expected in zip(*results, strict=True):
        close(actual, expected)


def test_no_weight_gradients_affects_its_own_thread_only():
    """As torch.no_grad does: a regularizer in one thread must not take another's gradients away."""
    inside, done = threading.Event(), threading.Event()

    def regularize() -> None:
        with hk.no_weight_gradients():
            inside.set()
            done.wait(20)

    other = threading.Thread(target=regularize)
    other.start()
    assert inside.wait(20)
    try:
        for backend in ("reference", None):
            w = _W.clone().requires_grad_()
            with hk.use_backend(backend):
                hk.conv2d(torch.randn(1, 2, 5, 5), w).sum().backward()
            assert w.grad is not None
    finally:
        done.set()
        other.join()


@pytest.mark.gpu
def test_no_weight_gradients_reaches_the_threads_of_a_gpu():
    w = _W.cuda().requires_grad_()
    x = torch.randn(1, 2, 5, 5, device="cuda", requires_grad=True)
    with hk.no_weight_gradients():
        hk.conv2d(x, w).sum().backward()
    assert w.grad is None and x.grad is not None
