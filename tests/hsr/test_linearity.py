# SPDX-License-Identifier: Apache-2.0
"""Measures of the latent space's linearity against cases with a known answer."""

import math

import numpy as np
import pytest
import torch

from hsr.metrics import frame_sigma, linear_r2, linear_separability, linearity


class TestLinearity:
    def test_of_linear_attributes_is_zero(self):
        t = torch.linspace(0, 1, 11)[None, :, None]
        start, slope = torch.randn(20, 1, 3), torch.randn(20, 1, 3)
        result = linearity(start + slope * t)
        assert result.deviations.shape == (11, 3) and result.deviations.max() < 1e-6
        assert result.mean.value == pytest.approx(0, abs=1e-6) and result.squared_sum == pytest.approx(0, abs=1e-9)
        torch.testing.assert_close(result.ranges, slope.double().abs().mean(dim=[0, 1]) / result.sigma)

    def test_of_a_quadratic_attribute(self):
        """The chord of c t^2 from 0 to 1 lies c t (1 - t) above it; c is 1 or 3, so the mean is 2 t (1 - t)."""
        t = torch.linspace(0, 1, 11, dtype=torch.float64)
        c = torch.tensor([1.0, 3.0], dtype=torch.float64)
        scores = c[:, None, None] * t[None, :, None].square() + torch.tensor([0.0, 7.0], dtype=torch.float64)
        result = linearity(scores, torch.tensor([2.0, 0.5]))
        expected = 2 * (t * (1 - t))[:, None] / torch.tensor([2.0, 0.5], dtype=torch.float64)
        torch.testing.assert_close(result.deviations, expected)
        assert result.mean.value == pytest.approx(expected[1:-1].mean().item())
        assert result.squared_sum == pytest.approx(expected.square().sum(dim=0).mean().item())
        assert result.ranges.tolist() == pytest.approx([1.0, 4.0])
        # Resamples of two sequences reach from both times the one to both times the other.
        assert (result.mean.low, result.mean.high) == pytest.approx((result.mean.value / 2, result.mean.value * 1.5))

    def test_sigma_is_own_or_shared(self):
        """A model whose scores all shrink is as linear in its own sigmas, and more so in those of both models."""
        rng = torch.Generator().manual_seed(0)
        wide = torch.randn(30, 5, 2, generator=rng, dtype=torch.float64)
        narrow = wide / 4
        own = [linearity(scores) for scores in (wide, narrow)]
        assert own[0].mean.value == pytest.approx(own[1].mean.value)
        shared = frame_sigma([wide, narrow])
        pooled = np.std(np.concatenate([wide.numpy().reshape(-1, 2), narrow.numpy().reshape(-1, 2)]), axis=0)
        assert shared.tolist() == pytest.approx(pooled.tolist())
        scored = [linearity(scores, shared) for scores in (wide, narrow)]
        assert scored[0].mean.value == pytest.approx(4 * scored[1].mean.value)

    def test_an_edit_that_does_nothing_has_no_range(self):
        result = linearity(torch.randn(10, 1, 2).expand(-1, 6, -1))
        assert result.ranges.tolist() == [0, 0] and result.mean.value == pytest.approx(0, abs=1e-12)

    def test_an_attribute_that_never_varies_counts_as_linear(self):
        result = linearity(torch.ones(4, 11, 2))
        assert (result.mean.value, result.squared_sum, result.ranges.tolist()) == (0, 0, [0, 0])

    def test_errors(self):
        with pytest.raises(ValueError, match=r"T >= 3 and A >= 1, got \(4, 2, 1\)"):
            linearity(torch.randn(4, 2, 1))
        with pytest.raises(ValueError, match=r"sigma must be \[1\], got \(2,\)"):
            linearity(torch.randn(4, 5, 1), torch.ones(2))
        with pytest.raises(ValueError, match="same attributes"):
            frame_sigma([torch.randn(4, 5, 1), torch.randn(4, 5, 2)])
        with pytest.raises(ValueError, match="finite"):
            linearity(torch.full((4, 5, 1), torch.nan))


class TestSeparability:
    def test_of_a_hyperplane_is_one(self):
        latents = torch.randn(2000, 6, generator=torch.Generator().manual_seed(0))
        found = linear_separability(latents, latents @ torch.tensor([[3.0, 0, 1, 0, 0, 0.5]]).T)
        assert found.value == pytest.approx(1, abs=0.02)

    def test_of_what_the_code_does_not_tell_is_that_of_its_entropy(self):
        rng = torch.Generator().manual_seed(0)
        latents, logits = torch.randn(20_000, 4, generator=rng), torch.randn(20_000, 2, generator=rng) + 0.5
        found = linear_separability(latents, logits)
        shares = found.shares.double()
        entropies = -(shares * shares.log() + (1 - shares) * (1 - shares).log())
        assert found.value == pytest.approx(entropies.sum().exp().item(), rel=0.01)

    def test_attributes_that_all_or_none_have_tell_nothing(self):
        found = linear_separability(torch.randn(50, 3), torch.tensor([[1.0, -1.0]]).expand(50, 2))
        assert (found.value, found.shares.tolist()) == (1, [1, 0])


def test_r2_of_linear_maps_and_of_noise():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=rng)
    # A coordinate that repeats another one leaves more than one solution.
    x = torch.cat([x, x[:, :1]], dim=1)
    exact = x @ torch.randn(6, 3, generator=rng) + 2
    noise = torch.randn(400, 3, generator=rng)
    parts = slice(0, 300), slice(300, None)
    for y, expected, tolerance in ((exact, 1.0, 1e-6), (noise, 0.0, 0.1), (exact + noise, 5 / 6, 0.1)):
        value = linear_r2(x[parts[0]], y[parts[0]], x[parts[1]], y[parts[1]])
        assert value == pytest.approx(expected, abs=tolerance)
    assert math.isnan(linear_r2(x, torch.ones(400, 1), x, torch.ones(400, 1)))
