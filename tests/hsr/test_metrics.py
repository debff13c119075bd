# SPDX-License-Identifier: Apache-2.0
"""Distances between sets of features and path lengths, against cases with a known answer."""

import copy
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

import hsr.models.discriminator
import hsr.models.generator
from hsr.data import open_dataset
from hsr.metrics import (
    PATHS,
    end_distances,
    frechet_distance,
    kernel_distance,
    manifold_metrics,
    path_length_estimate,
    path_lengths,
    relative_path_length,
    trimmed_mean,
)
from hsr.models import Generator
from hsr.semantics import Encoder, LabelEncoder
from hsr.training.evaluation import Evaluator
from hsr_kernels._precision import convolutions_use_tf32


class TestFrechetDistance:
    def test_of_a_set_to_itself_is_zero(self):
        x = torch.randn(50, 8)
        assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-9)

    def test_of_a_translation_is_its_squared_length(self):
        x = torch.randn(50, 8, dtype=torch.float64)
        assert frechet_distance(x, x + 3) == pytest.approx(8 * 9)

    def test_in_one_dimension(self):
        a, b = torch.randn(40, 1, dtype=torch.float64), 5 + 3 * torch.randn(70, 1, dtype=torch.float64)
        expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
        assert frechet_distance(a, b) == pytest.approx(expected.item())

    # More features than samples leaves singular covariances.
    @pytest.mark.parametrize(("n", "m"), [(200, 100), (100, 12), (10, 12)])
    def test_agrees_with_the_matrix_root(self, n, m):
        a = torch.randn(n, 20, dtype=torch.float64) @ torch.randn(20, 20, dtype=torch.float64)
        b = 1 + torch.randn(m, 20, dtype=torch.float64)
        cov_a, cov_b = np.cov(a.T.numpy()), np.cov(b.T.numpy())
        root_a = scipy.linalg.sqrtm(cov_a + 1e-14 * np.eye(20)).real
        root = scipy.linalg.sqrtm(root_a @ cov_b @ root_a + 1e-14 * np.eye(20)).real
        mean = (a.mean(dim=0) - b.mean(dim=0)).square().sum().item()
        expected = mean + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root)
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)

    def test_agrees_with_torch_fidelity(self):
        a, b = torch.randn(300, 24), 0.5 + torch.randn(250, 24).square()
        statistics = [fid_features_to_statistics(x) for x in (a, b)]
        expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)

    def test_errors(self):
        with pytest.raises(ValueError, match=r"got \(3, 4\) and \(3, 5\)"):
            frechet_distance(torch.randn(3, 4), torch.randn(3, 5))
        with pytest.raises(ValueError, match="N, M >= 2"):
            frechet_distance(torch.randn(1, 4), torch.randn(3, 4))
        with pytest.raises(ValueError, match="finite"):
            frechet_distance(torch.full((3, 4), torch.nan), torch.randn(3, 4))


class TestKernelDistance:
    def test_of_gaussians_in_one_dimension(self):
        """The cubic kernel compares three moments: (1 + xy)^3 = 1 + 3 xy + 3 x^2 y^2 + x^3 y^3."""
        rng = torch.Generator().manual_seed(0)
        a, b = torch.randn(50_000, 1, generator=rng), 1 + torch.randn(50_000, 1, generator=rng)
        mean, deviation = kernel_distance(a, b, subsets=100, subset_size=500)
        expected = 3 * (0 - 1) ** 2 + 3 * (1 - 2) ** 2 + (0 - 4) ** 2
        assert mean == pytest.approx(expected, abs=4 * deviation / 100**0.5)
        assert 4 * deviation / 100**0.5 < 0.1 * expected

    def test_is_unbiased(self):
        x = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0))
        mean, deviation = kernel_distance(x[:10_000], x[10_000:], subsets=400, subset_size=20)
        assert abs(mean) < 4 * deviation / 400**0.5

    def test_agrees_with_torch_fidelity(self):
        # A subset of all features is the same one whoever draws it.
        a, b = torch.randn(150, 24), 0.5 + torch.randn(150, 24).square()
        library = kid_features_to_metric(a, b, kid_subsets=2, kid_subset_size=150, verbose=False)
        mean, deviation = kernel_distance(a, b, subsets=2)
        assert mean == pytest.approx(library["kernel_inception_distance_mean"], rel=1e-4)
        assert deviation == pytest.approx(0, abs=1e-9)
        assert kernel_distance(a, b, subset_size=50) == kernel_distance(a, b, subset_size=50)

    def test_errors(self):
        with pytest.raises(ValueError, match=r"got \(3, 4\) and \(3, 5\)"):
            kernel_distance(torch.randn(3, 4), torch.randn(3, 5))
        with pytest.raises(ValueError, match="subset_size 2, got 0 and 9"):
            kernel_distance(torch.randn(3, 4), torch.randn(3, 4), subsets=0, subset_size=9)
        with pytest.raises(ValueError, match="finite"):
            kernel_distance(torch.full((3, 4), torch.inf), torch.randn(3, 4))


def ppl(G: nn.Module, encoder: Encoder, path: str = "ppl2_wend", **kwargs) -> float:
    return trimmed_mean(path_lengths(G, encoder, path, **kwargs))


class PixelEncoder(Encoder):
    """The image itself as features, without normalisation."""

    def perceptual(self, images: Tensor) -> list[Tensor]:
        return [images]


class LinearGenerator(nn.Module):
    """Its images are w as pixels, times a scale; its mapping is the identity."""

    z_dim = 16
    c_dim = 0

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.mapping = Identity()

    def synthesis(self, ws: Tensor, noise_mode: str) -> Tensor:
        assert noise_mode == "const"
        return self.scale * ws.reshape(-1, 1, 4, 4)


class Identity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("w_avg", torch.zeros(16, dtype=torch.float64))

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        return z


class TestPathLength:
    def test_along_lines_of_a_linear_generator(self):
        """d = |scale eps (w1 - w0)|^2 / 16 per position anywhere on the line; w1 - w0 has variance 2 per element."""
        lengths = path_lengths(LinearGenerator(3.0), PixelEncoder(), num_pairs=4000, batch=500)
        assert lengths.dtype == torch.float64 and lengths.shape == (4000,)
        assert lengths.mean().item() == pytest.approx(9 * 2, rel=0.03)
        anywhere = path_lengths(LinearGenerator(3.0), PixelEncoder(), "ppl_wfull", num_pairs=4000, batch=500)
        torch.testing.assert_close(anywhere, lengths, rtol=1e-6, atol=0)

    def test_along_arcs_of_a_linear_generator(self):
        """A step of eps moves by the chord of eps times the angle on a unit circle, wherever on the arc."""
        eps = 1e-2
        z = torch.randn(40, 2, 16, generator=torch.Generator().manual_seed(5)).double()
        angles = [math.acos(torch.cosine_similarity(a, b, dim=0).item()) for a, b in z]
        expected = [9 / 16 * (2 * math.sin(eps * angle / 2) / eps) ** 2 for angle in angles]
        for path in ("ppl_zend", "ppl_zfull"):
            lengths = path_lengths(LinearGenerator(3.0), PixelEncoder(), path, num_pairs=40, eps=eps, seed=5)
            assert lengths.tolist() == pytest.approx(expected, rel=1e-9)

    def test_begins_at_the_sampled_point(self):
        """The images of a pair show where on the path it lies."""

        class Watcher(PixelEncoder):
            def perceptual(self, images: Tensor) -> list[Tensor]:
                starts.append(images.chunk(2)[0].flatten(1))
                return [images]

        z0, z1 = torch.randn(500, 2, 16, generator=torch.Generator().manual_seed(0)).double().unbind(dim=1)
        points = {}
        for path, (space, _) in PATHS.items():
            starts: list[Tensor] = []
            path_lengths(LinearGenerator(1.0), Watcher(), path, num_pairs=500)
            start = torch.cat(starts)
            if space == "w":
                points[path] = ((start - z0) * (z1 - z0)).sum(dim=1) / (z1 - z0).square().sum(dim=1)
                torch.testing.assert_close(start, z0.lerp(z1, points[path][:, None]))
            else:
                assert start.norm(dim=1).sub(1).abs().max() < 1e-12
                angles = [torch.cosine_similarity(z0, end, dim=1).clamp(-1, 1).arccos() for end in (start, z1)]
                points[path] = angles[0] / angles[1]
        for path in ("ppl2_wend", "ppl_zend"):
            assert points[path].abs().max() < 1e-6
        for path in ("ppl_wfull", "ppl_zfull"):
            deciles = points[path].quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
            assert deciles.tolist() == pytest.approx([0.1, 0.5, 0.9], abs=0.08)
            assert points[path].min() >= 0 and points[path].max() <= 1

    def test_does_not_depend_on_the_batch_and_leaves_the_random_state_alone(self):
        G = Generator(8, 3, 8, 16, channel_base=64, channel_max=8, mapping_layers=2)
        encoder = LabelEncoder(3)
        encoder.freeze()
        state = torch.get_rng_state()
        values = [ppl(G, encoder, num_pairs=24, batch=b, labels=torch.eye(3)) for b in (24, 7)]
        assert torch.equal(state, torch.get_rng_state())
        assert values[0] == pytest.approx(values[1], rel=1e-3)
        assert values[0] > 0
        assert ppl(G, encoder, num_pairs=24, seed=1, labels=torch.eye(3)) != values[0]

    def test_float32_is_precise_enough_for_the_step(self):
        G = Generator(8, 0, 8, 16, channel_base=64, channel_max=8, mapping_layers=2)
        encoder = LabelEncoder(3)
        encoder.freeze()
        single = [ppl(G, encoder, path, num_pairs=24) for path in PATHS]
        G, encoder = G.double(), encoder.double()
        assert single == pytest.approx([ppl(G, encoder, path, num_pairs=24) for path in PATHS], rel=1e-2)

    def test_rises_with_the_roughness_of_the_generator(self):
        values = [ppl(LinearGenerator(s), PixelEncoder(), num_pairs=100) for s in (1.0, 2.0)]
        assert values[1] == pytest.approx(4 * values[0], rel=1e-6)

    def test_relative_lengths_tell_detours_and_not_scales(self):
        """On a unit circle the squared speed is that of the angle, and the squared distance of ends that of a chord."""

        class CircleGenerator(LinearGenerator):
            def synthesis(self, ws: Tensor, noise_mode: str) -> Tensor:
                angle = ws[:, 0]
                return torch.stack([angle.cos(), angle.sin()], dim=1)[:, :, None, None]

        pairs = {"num_pairs": 200, "batch": 50}
        encoder = PixelEncoder()
        for G in (LinearGenerator(1.0), LinearGenerator(9.0)):
            along = path_lengths(G, encoder, "ppl_wfull", eps=1e-3, **pairs)
            estimate = relative_path_length(along, end_distances(G, encoder, **pairs))
            assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1, 1, 1), rel=1e-6)
        circle = CircleGenerator(1.0)
        along = path_lengths(circle, encoder, "ppl_wfull", eps=1e-3, **pairs)
        z = torch.randn(200, 2, 16, generator=torch.Generator().manual_seed(0)).double()
        angle = z[:, 1, 0] - z[:, 0, 0]
        expected = angle.square().mean() / (2 - 2 * angle.cos()).mean()
        found = relative_path_length(along, end_distances(circle, encoder, **pairs))
        assert found.value == pytest.approx(expected.item(), rel=1e-4) and found.value > 1.2

    def test_interval_of_relative_lengths_covers_them(self):
        rng = torch.Generator().manual_seed(0)
        distances = torch.rand(100, 400, generator=rng).double() + 0.5
        lengths = 3 * distances * (torch.rand(100, 400, generator=rng) + 0.5)
        estimates = [relative_path_length(a, b) for a, b in zip(lengths, distances, strict=True)]
        assert 87 <= sum(estimate.low <= 3 <= estimate.high for estimate in estimates) <= 99
        with pytest.raises(ValueError, match=r"different ends, \[N\] with N >= 2, got \(3,\)"):
            relative_path_length(torch.ones(3), torch.zeros(3))

    def test_labels_are_needed_by_a_conditional_generator(self):
        G = Generator(8, 3, 8, 8, channel_base=64, channel_max=8, mapping_layers=2)
        with pytest.raises(ValueError, match="labels must be given"):
            ppl(G, LabelEncoder(3), num_pairs=2)
        with pytest.raises(ValueError, match=r"path must be one of ppl2_wend, .*, got 'ppl'"):
            ppl(G, LabelEncoder(3), "ppl", num_pairs=2)


class TestTrimmedMean:
    # 101 and 701 have percentiles at a value, others between two; rounding has ties at the percentiles.
    @pytest.mark.parametrize(("size", "decimals"), [(1, 9), (60, 9), (101, 9), (701, 9), (1000, 9), (1000, 1)])
    def test_percentiles_are_the_outer_values(self, size, decimals):
        values = np.random.default_rng(size).standard_cauchy(size).round(decimals)
        low = np.percentile(values, 1, method="lower")
        high = np.percentile(values, 99, method="higher")
        expected = values[(low <= values) & (values <= high)].mean()
        assert trimmed_mean(torch.from_numpy(values)) == pytest.approx(expected, rel=1e-12)

    def test_drops_the_extremes(self):
        values = torch.cat([torch.full((100,), 2.0), torch.tensor([-1e6, 1e6])])
        assert trimmed_mean(values) == 2.0

    def test_interval_is_that_of_whole_resamples(self):
        """Counts of sorted values are a shortcut of drawing the resamples themselves."""
        values = torch.from_numpy(np.random.default_rng(0).exponential(size=300))
        estimate = path_length_estimate(values, resamples=50, seed=3)
        rng = np.random.default_rng(3)
        ordered = values.sort().values
        resampled = [trimmed_mean(ordered[torch.from_numpy(rng.integers(0, 300, 300))]) for _ in range(50)]
        assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])))
        assert estimate.value == trimmed_mean(values)

    def test_interval_covers_the_mean(self):
        """95 of 100 samples of a Gaussian, whose trimmed mean is its mean: at least 87 with a probability of 99.9%."""
        samples = 5 + torch.randn(100, 400, generator=torch.Generator().manual_seed(0))
        estimates = [path_length_estimate(sample, resamples=200) for sample in samples]
        assert 87 <= sum(estimate.low <= 5 <= estimate.high for estimate in estimates) <= 99
        # The interval is as wide as the mean's: 2 x 1.96 / sqrt(400).
        assert np.mean([e.high - e.low for e in estimates]) == pytest.approx(0.196, rel=0.1)

    def test_errors(self):
        with pytest.raises(ValueError, match=r"N >= 2, and finite, got shape \(1,\)"):
            path_length_estimate(torch.ones(1))
        with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
            path_length_estimate(torch.ones(3), resamples=0)


def test_perceptual_features_have_unit_length():
    encoder = LabelEncoder(3)
    encoder.freeze()
    for maps in encoder.perceptual(torch.randn(2, 3, 32, 32)):
        torch.testing.assert_close(maps.square().sum(dim=1), torch.ones(2, *maps.shape[2:]))


class TestPrecision:
    """Metrics are float32 whatever training uses; on a GPU its highest blocks are float16, and TF32 is on."""

    @pytest.fixture
    def G(self, monkeypatch) -> Generator:
        G = Generator(8, 0, 8, 16, channel_base=128, channel_max=16, mapping_layers=2, mixed_precision_resolutions=2)
        for module in (hsr.models.generator, hsr.models.discriminator):
            monkeypatch.setattr(module, "activation_dtype", lambda x, low: torch.float16 if low else x.dtype)
        return G.eval()

    def test_ppl_and_frechet_distance_do_not_follow_the_blocks(self, G, labelled):
        exact = copy.deepcopy(G)
        for block in exact.synthesis.blocks.values():
            block.low_precision = False
        encoder = LabelEncoder(2)
        encoder.freeze()
        z = torch.randn(2, 8)
        assert not torch.equal(G(z, noise_mode="const"), exact(z, noise_mode="const"))
        values = []
        for model in (G, exact):
            evaluator = Evaluator(encoder, open_dataset(labelled), 20, torch.device("cpu"), seed=0)
            values.append(evaluator.measure(["ppl_w", "frechet"], model))
        assert values[0] == values[1]
        for path in PATHS:
            lengths = [path_lengths(model, encoder, path, num_pairs=8) for model in (G, exact)]
            assert torch.equal(*lengths)
        assert [block.low_precision for block in G.synthesis.blocks.values()] == [False, True, True]
        # In float16 the rounding of the images is what would be measured.
        step = 1e-4
        pair = G.mapping(torch.randn(2, 8))
        ends = torch.cat([pair[:1], pair[:1].lerp(pair[1:], step)])
        with torch.no_grad():
            coarse, fine = (m.synthesis(ends, noise_mode="const").diff(dim=0).square().mean() for m in (G, exact))
        assert coarse > 2 * fine

    def test_16_bit_weights_are_measured_in_float32(self, G):
        encoder = PixelEncoder()
        half = copy.deepcopy(G).bfloat16()
        wide = copy.deepcopy(half).float()
        assert ppl(half, encoder, num_pairs=4) == ppl(wide, encoder, num_pairs=4)
        assert all(parameter.dtype == torch.bfloat16 for parameter in half.parameters())

    def test_settings_are_what_they_were(self, G):
        """Nothing reduces float32 meanwhile, and what the user had set is set again."""

        class Watcher(PixelEncoder):
            def perceptual(self, images: Tensor) -> list[Tensor]:
                assert torch.get_float32_matmul_precision() == "highest"
                assert not convolutions_use_tf32() and not torch.is_autocast_enabled("cpu")
                return [images]

        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                ppl(G, Watcher(), num_pairs=4)
            assert torch.get_float32_matmul_precision() == "medium"
        finally:
            torch.set_float32_matmul_precision(before)


def test_manifold_metrics_of_known_sets():
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(60, 3, generator=generator), 1 + 1.5 * torch.randn(70, 3, generator=generator)
    values = manifold_metrics(real, fake)
    # The definitions, one pair at a time.
    distance = [[math.dist(a, b) for b in fake.tolist()] for a in real.tolist()]

    def radii(points: Tensor, k: int) -> list[float]:
        return [sorted(math.dist(a, b) for b in points.tolist())[k] for a in points.tolist()]

    n, m = range(len(real)), range(len(fake))
    inner, outer, covering = radii(real, 3), radii(fake, 3), radii(real, 5)
    inside = [[distance[i][j] <= covering[i] for j in m] for i in n]
    assert values == {
        "precision": pytest.approx(sum(any(distance[i][j] <= inner[i] for i in n) for j in m) / 70),
        "recall": pytest.approx(sum(any(distance[i][j] <= outer[j] for j in m) for i in n) / 60),
        "density": pytest.approx(sum(map(sum, inside)) / (5 * 70)),
        "coverage": pytest.approx(sum(map(any, inside)) / 60),
    }
    assert all(0 < values[name] < 1 for name in ("precision", "recall", "coverage"))
    # One shape alone is good and no variety; distant sets have nothing in common; a set covers itself.
    collapsed = manifold_metrics(real, real[:1].expand(50, -1))
    assert collapsed["precision"] == 1 and collapsed["recall"] <= 1 / 60 and collapsed["coverage"] < 0.2
    assert set(manifold_metrics(real, fake + 100).values()) == {0}
    same = manifold_metrics(real, real.clone())
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)
    with pytest.raises(ValueError, match=r"\[60, 3\] and \[M, E\]|\[N, E\] and \[M, E\]"):
        manifold_metrics(real, fake[:, :2])


def test_precision_and_recall_agree_with_torch_fidelity():
    real, fake = torch.randn(200, 6), 0.5 + 1.2 * torch.randn(180, 6)
    library = prc_features_to_metric(fake, real, prc_neighborhood=3, verbose=False)
    values = manifold_metrics(real, fake)
    assert 0.1 < values["precision"] < 0.95 and 0.1 < values["recall"] < 0.95
    assert {name: library[name] for name in ("precision", "recall")} == {
        name: pytest.approx(values[name], rel=1e-4) for name in ("precision", "recall")
    }
