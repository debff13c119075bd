# SPDX-License-Identifier: Apache-2.0
"""The networks of published metrics, with random weights, against torch-fidelity's and timm's own."""

import hashlib
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as inception
from torch_fidelity import sample_similarity_lpips as lpips
from torch_fidelity.generative_model_modulewrapper import GenerativeModelModuleWrapper
from torch_fidelity.metric_ppl import calculate_ppl
from torchvision.models.vgg import cfgs, make_layers

from hsr.errors import UserError
from hsr.metrics import path_length, path_lengths, perceptual_distance
from hsr.metrics.path_length import trimmed_mean
from hsr.semantics import DinoV2Encoder, Encoder, build_encoder, downloads, inception_encoder
from hsr.semantics.build import AT_HAND
from hsr.semantics.lpips_encoder import LPIPS_FILE, VGG_FILE

FILE = downloads.hub_file(inception_encoder.URL).name
WIDTHS = (64, 128, 256, 512, 512)


def build(spec: str, **options: str) -> Encoder:
    return build_encoder(spec, dataset=None, cache_dir="unused", log=print, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of PyTorch's hub with random weights under the published names."""
    hub = tmp_path_factory.mktemp("hub")
    (hub / "checkpoints").mkdir()
    torch.manual_seed(0)
    features = make_layers(cfgs["D"]).state_dict(prefix="features.")
    torch.save(features, hub / "checkpoints" / VGG_FILE)
    weights = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(WIDTHS)}
    torch.save(weights, hub / "checkpoints" / LPIPS_FILE)
    return hub / "checkpoints"


def images(count: int, size: int) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(size)) * 2 - 1


@pytest.fixture
def _local_lpips(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives torch-fidelity the weights of the folder."""
    features = make_layers(cfgs["D"])
    features.load_state_dict({key.removeprefix("features."): x for key, x in torch.load(folder / VGG_FILE).items()})
    monkeypatch.setattr(lpips, "torchvision_load_pretrained_vgg16", lambda: SimpleNamespace(features=features))
    monkeypatch.setattr(lpips, "load_state_dict_from_url", lambda *_, **__: torch.load(folder / LPIPS_FILE))


class Painter(nn.Module):
    """A random generator whose latent codes are the codes z themselves."""

    z_dim, c_dim = 8, 0

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Module()
        self.mapping.register_buffer("w_avg", torch.zeros(8))
        self.mapping.forward = lambda z, c: z  # type: ignore[method-assign]
        self.layer = nn.Linear(8, 3 * 32 * 32)

    def synthesis(self, ws: Tensor, noise_mode: str = "const") -> Tensor:
        return self.layer(ws).tanh().unflatten(1, (3, 32, 32))

    def forward(self, z: Tensor) -> Tensor:
        """Maps codes z [N, 8] to images in 0 to 255."""
        return (self.synthesis(z) + 1) * 127.5


@pytest.mark.usefixtures("_local_lpips")
def test_path_lengths_are_those_of_torch_fidelity_at_equal_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other than by its default, images are neither rounded to 8 bits nor made smaller."""
    G, eps = Painter(), 1e-2
    options = {"ppl_sample_similarity_resize": None, "ppl_sample_similarity_dtype": "float32", "ppl_epsilon": eps}
    percentiles = {"ppl_discard_percentile_lower": None, "ppl_discard_percentile_higher": None}
    expected = calculate_ppl(
        1, input1=GenerativeModelModuleWrapper(G, 8, "normal", 0), input1_model_num_samples=6, ppl_reduction="none",
        batch_size=3, cuda=False, verbose=False, rng_seed=5, **options, **percentiles,
    )  # fmt: skip
    rng = np.random.RandomState(5)
    ends = torch.stack([torch.from_numpy(rng.standard_normal((6, 8))).float() for _ in range(2)], dim=1)
    monkeypatch.setattr(path_length, "_draws", lambda *_: (ends, torch.zeros(6, 0), torch.zeros(6).double()))
    found = path_lengths(G, build(f"lpips-vgg:{folder}"), "ppl2_wend", num_pairs=6, batch=2, eps=eps)
    raw = torch.from_numpy(expected["perceptual_path_length_raw"]).flatten().double()
    torch.testing.assert_close(found, raw, rtol=1e-4, atol=0)
    assert trimmed_mean(found) == pytest.approx(expected["perceptual_path_length_mean"], rel=1e-4)


@pytest.mark.usefixtures("_local_lpips")
def test_lpips_is_that_of_torch_fidelity(folder: Path) -> None:
    library = lpips.SampleSimilarityLPIPS("lpips-vgg16")
    encoder = build(f"lpips-vgg:{folder}")
    a, b = images(2, 48), images(2, 48).flip(3)
    expected = library((a + 1) * 127.5, (b + 1) * 127.5)
    found = perceptual_distance(encoder.perceptual(a), encoder.perceptual(b))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    # Its distance averages wide images, and its features are of the shapes that it states for any images.
    wide = images(1, 512)
    torch.testing.assert_close(encoder.perceptual(wide), encoder.perceptual(nn.functional.avg_pool2d(wide, 2)))
    assert [tuple(target.shape[1:3]) for target in encoder.targets(a[:1], 4)] == encoder.shapes
    with pytest.raises(UserError, match="needs images of 16 pixels"):
        encoder.perceptual(images(1, 8))
    moved = a.clone().requires_grad_()
    perceptual_distance(encoder.perceptual(moved), encoder.perceptual(b)).sum().backward()
    assert moved.grad is not None and moved.grad.abs().sum() > 0


def test_inception_has_torch_fidelitys_features(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        state = _Inception().state_dict()
    state = {key: _random(key, value) for key, value in state.items()}
    torch.save(state, folder / FILE)
    library = inception.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=folder / FILE)
    encoder = build(f"inception:{folder / FILE}")
    x = images(2, 64) * 1.2
    pixels = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    torch.testing.assert_close(encoder.embed(x), library(pixels)[0])
    # Of other images they are others, which weights that let signals fade would hide.
    assert (encoder.embed(x)[0] - encoder.embed(x)[1]).abs().max() > 0.1
    assert encoder.embed(x).shape == (2, 2048) and encoder.name == "inception"
    with pytest.raises(UserError, match="features of whole images alone"):
        encoder.perceptual(x)
    with pytest.raises(UserError, match="0 depths"):
        encoder.target_shapes(1)
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="does not hold the weights of inception"):
        build(f"inception:{tmp_path / 'other.pth'}")
    with pytest.raises(UserError, match="--encoder-statistics official is for other pretrained encoders"):
        build(f"inception:{folder / FILE}", statistics="official")


def _random(key: str, value: Tensor) -> Tensor:
    """Returns random weights of the shape of `value` that keep the size of signals from layer to layer."""
    if value.ndim > 1:
        return torch.randn(value.shape) * (2 / value[0].numel()) ** 0.5
    if key.endswith(("running_var", "bn.weight")):
        return torch.rand(value.shape) + 0.5
    return (torch.randn(value.shape) * 0.1).to(value.dtype)


class _Inception(inception.FeatureExtractorInceptionV3):
    """Its constructor without weights."""

    def __init__(self) -> None:
        self.load_state_dict = lambda _: None  # type: ignore[method-assign, assignment]
        original = inception.load_state_dict_from_url
        inception.load_state_dict_from_url = lambda *_, **__: {}
        try:
            super().__init__("inception", ["2048"])
        finally:
            inception.load_state_dict_from_url = original


def test_dinov2_embeds_by_the_class_token_at_224_pixels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    name = "vit_tiny_patch16_224"
    wide = timm.create_model(name, num_classes=0, img_size=512)
    torch.save(wide.state_dict(), tmp_path / "w.pth")
    encoder = DinoV2Encoder(tmp_path / "w.pth", model_name=name)
    assert encoder.name == "dinov2" and encoder.image_size == 224
    x = images(2, 40)
    features = encoder.model.forward_features(encoder.prepare(x))
    torch.testing.assert_close(encoder.embed(x), features[:, 0])


@pytest.mark.parametrize("kind", ["inception", "lpips-vgg"])
def test_weights_that_cannot_be_downloaded_are_one_sentence_within_seconds(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(downloads, "urlopen", lambda url, timeout: time.sleep(30))
    monkeypatch.setattr(downloads, "PROBE_SECONDS", 0.2)
    start = time.perf_counter()
    assert not AT_HAND[kind]()
    with pytest.raises(UserError, match=rf"The encoder {kind} needs .*no answer within.*name .* as {kind}:<"):
        build(kind)
    assert time.perf_counter() - start < 5


def test_missing_weights_are_downloaded_into_the_folder_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    published = tmp_path / f"weights-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth"
    published.write_bytes(b"other weights")
    monkeypatch.setattr(inception_encoder, "URL", published.as_uri())
    with pytest.raises(UserError, match="invalid hash value"):
        inception_encoder.find_weights(None)
    assert not inception_encoder.is_at_hand()
    published.write_bytes(b"weights")
    assert inception_encoder.find_weights(None).read_bytes() == b"weights"
    assert inception_encoder.is_at_hand()
    published.unlink()
    # What is there isn't asked for again.
    assert inception_encoder.find_weights(None).parent == tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [("inception:none.pth", "There is no file none.pth"), ("lpips-vgg:none", f"none has no {VGG_FILE}")],
)
def test_named_weights_that_are_not_there(spec: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build(spec)


def test_inception_without_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(UserError, match=r'install it with pip install "hsr-kernels\[metrics\]"'):
        build(f"inception:{tmp_path}")
