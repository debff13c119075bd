# SPDX-License-Identifier: Apache-2.0
"""The networks of published metrics, with random weights, against torch-fidelity's and timm's own."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as inception
from torch_fidelity import sample_similarity_lpips as lpips

from hsr.errors import UserError
from hsr.metrics import perceptual_distance
from hsr.semantics import DinoV2Encoder, Encoder, build_encoder
from hsr.semantics.inception_encoder import FILE
from hsr.semantics.lpips_encoder import LPIPS_FILE, VGG_FILE

WIDTHS = (64, 128, 256, 512, 512)


def build(spec: str, **options: str) -> Encoder:
    return build_encoder(spec, dataset=None, cache_dir="unused", log=print, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of PyTorch's hub with random weights under the published names."""
    hub = tmp_path_factory.mktemp("hub")
    (hub / "checkpoints").mkdir()
    torch.manual_seed(0)
    vgg = torchvision.models.vgg16(weights=None, num_classes=1)
    torch.save(vgg.features.state_dict(prefix="features."), hub / "checkpoints" / VGG_FILE)
    weights = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(WIDTHS)}
    torch.save(weights, hub / "checkpoints" / LPIPS_FILE)
    return hub / "checkpoints"


def images(count: int, size: int) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(size)) * 2 - 1


def test_lpips_is_that_of_torch_fidelity(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vgg = torchvision.models.vgg16(weights=None, num_classes=1)
    vgg.load_state_dict(torch.load(folder / VGG_FILE), strict=False)
    monkeypatch.setattr(lpips, "torchvision_load_pretrained_vgg16", lambda: vgg)
    monkeypatch.setattr(lpips, "load_state_dict_from_url", lambda *_, **__: torch.load(folder / LPIPS_FILE))
    library = lpips.SampleSimilarityLPIPS("lpips-vgg16")
    encoder = build(f"lpips-vgg:{folder}")
    a, b = images(2, 48), images(2, 48).flip(3)
    expected = library((a + 1) * 127.5, (b + 1) * 127.5)
    found = perceptual_distance(encoder.perceptual(a), encoder.perceptual(b))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    # Images of other sizes are taken at their own, and wide ones are averaged.
    wide = images(1, 512)
    assert encoder.prepare(a).shape == a.shape
    torch.testing.assert_close(encoder.prepare(wide), encoder.prepare(nn.functional.avg_pool2d(wide, 2)))
    moved = a.clone().requires_grad_()
    perceptual_distance(encoder.perceptual(moved), encoder.perceptual(b)).sum().backward()
    assert moved.grad is not None and moved.grad.abs().sum() > 0


def test_inception_has_torch_fidelitys_features(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        state = _Inception().state_dict()
    state = {key: torch.rand(value.shape).add(-0.4).mul(0.1).to(value.dtype) for key, value in state.items()}
    state |= {key: torch.rand(value.shape) + 0.5 for key, value in state.items() if key.endswith("running_var")}
    torch.save(state, folder / FILE)
    library = inception.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=folder / FILE)
    encoder = build(f"inception:{folder / FILE}")
    x = images(2, 64) * 1.2
    pixels = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    torch.testing.assert_close(encoder.embed(x), library(pixels)[0])
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
def test_missing_weights_are_one_sentence(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=f"The encoder {kind} needs .* has no|The encoder {kind} needs .* there is no"):
        build(kind)
