# SPDX-License-Identifier: Apache-2.0
"""Inputs with structure against literal arithmetic: ramps, constants, single pixels, exact centres, zeros, huge values.

Random numbers hardly ever lie on a pixel's centre, at a kink or on a clamp's limit; real images and identity warps do.
"""

import numpy as np
import pytest
import torch

import hsr_kernels as hk
from tests.cases import FIR3X5, FIR4
from tests.native import BACKENDS
from tests.ops import literal

backends = pytest.mark.parametrize("backend", BACKENDS)


def images(size: tuple[int, int] = (5, 6)) -> dict[str, torch.Tensor]:
    """[2, 2, H, W] in float64 by what they hold; the samples and channels differ."""
    h, w = size
    ramp = 3 * torch.arange(w, dtype=torch.float64) + 100 + 7 * torch.arange(h, dtype=torch.float64)[:, None]
    single = {name: torch.zeros(h, w, dtype=torch.float64) for name in ("corner", "border", "inside")}
    single["corner"][-1, -1] = single["border"][0, w // 2] = single["inside"][h // 2, w // 2] = 1
    maps = {"zeros": torch.zeros(h, w, dtype=torch.float64), "constant": torch.full((h, w), 5.0).double(), "ramp": ramp}
    maps |= single | {"huge": ramp * 1e30}
    factors = torch.tensor([[1.0, -2.0], [0.5, 1.0]], dtype=torch.float64)
    return {name: factors[:, :, None, None] * m for name, m in maps.items()}


def assert_same(actual: torch.Tensor, expected: np.ndarray, magnitude: float = 0.0) -> None:
    """Equal but for rounding of terms as large as `magnitude` or the largest result."""
    assert actual.shape == expected.shape and actual.isfinite().all()
    scale = max(float(np.abs(expected).max(initial=0)), magnitude)
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=0, atol=1e-12 * scale)


@backends
@pytest.mark.parametrize("act", literal.PARAMETERS)
def test_bias_act(backend, act):
    """Exact zeros, limits of the clamp, saturated ends: value, slope and a slope that is 0 where the clamp may cut."""
    x = torch.tensor([0.0, -0.0, 0.5, -0.5, 1, -1, 2, -2, 30, -30, 700, -700, 1e200, -1e200], dtype=torch.float64)
    for options in ({}, {"gain": 1.0, "clamp": 0.5}, {"gain": -2.0, "alpha": 0.5, "clamp": 1.0}, {"clamp": 0.0}):
        leaf = x.clone().requires_grad_()
        with hk.use_backend(backend):
            y = hk.bias_act(leaf, act=act, **options)
            (dx,) = torch.autograd.grad(y.sum(), leaf, create_graph=True)
        assert_same(y, literal.activation(x.numpy(), act, **options))
        assert_same(dx, literal.slope(x.numpy(), act, **options))
        if dx.requires_grad:
            (second,) = torch.autograd.grad(dx.sum(), leaf, allow_unused=True, materialize_grads=True)
            assert second.isfinite().all()


@backends
@pytest.mark.parametrize("f", (FIR4, FIR3X5), ids=("separable", "not separable"))
def test_upfirdn2d(backend, f):
    geometry = {"up": (2, 1), "down": (1, 2), "padding": (3, 1, 2, 4)}
    for x in images().values():
        leaf = x.clone().requires_grad_()
        with hk.use_backend(backend):
            y = hk.upfirdn2d(leaf, f, **geometry)
            (dx,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
        assert_same(y, literal.upfirdn2d(x.numpy(), f.double().numpy(), **geometry))
        # The transpose of a linear map: <y, 1> of a single pixel is the gradient there.
        unit = torch.zeros_like(x)
        unit[1, 0, -1, 0] = 1
        response = literal.upfirdn2d(unit.numpy(), f.double().numpy(), **geometry).sum()
        assert dx[1, 0, -1, 0].item() == pytest.approx(response, rel=1e-12)


@backends
@pytest.mark.parametrize("f", (FIR4, FIR3X5), ids=("separable", "not separable"))
def test_filtered_lrelu(backend, f):
    """Images that the bias cancels, so that the leaky ReLU gets exact zeros, and a clamp that is met exactly."""
    b, taps = torch.tensor([-5.0, 10.0], dtype=torch.float64), f.double().numpy()
    geometry = {"up": 2, "down": 2, "padding": (3, 4, 5, 2)}
    for x in images().values():
        leaf = x.clone().requires_grad_()
        with hk.use_backend(backend):
            y = hk.filtered_lrelu(leaf, f, f, b, **geometry, clamp=3.0)
            (dx,) = torch.autograd.grad(y, leaf, torch.ones_like(y), create_graph=True)
        assert_same(y, literal.filtered_lrelu(x.numpy(), taps, taps, b.numpy(), **geometry, clamp=3.0))
        assert dx.isfinite().all()
    # A single tap up and down: the slope of the leaky ReLU itself, at zero and where the output equals the clamp.
    values = torch.tensor([-3.0, -1.5, -0.0, 0.0, 0.75, 1.5, 1.6, 3.0], dtype=torch.float64)
    leaf = values.expand(1, 1, 3, -1).clone().requires_grad_()
    for clamp in (None, 1.5, 0.0):
        with hk.use_backend(backend):
            y = hk.filtered_lrelu(leaf, gain=1.0, slope=0.5, clamp=clamp)
            (dx,) = torch.autograd.grad(y.sum(), leaf)
        assert_same(dx, literal.slope(leaf.detach().numpy(), "lrelu", 0.5, 1.0, clamp))


@backends
@pytest.mark.parametrize("options", ({"up": 2}, {"down": 2}, {}), ids=("up", "down", "same"))
def test_modulated_conv2d(backend, options):
    weight = torch.arange(2 * 2 * 9, dtype=torch.float64).reshape(2, 2, 3, 3) - 17
    f = FIR4 if options else None
    for styles in (torch.ones(2, 2), torch.tensor([[0.0, 0.0], [1e6, -1e-6]])):
        for x in images().values():
            tensors = [t.double().clone().requires_grad_() for t in (x, weight, styles)]
            arguments = {"padding": 1, "resample_filter": f, **options}
            with hk.use_backend(backend):
                y = hk.modulated_conv2d(*tensors, **arguments, act="lrelu")
                first = torch.autograd.grad(y.sum(), tensors, create_graph=True)
                second = torch.autograd.grad(sum(g.square().sum() * 1e-60 for g in first), tensors)
            filters = None if f is None else f.double().numpy()
            padding = {"padding": (1, 1, 1, 1), **options}
            arrays = [t.detach().numpy() for t in tensors]
            assert_same(y, literal.modulated_conv2d(*arrays, None, filters, True, None, "lrelu", None, **padding))
            assert all(g.isfinite().all() for g in (*first, *second))


@backends
def test_feature_projection_loss(backend):
    """Hidden values that are exactly 0, where the ReLU has its kink, and constant maps."""
    w1, b1 = torch.tensor([[1.0, 0.5], [-1.0, 1.0], [0.0, 0.0]]).double(), torch.tensor([0.0, 0.0, 0.0]).double()
    w2, b2 = torch.tensor([[1.0, -2.0, 3.0]]).double(), torch.tensor([0.25]).double()
    for name, x in images((4, 4)).items():
        if name == "huge":
            continue
        target = torch.ones(2, 1, 3, 3).double()
        leaf = x.clone().requires_grad_()
        with hk.use_backend(backend):
            loss = hk.feature_projection_loss([leaf], [target], [(w1, b1, w2, b2)])
            (dx,) = torch.autograd.grad(loss.sum(), leaf)
        arrays = [t.numpy() for t in (x, target, w1, b1, w2, b2)]
        assert_same(loss, np.array([literal.feature_projection_loss(*arrays, 2**0.5)]))
        if name in ("zeros", "constant"):
            # A derivative of 0 at the kink: channels of zeros pass nothing back.
            hidden = np.einsum("kc,nchw->nkhw", arrays[2], arrays[0])
            passed = np.einsum("kc,nkhw->nchw", np.abs(arrays[2]), hidden > 0)
            assert (dx.numpy()[passed == 0] == 0).all()


def warps(h: int, w: int) -> dict[str, torch.Tensor]:
    """Grids [2, h, w, 2] in float64 by where they point."""
    # Exact in binary where h and w are powers of 2, unlike what affine_grid makes.
    x, y = ((2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1 for n in (w, h))
    identity = torch.stack(torch.broadcast_tensors(x, y[:, None]), dim=-1).expand(2, -1, -1, -1)
    pixel = torch.tensor([2 / w, 2 / h], dtype=torch.float64)
    return {
        "pixel centres": identity,
        "pixel corners": identity + pixel / 2,
        "one pixel outside": identity - pixel,
        "between": identity * 0.77 + 0.03,
        "centre": torch.zeros_like(identity),
        "edges": identity.sign() * (identity.abs() > 0.5),
        "far outside": identity * 1e30,
    }


@backends
def test_grid_sample(backend):
    """Value, first derivatives and a second one, on widths whose centres float64 holds exactly."""
    for x in images((4, 8)).values():
        for name, grid in warps(4, 8).items():
            leaf, positions = x.clone().requires_grad_(), grid.clone().requires_grad_()
            with hk.use_backend(backend):
                y = hk.grid_sample(leaf, positions)
                dx, dgrid = torch.autograd.grad(y, (leaf, positions), torch.ones_like(y), create_graph=True)
                (row,) = torch.autograd.grad(dgrid[..., 0].sum(), leaf)
            samples, slope_x, slope_y = literal.grid_sample(x.numpy(), grid.numpy())
            assert_same(y, samples)
            assert_same(dgrid, np.stack([slope_x.sum(1), slope_y.sum(1)], axis=-1), 8 * x.abs().max().item())
            # Samples and slopes are linear in the pixels, so the gradients with respect to pixels give them back.
            assert (dx * x).sum().item() == pytest.approx(samples.sum(), rel=1e-12, abs=1e-12)
            assert (row * x).sum().item() == pytest.approx(slope_x.sum(), rel=1e-12, abs=1e-9), name


@backends
def test_warps_of_a_ramp_have_its_slope(backend):
    """On a ramp there is no kink, so the slope is the ramp's on centres too, and brightness doesn't matter to it."""
    n = 8
    ramp = (3.0 * torch.arange(n, dtype=torch.float64) + 100).expand(1, 1, n, n).clone().requires_grad_()
    grid = warps(n, n)["pixel centres"][:1].clone().requires_grad_()
    with hk.use_backend(backend):
        (dgrid,) = torch.autograd.grad(hk.grid_sample(ramp, grid).sum(), grid, create_graph=True)
        inside = dgrid[0, :, 1:-1, 0]
        assert inside.eq(3.0 * n / 2).all()
        (d_ramp,) = torch.autograd.grad(inside.square().sum(), ramp)
        assert d_ramp.sum().abs() < 1e-9
