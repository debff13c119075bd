# SPDX-License-Identifier: Apache-2.0
"""The encoder of labels, the choice of an encoder, and the regularizer."""

import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hsr.data import ImageDataset, open_dataset
from hsr.device import cpu_threads
from hsr.errors import UserError
from hsr.models import Generator
from hsr.semantics import (
    LabelEncoder,
    SemanticRegularizer,
    build_encoder,
    lite0_encoder,
)


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return open_dataset(None)


@pytest.fixture(scope="module")
def few_digits(digits) -> ImageDataset:
    return digits.subset(np.arange(100))


@pytest.fixture(scope="module")
def unlabelled(digits) -> ImageDataset:
    few = digits.subset(np.arange(20))
    return type(few)(
        name="pictures",
        resolution=few.resolution,
        labels=None,
        store=few.store,
        indices=few.indices,
        identity=few.identity,
    )


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory) -> tuple[LabelEncoder, list[str]]:
    """The encoder of the digits and what its training had to say."""
    lines: list[str] = []
    cache = tmp_path_factory.mktemp("cache")
    encoder = build_encoder("labels", dataset=digits, cache_dir=cache, log=lines.append)
    assert isinstance(encoder, LabelEncoder)
    return encoder, lines


class TestLabelEncoder:
    def test_learns_the_digits_and_tells_its_accuracy(self, trained):
        _, lines = trained
        (line,) = [line for line in lines if "held-out" in line]
        accuracy = float(line.split()[-1].removesuffix("%."))
        assert accuracy >= 97

    def test_features_have_four_depths_with_zero_mean_and_unit_variance(self, trained, digits):
        encoder, _ = trained
        images = digits.batch(np.arange(400))
        for maps, (dim, size) in zip(encoder.targets(images, 4), encoder.target_shapes(4), strict=True):
            assert maps.shape == (400, dim, size, size)
            assert maps.mean().item() == pytest.approx(0, abs=0.05)
            assert maps.std().item() == pytest.approx(1, abs=0.1)
        assert encoder.target_shapes(2) == [(128, 4), (64, 8)]

    def test_features_tell_the_classes_apart(self, trained, digits):
        encoder, _ = trained
        embedded = encoder.embed(digits.batch(np.arange(400)))
        labels = torch.from_numpy(digits.labels[:400])
        means = torch.stack([embedded[labels == k].mean(dim=0) for k in range(10)])
        nearest = torch.cdist(embedded, means).argmin(dim=1)
        assert (nearest == labels).float().mean() > 0.9

    def test_is_frozen(self, trained):
        encoder, _ = trained
        assert not encoder.training
        assert not any(p.requires_grad for p in encoder.parameters())
        images = torch.zeros(2, 3, 32, 32, requires_grad=True)
        assert not any(x.requires_grad for x in [*encoder.targets(images, 4), encoder.embed(images)])

    @pytest.mark.parametrize("size", [8, 32, 128])
    def test_takes_images_of_any_size(self, size):
        encoder = LabelEncoder(3)
        encoder.freeze()
        assert [x.shape[2] for x in encoder.targets(torch.randn(2, 3, size, size), 4)] == [4, 8, 16, 32]

    def test_comes_from_the_cache_the_second_time(self, few_digits, tmp_path):
        encoders, logs = [], []
        for _ in range(2):
            lines: list[str] = []
            state = torch.get_rng_state()
            encoders.append(build_encoder("labels", dataset=few_digits, cache_dir=tmp_path, log=lines.append))
            assert torch.equal(state, torch.get_rng_state())
            logs.append(lines)
        assert logs[0][0].startswith("Training") and logs[1][0].startswith("Read")
        assert logs[0][-1] == logs[1][-1]
        for key, value in encoders[0].state_dict().items():
            assert torch.equal(value, encoders[1].state_dict()[key])

    def test_training_is_reproducible_and_knows_its_data_set_and_seed(self, few_digits, digits, tmp_path):
        def weights(dataset: ImageDataset, cache: str, seed: int = 0) -> Tensor:
            encoder = build_encoder(
                "labels", dataset=dataset, cache_dir=tmp_path / cache, log=lambda _: None, seed=seed
            )
            return encoder.classifier.weight

        first = weights(few_digits, "a")
        # Whatever number of threads computes.
        with cpu_threads(2):
            assert torch.equal(first, weights(few_digits, "b"))
            assert torch.get_num_threads() == 2
        assert not torch.equal(first, weights(few_digits, "a", seed=1))
        assert not torch.equal(first, weights(digits.subset(np.arange(100, 200)), "a"))
        assert len(list((tmp_path / "a").iterdir())) == 3

    def test_damaged_cache_is_replaced(self, few_digits, tmp_path):
        lines: list[str] = []
        build_encoder("labels", dataset=few_digits, cache_dir=tmp_path, log=lines.append)
        (path,) = tmp_path.iterdir()
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[:1000])
        build_encoder("labels", dataset=few_digits, cache_dir=tmp_path, log=lines.append)
        assert sum(line.startswith("Training") for line in lines) == 2
        assert path.stat().st_size == size

    def test_cache_that_cannot_be_written_is_reported(self, few_digits, tmp_path):
        lines: list[str] = []
        (tmp_path / "file").touch()
        build_encoder("labels", dataset=few_digits, cache_dir=tmp_path / "file", log=lines.append)
        assert any("could not be cached" in line for line in lines)


@pytest.fixture
def without_lite0(monkeypatch) -> None:
    """Makes the package with the weights of lite0 look as if it weren't installed."""
    monkeypatch.setitem(sys.modules, lite0_encoder.PACKAGE, None)


class TestChoice:
    def build(self, spec: str, dataset: ImageDataset, lines: list[str] | None = None, **options):
        log = (lambda _: None) if lines is None else lines.append
        return build_encoder(spec, dataset=dataset, cache_dir=options.pop("cache_dir", "unused"), log=log, **options)

    def test_auto_takes_lite0_where_the_backbone_is_not_at_hand(self, unlabelled, monkeypatch):
        monkeypatch.setattr("hsr.semantics.build.weights_at_hand", lambda name: False)
        lines: list[str] = []
        assert self.build("auto", unlabelled, lines).name == "lite0"
        assert lines == [
            "Encoder: lite0, as the weights of timm:vit_base_patch16_224.dino are not on this machine "
            "and its package is installed."
        ]

    def test_auto_takes_labels_where_no_pretrained_network_is_at_hand(
        self, few_digits, tmp_path, monkeypatch, without_lite0
    ):
        monkeypatch.setattr("hsr.semantics.build.weights_at_hand", lambda name: False)
        lines: list[str] = []
        encoder = self.build("auto", few_digits, lines, cache_dir=tmp_path)
        assert encoder.name == "labels"
        assert lines[0] == (
            "Encoder: labels, as the weights of timm:vit_base_patch16_224.dino are not on this machine, "
            "lite0 is not installed and digits has labels."
        )

    def test_auto_does_without_timm(self, few_digits, tmp_path, monkeypatch, without_lite0):
        monkeypatch.setitem(sys.modules, "timm", None)
        lines: list[str] = []
        assert self.build("auto", few_digits, lines, cache_dir=tmp_path).name == "labels"
        assert "timm cannot be imported" in lines[0]

    def test_auto_takes_the_backbone_where_it_is_at_hand(self, few_digits, monkeypatch):
        monkeypatch.setattr("hsr.semantics.build.weights_at_hand", lambda name: True)
        monkeypatch.setattr("hsr.semantics.build.TimmEncoder", lambda name, **options: (name, options["weights"]))
        lines: list[str] = []
        assert self.build("auto", few_digits, lines) == ("vit_base_patch16_224.dino", None)
        assert "timm and its weights are on this machine" in lines[0]
        assert self.build("auto", few_digits, lines, weights="w.pth")[1] == "w.pth"
        assert "its weights are given in w.pth" in lines[1]

    def test_auto_without_labels_says_what_to_do(self, unlabelled, monkeypatch, without_lite0):
        monkeypatch.setattr("hsr.semantics.build.weights_at_hand", lambda name: False)
        advice = r'pictures has no labels.*pip install "hsr-kernels\[encoders\]".*--encoder-weights.*--hsr-weight 0'
        with pytest.raises(UserError, match=advice):
            self.build("auto", unlabelled)

    @pytest.mark.parametrize("spec", ["clip", "timm:", "labels:x", "labels@64", "lite0:x"])
    def test_unknown(self, spec, few_digits):
        with pytest.raises(UserError, match=f"Unknown encoder {spec}: choose auto, labels, lite0, squeezenet:<file>"):
            self.build(spec, few_digits)

    @pytest.mark.parametrize(("spec", "sentence"), [("timm", "name of a network"), ("squeezenet", "needs a file")])
    def test_unfinished(self, spec, sentence, few_digits):
        with pytest.raises(UserError, match=sentence):
            self.build(spec, few_digits)

    def test_labels_without_labels(self, unlabelled):
        with pytest.raises(UserError, match="pictures has no labels"):
            self.build("labels", unlabelled)

    @pytest.mark.parametrize("spec", ["labels", "lite0"])
    def test_weights_for_others_than_timm(self, spec, few_digits):
        with pytest.raises(UserError, match=f"for timm encoders, and the encoder is {spec}"):
            self.build(spec, few_digits, weights="w.pth")


class TestRegularizer:
    def test_takes_the_resolutions_that_the_generator_has(self):
        encoder = LabelEncoder(3)
        for resolution, expected in ((8, (8,)), (32, (8, 16, 32)), (128, (8, 16, 32, 64))):
            G = Generator(4, 0, 4, resolution, channel_base=256, channel_max=8, mapping_layers=1)
            hsr = SemanticRegularizer(encoder, G, hidden=4)
            assert hsr.resolutions == expected
            widths = [(h.weight1.shape[1], h.weight2.shape[0]) for h in hsr.heads]
            assert widths == [
                (G.channels(r), d) for r, (d, _) in zip(expected, encoder.target_shapes(len(expected)), strict=True)
            ]

    def test_is_the_loss_of_the_method(self):
        """Heads with gains 1 / sqrt(fan_in), ReLU times sqrt(2), area resize, squared error per scale."""
        encoder = LabelEncoder(3).double()
        encoder.freeze()
        G = Generator(4, 0, 4, 16, channel_base=128, channel_max=8, mapping_layers=1).double()
        hsr = SemanticRegularizer(encoder, G, hidden=6).double()
        with torch.no_grad():
            for head in hsr.heads:
                head.bias1.normal_()
                head.bias2.normal_()
        images, features = G.synthesis.with_features(G.mapping(torch.randn(2, 4, dtype=torch.float64)), (8, 16))
        expected = []
        for x, head, target in zip(features.values(), hsr.heads, encoder.targets(images, 2), strict=True):
            c = x.shape[1]
            y = F.conv2d(x, head.weight1[:, :, None, None] / math.sqrt(c), head.bias1).relu() * math.sqrt(2)
            y = F.conv2d(y, head.weight2[:, :, None, None] / math.sqrt(6), head.bias2)
            y = F.adaptive_avg_pool2d(y, target.shape[2:])
            expected.append((y - target).square().mean())
        torch.testing.assert_close(hsr([features[8], features[16]], images), torch.stack(expected))

    def test_lower_precision_rounds_and_no_more(self, monkeypatch):
        encoder = LabelEncoder(3)
        encoder.freeze()
        G = Generator(4, 0, 4, 8, channel_base=64, channel_max=8, mapping_layers=1)
        hsr = SemanticRegularizer(encoder, G, hidden=32)
        images, features = G.synthesis.with_features(G.mapping(torch.randn(8, 4)), (8,), noise_mode="const")
        x, results, computed = features[8].detach().requires_grad_(), {}, []
        encode = encoder.feature_maps
        monkeypatch.setattr(encoder, "feature_maps", lambda images: computed.append(encode(images)) or computed[-1])
        for precision in (None, torch.bfloat16):
            hsr.precision = precision
            loss = hsr([x], images)
            assert loss.dtype == torch.float32
            results[precision] = [loss, *torch.autograd.grad(loss.sum(), [x, *hsr.parameters()])]
        assert [maps[0].dtype for maps in computed] == [torch.float32, torch.bfloat16]
        for exact, rounded in zip(*results.values(), strict=True):
            assert rounded.dtype == torch.float32
            error = (rounded - exact).norm() / exact.norm()
            assert 0 < error < 0.02

    def test_state_is_that_of_the_heads(self):
        G = Generator(4, 0, 4, 8, channel_base=64, channel_max=8, mapping_layers=1)
        hsr = SemanticRegularizer(LabelEncoder(3), G, hidden=6)
        names = ["weight1", "bias1", "weight2", "bias2"]
        assert list(hsr.state_dict()) == [f"heads.0.{name}" for name in names]
        assert not hsr.heads[0].bias1.any() and not hsr.heads[0].bias2.any()
        assert hsr.heads[0].weight2.std().item() == pytest.approx(1, abs=0.2)

    def test_heads_and_features_learn(self):
        encoder = LabelEncoder(3)
        encoder.freeze()
        G = Generator(4, 0, 4, 8, channel_base=64, channel_max=8, mapping_layers=1)
        hsr = SemanticRegularizer(encoder, G, hidden=32)
        optimizer = torch.optim.Adam([*G.parameters(), *hsr.parameters()], lr=0.01)
        z = torch.randn(8, 4)
        values = []
        for _ in range(20):
            images, features = G.synthesis.with_features(G.mapping(z), (8,), noise_mode="const")
            loss = hsr([features[8]], images).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        assert values[-1] < 0.8 * values[0]
