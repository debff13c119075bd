# SPDX-License-Identifier: Apache-2.0
"""The references against independent, literal definitions (tests/ops/literal.py) and PyTorch's own operators."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import hsr_kernels as hk
from tests.cases import FIR3X5, FIR4, FIR12, ODD7_SEPARABLE
from tests.ops import literal

FILTERS = {"none": None, "4x4": FIR4, "12 taps": FIR12, "3x5": FIR3X5, "7 taps": ODD7_SEPARABLE}
filters = pytest.mark.parametrize("f", FILTERS.values(), ids=FILTERS.keys())


@pytest.fixture(autouse=True)
def _reference():
    with hk.use_backend("reference"):
        yield


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


def array(t: torch.Tensor | None) -> np.ndarray | None:
    return None if t is None else t.double().numpy()


def assert_same(actual: torch.Tensor, expected: np.ndarray | torch.Tensor, rtol: float = 1e-12) -> None:
    actual, expected = actual.detach(), torch.as_tensor(expected).detach()
    assert actual.shape == expected.shape
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=rtol * max(scale, 1.0))


@pytest.mark.parametrize("act", literal.PARAMETERS)
def test_bias_act(act):
    x, b = 2 * normal(3, 4, 5, 2), normal(4)
    pre = array(x + b[:, None, None])
    assert_same(hk.bias_act(x, b, act=act), literal.activation(pre, act))
    for options in (
        {"alpha": 0.37},
        {"gain": -1.3},
        {"clamp": 0.6},
        {"alpha": 0.1, "gain": 0.5, "clamp": 0.4},
    ):
        assert_same(hk.bias_act(x, b, act=act, **options), literal.activation(pre, act, **options))


@pytest.mark.parametrize("dim", (0, 1, 2, -1))
def test_bias_runs_along_dim(dim):
    x = normal(3, 4, 5)
    b = normal(x.shape[dim])
    shape = [1, 1, 1]
    shape[dim] = -1
    assert_same(hk.bias_act(x, b, dim=dim), x + b.reshape(shape))


@pytest.mark.parametrize("act", literal.PARAMETERS)
def test_clamp_masks_the_gradient(act):
    x = torch.linspace(-4, 4, 41, dtype=torch.float64).requires_grad_()
    y = hk.bias_act(x, act=act, gain=1.7, clamp=0.5)
    (dx,) = torch.autograd.grad(y.sum(), x)
    free = hk.bias_act(x, act=act, gain=1.7)
    (unmasked,) = torch.autograd.grad(free.sum(), x)
    assert (free.abs() > 0.5).any()
    assert_same(dx, torch.where(free.abs() > 0.5, 0.0, unmasked))


@filters
@pytest.mark.parametrize(
    "up, down, padding",
    [
        ((1, 1), (1, 1), (6, 5, 6, 6)),
        ((2, 2), (1, 1), (6, 5, 5, 6)),
        ((1, 1), (2, 2), (6, 6, 7, 4)),
        ((3, 2), (2, 3), (9, 2, 4, 8)),
        ((2, 1), (1, 2), (-1, 6, 9, -2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("flip_filter", (False, True))
def test_upfirdn2d(f, up, down, padding, flip_filter):
    x = normal(1, 2, 6, 7)
    actual = hk.upfirdn2d(x, f, up, down, padding, flip_filter, gain=1.3)
    assert_same(actual, literal.upfirdn2d(array(x), array(f), up, down, padding, flip_filter, 1.3))


def test_upfirdn2d_takes_ints_and_pairs():
    x = normal(1, 2, 6, 7)
    full = hk.upfirdn2d(x, FIR4, (2, 2), (3, 3), (3, 3, 3, 3))
    assert_same(hk.upfirdn2d(x, FIR4, 2, 3, 3), full)
    # A pair is (x, y), not (before, after).
    assert_same(hk.upfirdn2d(x, FIR4, padding=(1, 3)), hk.upfirdn2d(x, FIR4, padding=(1, 1, 3, 3)))


@filters
def test_filter2d_is_centred(f):
    """`fw // 2` pixels are added before: the output pixel sees the convolution centred on itself."""
    x = normal(1, 2, 6, 7)
    fh, fw = (1, 1) if f is None else (f.shape[0], f.shape[-1])
    expected = literal.upfirdn2d(array(x), array(f), padding=(fw // 2, (fw - 1) // 2, fh // 2, (fh - 1) // 2), gain=0.7)
    assert_same(hk.filter2d(x, f, gain=0.7), expected)
    assert hk.filter2d(x, f).shape == x.shape


@filters
@pytest.mark.parametrize("up", (2, (3, 2)), ids=str)
def test_upsample2d_is_centred_and_keeps_brightness(f, up):
    x = normal(1, 2, 4, 5)
    upx, upy = up if isinstance(up, tuple) else (up, up)
    fh, fw = (1, 1) if f is None else (f.shape[0], f.shape[-1])
    padding = ((fw + upx - 1) // 2 + 1, (fw - upx) // 2 + 2, (fh + upy - 1) // 2 + 3, (fh - upy) // 2 + 4)
    expected = literal.upfirdn2d(array(x), array(f), (upx, upy), padding=padding, gain=0.7 * upx * upy)
    assert_same(hk.upsample2d(x, f, up, padding=(1, 2, 3, 4), gain=0.7), expected)


@filters
@pytest.mark.parametrize("down", (2, (3, 2)), ids=str)
def test_downsample2d_is_centred(f, down):
    x = normal(1, 2, 9, 8)
    downx, downy = down if isinstance(down, tuple) else (down, down)
    fh, fw = (1, 1) if f is None else (f.shape[0], f.shape[-1])
    padding = ((fw - downx + 1) // 2, (fw - downx) // 2, (fh - downy + 1) // 2, (fh - downy) // 2)
    padding = tuple(p + extra for p, extra in zip(padding, (1, 2, 3, 4), strict=True))
    expected = literal.upfirdn2d(array(x), array(f), down=(downx, downy), padding=padding, gain=0.7)
    assert_same(hk.downsample2d(x, f, down, padding=(1, 2, 3, 4), gain=0.7), expected)


@filters
@pytest.mark.parametrize(
    "up, down, padding",
    [(2, 2, (9, 8, 9, 8)), (4, 2, (6, 7, 5, 8)), (1, 3, (6, 5, 7, 4)), (3, 1, (-1, 9, 8, -2))],
    ids=str,
)
@pytest.mark.parametrize("flip_filter", (False, True))
def test_filtered_lrelu(f, up, down, padding, flip_filter):
    x, b, fd = normal(1, 2, 6, 7), normal(2), FIR3X5
    actual = hk.filtered_lrelu(x, f, fd, b, up, down, padding, 1.3, 0.1, 0.8, flip_filter)
    expected = literal.filtered_lrelu(
        array(x), array(f), array(fd), array(b), up, down, padding, 1.3, 0.1, 0.8, flip_filter
    )
    assert_same(actual, expected)
    assert_same(
        hk.filtered_lrelu(x, f, b=b, up=up, padding=12),
        literal.filtered_lrelu(array(x), array(f), None, array(b), up, padding=(12, 12, 12, 12)),
    )


def test_resampling_keeps_a_constant_image():
    x = torch.full((1, 1, 16, 16), 3.0, dtype=torch.float64)
    for f in (FIR4, FIR12):
        up, down = hk.upsample2d(x, f), hk.downsample2d(x, f)
        assert up.shape[2:] == (32, 32) and down.shape[2:] == (8, 8)
        assert_same(up[:, :, 14:18, 14:18], torch.full((1, 1, 4, 4), 3.0, dtype=torch.float64), rtol=1e-6)
        assert_same(down[:, :, 4:5, 4:5], torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64), rtol=1e-6)


def test_resampling_keeps_the_centre_of_mass():
    """With an even filter, doubling and halving don't shift the image."""
    x = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    x[0, 0, 7, 8] = 1

    def centre(image: torch.Tensor) -> tuple[float, float]:
        positions = (torch.arange(image.shape[2], dtype=torch.float64) + 0.5) / image.shape[2]
        mass = image[0, 0] / image.sum()
        return float((mass.sum(1) * positions).sum()), float((mass.sum(0) * positions).sum())

    for f in (FIR4, FIR12):
        assert centre(hk.upsample2d(x, f)) == pytest.approx(centre(x), abs=1e-6)
    smooth = hk.filter2d(hk.filter2d(x, ODD7_SEPARABLE.abs()), ODD7_SEPARABLE.abs().flip(0))
    assert centre(hk.downsample2d(smooth, FIR12)) == pytest.approx(centre(smooth), abs=0.01)


@pytest.mark.parametrize(
    "taps, shape",
    [
        (3.0, (1, 1)),
        ([1, 2], (2, 2)),
        ([1] * 7, (7, 7)),
        ([1] * 8, (8,)),
        (np.ones((2, 5)), (2, 5)),
        (None, (1, 1)),
    ],
    ids=str,
)
def test_setup_filter_shapes(taps, shape):
    f = hk.setup_filter(taps)
    assert f.shape == shape and f.dtype == torch.float32 and f.device.type == "cpu"
    assert float(f.sum()) == pytest.approx(1, abs=1e-6)


def test_setup_filter_normalizes_flips_and_scales():
    taps = torch.tensor([1.0, 2.0, 5.0])
    assert_same(hk.setup_filter(taps, normalize=False), torch.outer(taps, taps))
    assert_same(hk.setup_filter(taps), torch.outer(taps, taps) / 64, rtol=1e-7)
    assert_same(hk.setup_filter(taps, separable=True), taps / 8)
    assert_same(hk.setup_filter(taps, separable=True, flip_filter=True), taps.flip(0) / 8)
    assert_same(hk.setup_filter(taps, flip_filter=True, normalize=False), torch.outer(taps, taps).flip([0, 1]))
    # The taps are scaled by gain^(axes / 2).
    assert_same(hk.setup_filter(taps, gain=4), torch.outer(taps, taps) / 16, rtol=1e-7)
    assert_same(hk.setup_filter(taps, gain=4, separable=True), taps / 4)
    assert_same(hk.setup_filter([1.0] * 9, separable=False), torch.full((9, 9), 1 / 81), rtol=1e-7)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": (1, 1, 1, 1)},
        {"up": 2, "padding": (1, 1, 1, 1)},
        {"down": 2, "padding": (1, 1, 1, 1)},
        {"up": 2, "down": 2, "padding": (1, 2, 0, 1)},
        {"up": 3, "down": 2, "padding": (1, 2, 0, 1), "flip_filter": True},
        {"up": 3, "padding": (2, -1, 1, 0), "flip_filter": True},
        {"down": 3, "padding": (0, 2, -1, 1), "flip_filter": True},
        {"padding": (2, 0, -1, 1), "flip_weight": False},
        {"up": 2, "padding": (1, 1, 1, 1), "flip_weight": False, "groups": 2},
        {"down": 2, "padding": (1, 1, 1, 1), "flip_weight": False, "groups": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel", ((1, 1), (3, 3), (2, 4)), ids=str)
@pytest.mark.parametrize("f", (None, FIR4, FIR3X5), ids=("no filter", "4x4", "3x5"))
def test_conv2d_resample(options, kernel, f):
    """The fast orders of work against upsample, convolve, downsample."""
    x, w = normal(1, 4, 7, 6), normal(4, 4 // options.get("groups", 1), *kernel)
    expected = literal.conv2d_resample(array(x), array(w), array(f), **options)
    assert_same(hk.conv2d_resample(x, w, f, **options), expected)


@pytest.mark.parametrize("demodulate", (False, True))
@pytest.mark.parametrize("noise_shape", (None, (), (1, 1, 6, 8), (2, 1, 6, 8)), ids=str)
@pytest.mark.parametrize("resample", ({"up": 2}, {"down": 2}, {"flip_weight": False}, {}), ids=str)
def test_modulated_conv2d(demodulate, noise_shape, resample):
    size = (
        6 // resample.get("up", 1) * resample.get("down", 1),
        8 // resample.get("up", 1) * resample.get("down", 1),
    )
    x, weight, styles, bias = normal(2, 3, *size), normal(4, 3, 3, 3), normal(2, 3), normal(4)
    noise = None if noise_shape is None else normal(*noise_shape)
    expected = literal.modulated_conv2d(
        array(x), array(weight), array(styles), array(noise), array(FIR4), demodulate, array(bias), "lrelu", 1.1,
        padding=(1, 1, 1, 1), **resample,
    )  # fmt: skip
    actual = hk.modulated_conv2d(
        x, weight, styles, noise, padding=1, resample_filter=FIR4, demodulate=demodulate, bias=bias, act="lrelu",
        clamp=1.1, **resample,
    )  # fmt: skip
    assert_same(actual, expected)


def test_modulated_conv2d_in_float16_does_not_overflow():
    """Weight and styles are scaled first, which demodulation cancels."""
    x = torch.randn(2, 8, 6, 6).half()
    weight, styles = 200 * torch.randn(4, 8, 3, 3), 300 * torch.randn(2, 8)
    expected = hk.modulated_conv2d(x.double(), weight.double(), styles.double(), padding=1)
    actual = hk.modulated_conv2d(x, weight.half(), styles.half(), padding=1)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=0.02)


def test_grid_sample():
    image = normal(2, 3, 5, 7).requires_grad_()
    grid = (0.7 * normal(2, 4, 6, 2)).requires_grad_()
    theirs = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    ours = hk.grid_sample(image, grid)
    assert_same(ours, theirs)
    v = normal(*ours.shape)
    for a, b in zip(*(torch.autograd.grad(y, (image, grid), v) for y in (ours, theirs)), strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("size", (1, 3, 5, 7, 11))
@pytest.mark.parametrize("shape", ((5, 5), (8, 6), (1, 1), (3, 10)), ids=str)
def test_feature_projection_loss(shape, size):
    """Resizing is adaptive average pooling, after both layers, whether it shrinks or grows."""
    x, target = normal(2, 3, *shape), normal(2, 4, size, size)
    head = (normal(6, 3), normal(6), normal(4, 6), normal(4))
    (loss,) = hk.feature_projection_loss([x], [target], [head], hidden_gain=1.4)
    expected = literal.feature_projection_loss(*(array(t) for t in (x, target, *head)), 1.4)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_feature_projection_loss_is_one_number_per_scale():
    scales = [
        (normal(2, c, r, r), normal(2, 4, 3, 3), (normal(6, c), normal(6), normal(4, 6), normal(4)))
        for c, r in ((3, 2), (2, 5))
    ]
    features, targets, heads = zip(*scales, strict=True)
    losses = hk.feature_projection_loss(features, targets, heads)
    assert losses.shape == (2,)
    for loss, (x, target, head) in zip(losses, scales, strict=True):
        assert float(loss) == pytest.approx(
            literal.feature_projection_loss(*(array(t) for t in (x, target, *head)), 2**0.5), rel=1e-12
        )


def test_feature_projection_loss_treats_targets_as_constants():
    x, target = normal(1, 3, 4, 4).requires_grad_(), normal(1, 4, 3, 3).requires_grad_()
    hk.feature_projection_loss([x], [target], [(normal(6, 3), normal(6), normal(4, 6), normal(4))]).sum().backward()
    assert x.grad is not None and target.grad is None
