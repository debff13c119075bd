# SPDX-License-Identifier: Apache-2.0
"""Augmentation against its formulas spelled out, and its random numbers against their distributions."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import hsr_kernels
from hsr.augment import PIPES, AugmentPipe, pipe_strengths
from hsr.augment.bands import draw_gains
from hsr.augment.colour import draw_colour_map
from hsr.augment.draws import Draws
from hsr.augment.geometry import draw_lookup
from hsr.augment.strengths import TRANSFORMS, Strengths
from tests.native import requires_native

from . import literal_augment

# Images whose distributions are looked at.
SAMPLES = 20_000
P = 0.6
EVERYTHING = dict.fromkeys((name for name in TRANSFORMS if name != "noise"), 1.0)
COMBINATIONS = [
    *({name: 1.0} for name in EVERYTHING),
    *({"imgfilter": 1.0, "imgfilter_bands": [float(i == band) for i in range(4)]} for band in range(4)),
    {"rotate": 1.0, "rotate_max": 0.3, "scale": 1.0, "scale_std": 0.5, "xfrac": 1.0, "xfrac_std": 0.3},
    {"aniso": 1.0, "aniso_std": 0.7, "xint": 1.0, "xint_max": 0.4, "hue": 1.0, "hue_max": 0.2, "cutout": 1.0,
     "cutout_size": 0.2},
    {"brightness": 1.0, "brightness_std": 0.5, "contrast": 1.0, "contrast_std": 0.1, "saturation": 1.0,
     "saturation_std": 0.3, "imgfilter": 1.0, "imgfilter_bands": [1, 0, 2, 0.5], "imgfilter_std": 0.4},
    EVERYTHING,
]  # fmt: skip


@pytest.mark.parametrize("strengths", COMBINATIONS, ids=lambda strengths: "+".join(strengths)[:60])
def test_values_and_gradients_are_those_of_the_formulas(strengths: dict) -> None:
    rng = np.random.default_rng(0)
    size = (22, 27) if "imgfilter" in strengths else (9, 14)
    for q, channels, dtype in ((0.2, 3, torch.float64), (0.8, 3, torch.float32), (0.5, 1, torch.float64)):
        x, cotangent, direction = rng.normal(size=(3, 2, channels, *size))
        expected = literal_augment.augment(x, q, strengths)
        moved = literal_augment.augment(x + direction, q, strengths)
        images = torch.tensor(x, dtype=dtype, requires_grad=True)
        y = AugmentPipe(**strengths)(images, percentile=q)
        (gradient,) = torch.autograd.grad(y, images, torch.tensor(cotangent, dtype=dtype))
        tolerance = 1e-12 if dtype == torch.float64 else 5e-5
        np.testing.assert_allclose(y.detach(), expected, rtol=0, atol=tolerance)
        # The transforms are affine, so this is no finite difference.
        slope, expected_slope = (gradient.numpy() * direction).sum(), (cotangent * (moved - expected)).sum()
        assert slope == pytest.approx(expected_slope, abs=20 * tolerance)


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=requires_native)])
def test_second_derivatives(backend: str) -> None:
    """As R1 takes them: of a function of the gradient at the images before the pipe."""
    pipe = AugmentPipe(**EVERYTHING)
    x = torch.randn(2, 3, 22, 23, dtype=torch.float64, requires_grad=True)
    with hsr_kernels.use_backend(backend):
        assert torch.autograd.gradcheck(lambda x: pipe(x, percentile=0.7), x, fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda x: pipe(x, percentile=0.7).sin(), x, fast_mode=True)


def draws(p: float = P) -> Draws:
    torch.manual_seed(0)
    return Draws(SAMPLES, torch.tensor(p), None)


def lookup(p: float = P, **strengths: float) -> Tensor:
    """Maps of input to output coordinates, in images of 400 x 800 pixels."""
    return draw_lookup(Strengths.from_keywords(strengths), draws(p), 400, 800).inverse()


def assert_share(mask: Tensor, expected: float) -> None:
    """Fails with a probability of one in ten million where the share of a random event is the expected one."""
    error = 5.3 * math.sqrt(max(expected * (1 - expected), 1e-9) / mask.numel())
    assert abs(mask.double().mean().item() - expected) < error, (mask.double().mean().item(), expected)


def assert_normal(values: Tensor, std: float) -> None:
    """The values other than 0 are normal, and happen with the probability P."""
    drawn = values[values.abs() > 1e-12]
    assert_share(values.abs() > 1e-12, P)
    assert drawn.std().item() == pytest.approx(std, rel=0.04)
    assert drawn.mean().item() == pytest.approx(0, abs=0.04 * std)
    assert_share(drawn.abs() < std, 0.6827)


def assert_uniform(values: Tensor, low: float, high: float) -> None:
    for share in (0.1, 0.5, 0.9):
        assert_share(values < low + share * (high - low), share)
    assert low <= values.min() and values.max() <= high


class TestDistributions:
    def test_flips_and_quarter_turns(self):
        assert_share(lookup(xflip=1)[:, 0, 0] < 0, P / 2)
        assert_share(lookup(xflip=0.5)[:, 0, 0] < 0, P / 4)
        quarters = torch.atan2(lookup(rotate90=1)[:, 0, 1], lookup(rotate90=1)[:, 0, 0]) / (math.pi / 2)
        for turn in (1, -1):
            assert_share((quarters - turn).abs() < 1e-9, P / 4)
        assert_share((quarters.abs() - 2).abs() < 1e-9, P / 4)
        _, offset = draw_colour_map(Strengths(lumaflip=1), draws())
        linear, _ = draw_colour_map(Strengths(lumaflip=1), draws())
        assert_share(linear.sum(dim=(1, 2)) < 0, P / 2)
        assert not offset.any()

    def test_shifts_have_one_gate_for_both_axes(self):
        for strengths in ({"xint": 1}, {"xfrac": 1}):
            moved = lookup(**strengths)[:, :2, 2].abs() > 1e-9
            # A shift is drawn as exactly 0 pixels once in a hundred times.
            assert_share(moved.any(dim=1), P if "xfrac" in strengths else P * (1 - 1 / 201 / 101))
            assert (moved[:, 0] != moved[:, 1]).double().mean() < 0.02
        x, y = lookup(xint=1)[:, :2, 2].T
        assert x.equal(x.round()) and x.abs().max() == 100 and y.abs().max() == 50
        assert_uniform(x[x != 0], -100.5, 100.5)
        assert abs(torch.corrcoef(torch.stack([x, y]))[0, 1]) < 0.05
        x, y = lookup(xfrac=1)[:, :2, 2].T
        assert_normal(x, 0.125 * 800)
        assert_normal(y, 0.125 * 400)

    def test_scales(self):
        assert_normal(lookup(scale=1)[:, 0, 0].log2(), 0.2)
        assert_normal(lookup(aniso=1, aniso_std=0.5)[:, 0, 0].log2(), 0.5)
        matrix = lookup(aniso=1)
        torch.testing.assert_close(matrix[:, 0, 0] * matrix[:, 1, 1], torch.ones(SAMPLES, dtype=torch.float64))

    @pytest.mark.parametrize(("strength", "p"), [(1, P), (0.5, P), (1, 1.0), (3, P)])
    def test_one_of_two_rotations_happens_with_the_probability_of_rotate(self, strength, p):
        probability = min(strength * p, 1)
        matrix = lookup(p, rotate=strength, rotate_max=0.1)
        angle = torch.atan2(matrix[:, 0, 1], matrix[:, 0, 0])
        assert_share(angle.abs() > 1e-9, probability)
        # A larger angle than either is allowed takes both, which add up to more than the limit one time in four.
        both = (1 - math.sqrt(1 - probability)) ** 2
        assert_share(angle.abs() > 0.1 * math.pi, both / 4)
        assert angle.abs().max() < 0.2 * math.pi

    def test_colours(self):
        _, offset = draw_colour_map(Strengths(brightness=1), draws())
        assert_normal(offset[:, 0], 0.2)
        linear, _ = draw_colour_map(Strengths(contrast=1), draws())
        assert_normal(linear[:, 0, 0].log2(), 0.5)
        linear, _ = draw_colour_map(Strengths(saturation=1), draws())
        assert_normal((linear[:, 0, 0] - linear[:, 0, 1]).log2(), 1.0)
        linear, _ = draw_colour_map(Strengths(hue=1), draws())
        angle = torch.atan2((linear[:, 1, 0] - linear[:, 0, 1]) * math.sqrt(3), 3 * linear[:, 0, 0] - 1)
        assert_share(angle.abs() > 1e-9, P)
        assert_uniform(angle[angle.abs() > 1e-9], -math.pi, math.pi)

    def test_bands_have_gates_of_their_own(self):
        gains = draw_gains(Strengths(imgfilter=1, imgfilter_bands=(0, 1, 0.5, 0)), draws()).log2()
        assert_share((gains[:, 1] - gains[:, 0]).abs() > 1e-9, P)
        assert_share((gains[:, 2] - gains[:, 0]).abs() > 1e-9, P / 2)
        assert_share((gains[:, 3] - gains[:, 0]).abs() > 1e-9, 0)
        assert_share(gains.abs().amax(dim=1) > 1e-9, 1 - (1 - P) * (1 - P / 2))
        assert_normal(gains[:, 1] - gains[:, 0], 1.0)

    def test_noise(self):
        pipe = AugmentPipe(noise=1)
        pipe.p.fill_(P)
        torch.manual_seed(0)
        noise = pipe(torch.zeros(SAMPLES // 10, 3, 16, 16))
        sigma = noise.std(dim=(1, 2, 3))
        assert_share(sigma > 0, P)
        assert sigma[sigma > 0].square().mean().sqrt().item() == pytest.approx(0.1, rel=0.1)
        assert_share(sigma[sigma > 0] < 0.1, 0.6827)
        # One sigma an image, and no two pixels or channels alike.
        normalised = (noise / sigma[:, None, None, None])[sigma > 0].double()
        assert normalised.std(dim=(2, 3)).std() < 0.1
        for other in (normalised.roll(1, 1), normalised.roll(1, 2), normalised.roll(1, 3), normalised.roll(1, 0)):
            assert abs((normalised * other).mean()) < 0.01
        # At a percentile sigma is what erfinv says, and the noise is still random.
        fixed = [pipe(torch.zeros(4, 3, 64, 64), percentile=0.8) for _ in range(2)]
        assert not fixed[0].equal(fixed[1])
        assert fixed[0].std().item() == pytest.approx(0.0906194, rel=0.03)

    def test_cutout(self):
        pipe = AugmentPipe(cutout=1, cutout_size=0.5)
        pipe.p.fill_(P)
        torch.manual_seed(0)
        boxes = pipe(torch.ones(SAMPLES // 4, 3, 32, 16)) == 0
        assert boxes.all(dim=1).equal(boxes.any(dim=1))
        boxes = boxes[:, 0]
        assert_share(boxes.any(dim=(1, 2)), P)
        assert boxes.sum(dim=1).amax() <= 16 and boxes.sum(dim=2).amax() <= 8
        drawn = boxes[boxes.any(dim=(1, 2))]
        for centre in ((8, 16), (15, 31)):
            # The centre lies within a quarter of the pixel on either side, as far as the image reaches.
            share = math.prod(
                (min((c + 0.5) / n + 0.25, 1) - ((c + 0.5) / n - 0.25)) for c, n in zip(centre, (16, 32), strict=True)
            )
            assert_share(drawn[:, centre[1], centre[0]], share)


def test_every_image_and_call_draws_anew() -> None:
    pipe = AugmentPipe(**EVERYTHING, noise=1)
    x = torch.randn(1, 3, 24, 24).expand(6, -1, -1, -1)
    torch.manual_seed(0)
    first, second = pipe(x), pipe(x)
    images = [*first, *second]
    assert all(not images[i].allclose(images[j], atol=1e-3) for i in range(12) for j in range(i))
    torch.manual_seed(0)
    assert pipe(x).equal(first)


def test_p_is_a_buffer_that_changes_in_place() -> None:
    pipe = AugmentPipe(**EVERYTHING, noise=1)
    assert pipe.p.dtype == torch.float32 and pipe.p.shape == () and pipe.p == 1
    assert list(pipe.state_dict()) == ["p"] and not list(pipe.parameters())
    x = torch.randn(4, 3, 24, 26, requires_grad=True)
    pipe.p.zero_()
    # Nothing happens, but images are resampled all the same.
    y = pipe(x)
    assert 0 < (y - x).abs().max() < 5e-5
    pipe.load_state_dict({"p": torch.tensor(1.0)})
    assert (pipe(x) - x).abs().amax(dim=(1, 2, 3)).min() > 0.1
    assert pipe.p.grad is None and not pipe.p.requires_grad
    # A percentile opens gates whatever p is.
    results = []
    for p in (0.0, 0.3, 1.0):
        pipe.p.fill_(p)
        torch.manual_seed(0)
        results.append(pipe(x, percentile=0.7))
    assert results[0].equal(results[1]) and results[0].equal(results[2])


def test_no_transform_is_no_change() -> None:
    x = torch.randn(2, 5, 3, 4)
    assert AugmentPipe()(x).equal(x) and AugmentPipe(xflip=0, imgfilter=0)(x, percentile=0.9).equal(x)
    assert AugmentPipe(cutout=1)(x).shape == AugmentPipe(rotate=1, noise=1)(x).shape == x.shape


def test_every_dtype_layout_and_size() -> None:
    pipe = AugmentPipe(**EVERYTHING, noise=1)
    x = torch.randn(3, 3, 25, 22).half()
    results = []
    for images in (x, x.float(), x.contiguous(memory_format=torch.channels_last), x.bfloat16()):
        torch.manual_seed(0)
        results.append(pipe(images))
        assert results[-1].dtype == torch.float32
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(pipe(x), results[0])
    assert pipe(x[:0]).shape == (0, 3, 25, 22)
    small = AugmentPipe(**{name: 1 for name in EVERYTHING if name != "imgfilter"}, noise=1)
    for size in ((1, 1), (1, 7), (2, 1), (3, 64)):
        y = small(torch.randn(2, 1, *size))
        assert y.shape == (2, 1, *size) and y.isfinite().all()


@pytest.mark.parametrize(
    ("strengths", "error", "words"),
    [
        ({"xflop": 1}, TypeError, "no transform or parameter 'xflop': expected xflip, rotate90"),
        ({"xflip": -1}, ValueError, "xflip must be finite and at least 0, got -1"),
        ({"xflip": float("nan")}, ValueError, "xflip must be finite"),
        ({"scale_std": float("inf")}, ValueError, "scale_std must be finite"),
        ({"noise": "much"}, TypeError, "noise must be a number, got 'much'"),
        ({"hue": None}, TypeError, "hue must be a number, got None"),
        ({"imgfilter_bands": 1}, TypeError, "imgfilter_bands must be a sequence of 4 numbers, got 1"),
        ({"imgfilter_bands": [1, 1]}, ValueError, "imgfilter_bands must be a sequence of 4 numbers"),
        ({"imgfilter_bands": [1, 1, -1, 1]}, ValueError, r"imgfilter_bands\[2\] must be finite and at least 0, got -1"),
    ],
)
def test_wrong_strengths(strengths: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        AugmentPipe(**strengths)


def test_wrong_arguments() -> None:
    x = torch.zeros(2, 3, 16, 20)
    pipe = AugmentPipe(xflip=1)
    for images, error, words in (
        (None, TypeError, "images must be a torch.Tensor, got NoneType"),
        (x.byte(), TypeError, "images must be float32, .*, got torch.uint8"),
        (x[0], ValueError, r"images must be \[N, C, H, W\] .* got shape \[3, 16, 20\]"),
        (x[:, :, :0], ValueError, r"got shape \[2, 3, 0, 20\]"),
    ):
        with pytest.raises(error, match=words):
            pipe(images)
    for percentile, kind in ((0, ValueError), (1.0, ValueError), (float("nan"), ValueError), ("0.5", TypeError)):
        with pytest.raises(kind, match="percentile must"):
            pipe(x, percentile=percentile)
    with pytest.raises(ValueError, match=r"imgfilter needs images of at least 22 x 22 pixels, got 16 x 20"):
        AugmentPipe(imgfilter=1)(x)
    with pytest.raises(ValueError, match=r"1 or 3 channels for brightness, .* got shape \[2, 2, 16, 20\]"):
        AugmentPipe(hue=1)(x[:, :2])


def test_named_pipes() -> None:
    sizes = {name: len(transforms) for name, transforms in PIPES.items()}
    assert sizes == {
        "blit": 3, "geom": 4, "color": 5, "filter": 1, "noise": 1, "cutout": 1,
        "bg": 7, "bgc": 12, "bgcf": 13, "bgcfn": 14, "bgcfnc": 15,
    }  # fmt: skip
    assert pipe_strengths("blit") == {"xflip": 1, "rotate90": 1, "xint": 1}
    assert pipe_strengths("bgcfnc").keys() == set(TRANSFORMS)
    assert pipe_strengths("bgc").keys() - pipe_strengths("bgc, -xflip,-rotate90").keys() == {"xflip", "rotate90"}
    for text, words in (
        ("bcg", '"bcg" is no pipe: expected blit, geom'),
        ("", '"" is no pipe'),
        ("bgc,xflip", '"xflip" must be a transform to leave out, spelled like -xflip'),
        ("bg,-hue", '"bg" has no transform "hue" to leave out: it has xflip'),
        ("noise,-noise", '"noise,-noise" leaves out every transform'),
    ):
        with pytest.raises(ValueError, match=words):
            pipe_strengths(text)
