# SPDX-License-Identifier: Apache-2.0
"""Frechet distance and path length against cases with a known answer."""

import copy
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

import hsr.models.discriminator
import hsr.models.generator
from hsr.data import open_dataset
from hsr.metrics import frechet_distance, manifold_metrics, ppl_w
from hsr.metrics.ppl import trimmed_mean
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

    def test_errors(self):
        with pytest.raises(ValueError, match=r"got \(3, 4\) and \(3, 5\)"):
            frechet_distance(torch.randn(3, 4), torch.randn(3, 5))
        with pytest.raises(ValueError, match="N, M >= 2"):
            frechet_distance(torch.randn(1, 4), torch.randn(3, 4))
        with pytest.raises(ValueError, match="finite"):
            frechet_distance(torch.full((3, 4), torch.nan), torch.randn(3, 4))


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
        self.register_buffer("w_avg", torch.zeros(16))

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        return z.double()


class TestPathLength:
    def test_of_a_linear_generator(self):
        """d = |scale eps (w1 - w0)|^2 / 16 per position, and w1 - w0 has variance 2 per element."""
        value = ppl_w(LinearGenerator(3.0), PixelEncoder(), num_samples=4000, batch=500)
        assert value == pytest.approx(9 * 2, rel=0.03)

    def test_does_not_depend_on_the_batch_and_leaves_the_random_state_alone(self):
        G = Generator(8, 3, 8, 16, channel_base=64, channel_max=8, mapping_layers=2)
        encoder = LabelEncoder(3)
        encoder.freeze()
        state = torch.get_rng_state()
        values = [ppl_w(G, encoder, num_samples=24, batch=b, labels=torch.eye(3)) for b in (24, 7)]
        assert torch.equal(state, torch.get_rng_state())
        assert values[0] == pytest.approx(values[1], rel=1e-3)
        assert values[0] > 0
        assert ppl_w(G, encoder, num_samples=24, seed=1, labels=torch.eye(3)) != values[0]

    def test_float32_is_precise_enough_for_the_step(self):
        G = Generator(8, 0, 8, 16, channel_base=64, channel_max=8, mapping_layers=2)
        encoder = LabelEncoder(3)
        encoder.freeze()
        single = ppl_w(G, encoder, num_samples=24)
        mapping = G.double().mapping.forward
        G.mapping.forward = lambda z, c: mapping(z.double(), c)
        assert single == pytest.approx(ppl_w(G, encoder.double(), num_samples=24), rel=1e-2)

    def test_rises_with_the_roughness_of_the_generator(self):
        values = [ppl_w(LinearGenerator(s), PixelEncoder(), num_samples=100) for s in (1.0, 2.0)]
        assert values[1] == pytest.approx(4 * values[0], rel=1e-6)

    def test_labels_are_needed_by_a_conditional_generator(self):
        G = Generator(8, 3, 8, 8, channel_base=64, channel_max=8, mapping_layers=2)
        with pytest.raises(ValueError, match="labels must be given"):
            ppl_w(G, LabelEncoder(3), num_samples=2)


def test_trimmed_mean_drops_the_extremes():
    values = torch.cat([torch.full((98,), 2.0), torch.tensor([-1e6, 1e6])])
    assert trimmed_mean(values) == 2.0


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
        assert ppl_w(half, encoder, num_samples=4) == ppl_w(wide, encoder, num_samples=4)
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
                ppl_w(G, Watcher(), num_samples=4)
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
