# SPDX-License-Identifier: Apache-2.0
"""PyTorch's transforms of functions: torch.func, batched gradients, forward mode, TorchScript, whole graphs."""

import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import hsr_kernels as hk
from tests.native import BACKENDS, EMULATED_CUDA

F4 = hk.setup_filter([1, 3, 3, 1])
_W, _B = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(3)), torch.tensor([0.3, -0.2])
_STYLES = torch.tensor([[1.0, 0.5], [-0.7, 1.2]])
_GRID = torch.tensor([[[0.1, -0.3], [0.6, 0.2], [-1.1, 0.9]]])


def _loss(x: torch.Tensor) -> torch.Tensor:
    head = (_W[:, :, 0, 0], torch.ones(3), _W[:2, 0, 0, :], torch.ones(2))
    scales = hk.feature_projection_loss([x, x + 1], [torch.zeros(len(x), 2, 3, 3)] * 2, [head, head])
    return scales @ torch.tensor([[1.0], [-3.0]])


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
    "feature_projection_loss": _loss,
}
operators = pytest.mark.parametrize("op", OPERATORS.values(), ids=OPERATORS.keys())
# Those that have CUDA kernels, which the emulator runs.
_CUDA_OPERATORS = ("bias_act", "upsample2d", "conv2d_resample", "modulated_conv2d", "modulated_conv2d up")
everywhere = pytest.mark.parametrize(
    "backend, op",
    [
        pytest.param(*backend.values, op, marks=backend.marks, id=f"{name}-{backend.values[0]}")
        for backend in (*BACKENDS, EMULATED_CUDA)
        for name, op in OPERATORS.items()
        if backend is not EMULATED_CUDA or name in _CUDA_OPERATORS
    ],
)
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


@operators
@backends
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


@backends
def test_forward_over_reverse_matches_the_hessian(backend):
    x = torch.randn(1, 2, 3, 3)
    op = lambda v: hk.bias_act(hk.conv2d(v, _W[:2], padding=1), _B, act="tanh").sum()  # noqa: E731
    with hk.use_backend(backend):
        close(jacfwd(jacrev(op))(x), torch.autograd.functional.hessian(op, x))


def test_vmap_over_parameters(x):
    """Per-sample weights, as ensembles have them."""
    weights = torch.stack([_W, 2 * _W, -_W])
    close(
        vmap(lambda w: hk.conv2d(x, w, padding=1))(weights), torch.stack([hk.conv2d(x, w, padding=1) for w in weights])
    )
    layer = lambda w: hk.modulated_conv2d(x, w, _STYLES, padding=1)  # noqa: E731
    close(vmap(layer)(weights), torch.stack([layer(w) for w in weights]))


@operators
@backends
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
