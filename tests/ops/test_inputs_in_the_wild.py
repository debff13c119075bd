# SPDX-License-Identifier: Apache-2.0
"""What networks and users in the wild pass: other shapes of noise, filters cast with their module, empty batches,
positions that 16 bits don't hold, infinite and absurd numbers."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import hsr_kernels as hk
from tests.native import BACKENDS, CUDA_DEVICES, TRITON_DEVICES, requires_native

backends = pytest.mark.parametrize("backend", BACKENDS)
everywhere = pytest.mark.parametrize(
    "backend, device",
    [
        pytest.param("reference", "cpu"),
        pytest.param("cpu", "cpu", marks=requires_native),
        *(pytest.param("triton", device, marks=mark) for device, mark in TRITON_DEVICES.items()),
        *(pytest.param("cuda", device, marks=mark) for device, mark in CUDA_DEVICES.items()),
    ],
)
F4 = hk.setup_filter([1, 3, 3, 1])


@everywhere
@pytest.mark.parametrize("up", (1, 2))
@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (1, 1, 8, 8), (2, 1, 8, 8), (), (1,), (8,), (2, 1, 1, 8), (8, 1)])
def test_noise_broadcasts(backend, device, up, shape):
    """[H, W] is what networks of constant noise pass; its gradient has its shape."""
    x, weight, styles = torch.randn(2, 3, 8 // up, 8 // up), torch.randn(4, 3, 3, 3), torch.rand(2, 3) + 0.5
    noise = torch.randn(shape)
    results = []
    for name, target in (("reference", "cpu"), (backend, device)):
        tensors = [t.to(target).requires_grad_() for t in (x, weight, styles, noise)]
        with hk.use_backend(name):
            f = F4.to(target) if up > 1 else None
            y = hk.modulated_conv2d(*tensors, up=up, padding=1, resample_filter=f, act="lrelu")
            first = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
            second = torch.autograd.grad(first[0].square().sum() + first[3].square().sum(), tensors)
        results.append([t.cpu() for t in (y, *first, *second)])
    assert results[1][4].shape == noise.shape
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    convolved = hk.modulated_conv2d(x, weight, styles, up=up, padding=1, resample_filter=F4 if up > 1 else None)
    expected = F.leaky_relu(convolved + noise, 0.2) * 2**0.5
    torch.testing.assert_close(results[1][0], expected, rtol=1e-4, atol=1e-4)


@backends
def test_noise_of_other_shapes_is_refused(backend):
    x, weight, styles = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.rand(2, 3)
    for shape in ((2, 4, 8, 8), (3, 1, 8, 8), (7, 8), (2, 8, 8), (1, 2, 1, 8, 8)):
        with hk.use_backend(backend), pytest.raises(ValueError, match=r"noise must be .* got \["):
            hk.modulated_conv2d(x, weight, styles, torch.randn(shape), padding=1)


@everywhere
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_filters_are_cast_with_their_module(backend, device, dtype):
    """`.half()` casts a module's filter too, and StyleGAN's taps are exact in 16 bits."""
    f, x = F4.to(device), torch.randn(1, 2, 6, 6, device=device)
    weight, styles = torch.randn(2, 2, 3, 3, device=device), torch.ones(1, 2, device=device)
    calls = (
        lambda f: hk.upfirdn2d(x, f, up=2, padding=2),
        lambda f: hk.filter2d(x, f),
        lambda f: hk.upsample2d(x, f),
        lambda f: hk.downsample2d(x, f),
        lambda f: hk.filtered_lrelu(x, f, f, up=2, down=2, padding=4),
        lambda f: hk.conv2d_resample(x, weight, f, down=2, padding=1),
        lambda f: hk.modulated_conv2d(x, weight, styles, up=2, padding=1, resample_filter=f),
    )
    with hk.use_backend(backend):
        for call in calls:
            # Twice each, as a GPU's repeated calls may be replayed.
            for _ in range(2):
                torch.testing.assert_close(call(f.to(dtype)), call(f), rtol=0, atol=0)


OPERATORS = {
    "bias_act": lambda x, w, s: hk.bias_act(x, w[:2, 0, 0, 0], act="swish"),
    "upsample2d": lambda x, w, s: hk.upsample2d(x, F4.to(x.device)),
    "downsample2d": lambda x, w, s: hk.downsample2d(x, F4.to(x.device)),
    "filtered_lrelu": lambda x, w, s: hk.filtered_lrelu(
        x, F4.to(x.device), F4.to(x.device), w[:2, 0, 0, 0], up=2, down=2, padding=4, clamp=1
    ),
    "conv2d": lambda x, w, s: hk.conv2d(x, w, padding=1),
    "conv_transpose2d": lambda x, w, s: hk.conv_transpose2d(x, w.transpose(0, 1), stride=2),
    "resample": lambda x, w, s: hk.conv2d_resample(x, w, F4.to(x.device), up=2, padding=1),
    "grid_sample": lambda x, w, s: hk.grid_sample(x, s[:, None, None].expand(-1, 3, 3, 2)),
    "modulated": lambda x, w, s: hk.modulated_conv2d(x, w, s, x[:, :1], padding=1, bias=w[:, 0, 0, 0], act="lrelu"),
    "modulated, clamped": lambda x, w, s: hk.modulated_conv2d(x, w, s, padding=1, act="lrelu", clamp=1),
    "modulated, up": lambda x, w, s: hk.modulated_conv2d(
        x, w, s, up=2, padding=1, resample_filter=F4.to(x.device), act="relu", demodulate=False
    ),
    "feature_projection_loss": lambda x, w, s: hk.feature_projection_loss(
        [x], [x.detach()[:, :1, :2, :2]], [(w[:, :, 0, 0], w[:, 0, 0, 0], w[:1, 0, 0], w[0, 0, 0, :1])]
    ),
}


# The operators that each backend has no kernels for: PyTorch's run these, and the loss has none in CUDA.
_WITHOUT_KERNELS = {"triton": ("conv2d", "conv_transpose2d", "grid_sample")}
_WITHOUT_KERNELS["cuda"] = (*_WITHOUT_KERNELS["triton"], "feature_projection_loss")


@everywhere
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
def test_empty_batches_have_every_derivative(backend, device, dtype):
    for name, op in OPERATORS.items():
        if name not in _WITHOUT_KERNELS.get(backend, ()):
            check_empty_batch(backend, device, dtype, op)


def check_empty_batch(backend, device, dtype, op):
    shapes = ((0, 2, 4, 4), (3, 2, 3, 3), (0, 2))
    x, w, s = (torch.randn(*shape, dtype=dtype, device=device).requires_grad_() for shape in shapes)
    with hk.use_backend(backend):
        y = op(x, w, s)
        (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True, allow_unused=True, materialize_grads=True)
        seconds = torch.autograd.grad(
            dx.square().sum() + (y * 2).sum(), (x, w, s), allow_unused=True, materialize_grads=True
        )
    assert dx.shape == x.shape
    assert [g.shape for g in seconds] == [x.shape, w.shape, s.shape]
    assert seconds[1].eq(0).all()


@backends
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
@pytest.mark.parametrize("size", ((181, 182), (300, 40), (1, 33000)), ids=str)
def test_positions_in_16_bits_keep_their_exact_values(backend, dtype, size):
    """Samples and derivatives are what the same numbers give in float64, to the rounding of the results alone."""
    x = torch.rand(1, 2, *size).to(dtype)
    grid = (torch.rand(1, 9, 9, 2) * 2.2 - 1.1).to(dtype)
    identity = F.affine_grid(torch.eye(2, 3)[None], (1, 2, *size), align_corners=False)[:, ::17, ::17].to(dtype)
    for positions in (grid, identity):
        results = []
        for in_float64 in (True, False):
            leaves = [(t.double() if in_float64 else t).clone().requires_grad_() for t in (x, positions)]
            with hk.use_backend(backend):
                y = hk.grid_sample(*leaves)
                first = torch.autograd.grad(y.float().square().sum() / max(size) ** 0.5, leaves, create_graph=True)
                second = torch.autograd.grad(first[0].float().square().sum(), leaves)
            assert y.dtype == leaves[0].dtype and all(g.dtype == t.dtype for g, t in zip(first, leaves, strict=True))
            results.append([t.double() for t in (y, *first, *second)])
        for expected, actual in zip(*results, strict=True):
            assert (actual - expected).norm() <= 8 * torch.finfo(dtype).eps * expected.norm()


@backends
def test_positions_in_large_images_are_exact(backend):
    """Indices that float32 can't count: the last pixels of 4100 x 4100."""
    n = 4100
    x = torch.zeros(1, 1, n, n)
    x[0, 0, -1, -2] = 1
    centre = [(2 * (n - 2) + 1) / n - 1, (2 * (n - 1) + 1) / n - 1]
    grid = torch.tensor([[[centre]]], dtype=torch.float64)
    with hk.use_backend(backend):
        assert hk.grid_sample(x, grid.float()).item() == pytest.approx(1, abs=2e-3)
        # A grid in float64 keeps its positions beside images in float32.
        assert hk.grid_sample(x, grid).item() == pytest.approx(1, abs=1e-9)


@backends
@pytest.mark.parametrize("value", (float("inf"), -float("inf"), 3e38, -1e20, float("nan")), ids=str)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_huge_infinite_and_nan_positions_are_outside(backend, value, dtype):
    """Output and derivatives are 0 there. NaN counts as -1, as in PyTorch, and no derivative depends on it."""
    x = torch.rand(1, 1, 4, 4).to(dtype).requires_grad_()
    grid = torch.full((1, 2, 2, 2), 0.1).to(dtype)
    grid[0, 0, 0] = value
    grid.requires_grad_()
    with hk.use_backend(backend):
        y = hk.grid_sample(x, grid)
        dx, dgrid = torch.autograd.grad(y.square().sum(), (x, grid), create_graph=True)
        seconds = torch.autograd.grad(dx.square().sum() + dgrid.square().sum(), (x, grid))
    assert all(t.isfinite().all() for t in (y, dx, dgrid, *seconds))
    expected = (
        F.grid_sample(x.float(), torch.full((1, 1, 1, 2), -1.0), align_corners=False).item() if value != value else 0
    )
    assert y[0, 0, 0, 0].item() == pytest.approx(expected, rel=1e-2)
    assert dgrid[0, 0, 0].eq(0).all() and seconds[1][0, 0, 0].eq(0).all()


_IMPOSSIBLE = (
    "hk.upfirdn2d(x, f, padding=(2**33, -2**33, 0, 3))",
    "hk.upfirdn2d(x, f, padding=(2**31, -2**31 + 1, 3, 3))",
    "hk.upfirdn2d(x, f, padding=2**70)",
    "hk.upfirdn2d(x, f, up=2**40, padding=0)",
    "hk.filtered_lrelu(x, f, f, up=2**40, padding=4)",
    "hk.filtered_lrelu(x, f, f, down=2**70, up=2**20)",
    "hk.conv2d(x, w, padding=2**40)",
    "hk.conv_transpose2d(x, w, stride=2**40)",
    "hk.conv2d_resample(x, w, f, up=2**20)",
    "hk.modulated_conv2d(x, w, x[:, :, 0, 0], padding=2**35)",
    "hk.bias_act(x.to_sparse())",
    "hk.feature_projection_loss([x[:, :, :0]], [x], [(w[0, :, :1, 0], w[0, 0, 0, :1]) * 2])",
)


def test_impossible_numbers_are_errors():
    """In a process of its own, which must neither crash nor hang."""
    code = """
import sys, torch, hsr_kernels as hk
f = hk.setup_filter([1, 3, 3, 1])
x, w = torch.ones(1, 1, 8, 8), torch.ones(1, 1, 3, 3)
for call in sys.argv[1:]:
    try:
        eval(call)
    except (ValueError, TypeError, RuntimeError, MemoryError):
        print(call, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code, *_IMPOSSIBLE], timeout=100, capture_output=True, text=True)
    assert done.stdout.splitlines() == list(_IMPOSSIBLE), done.stderr
    assert done.returncode == 0
