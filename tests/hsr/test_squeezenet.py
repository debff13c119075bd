# SPDX-License-Identifier: Apache-2.0
"""SqueezeNet as an encoder, against torchvision's network."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from hsr.errors import UserError
from hsr.semantics import SqueezeNetEncoder, build_encoder


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.squeezenet1_1(weights=None).eval()


@pytest.fixture(scope="module")
def file(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    return path


def test_features_are_those_of_the_network(network: nn.Module, file: Path) -> None:
    encoder = SqueezeNetEncoder(file)
    images = torch.rand(2, 3, 224, 224) * 2 - 1
    bgr = ((images + 1) * 127.5).flip(1) - torch.tensor([103.939, 116.779, 123.68])[:, None, None]
    x = F.pad(bgr, (0, 1, 0, 1))
    expected = {}
    for place, layer in enumerate(network.features):
        # torchvision rounds the sizes of poolings up, and the network that the weights come from down.
        x = F.max_pool2d(x, 3, 2) if isinstance(layer, nn.MaxPool2d) else layer(x)
        expected[place] = x
    maps = encoder.feature_maps(images)
    assert encoder.shapes == [(512, 13), (256, 27), (128, 55), (64, 112)]
    for features, place in zip(maps, (12, 7, 4, 1), strict=True):
        torch.testing.assert_close(features, expected[place], rtol=1e-4, atol=1e-3)


def test_size_and_statistics_are_parts_of_the_name_and_of_the_fingerprint(file: Path) -> None:
    def build(spec: str, statistics: str = "own"):
        return build_encoder(spec, dataset=None, cache_dir="unused", log=print, statistics=statistics)

    encoders = [build(f"squeezenet:{file}"), build(f"squeezenet@96:{file}"), build(f"squeezenet:{file}", "official")]
    assert [e.name for e in encoders] == ["squeezenet", "squeezenet@96", "squeezenet, official statistics"]
    assert encoders[1].shapes == [(512, 5), (256, 11), (128, 23), (64, 48)]
    assert len({e.fingerprint() for e in encoders}) == 3
    assert build(f"squeezenet@224:{file}").fingerprint() == encoders[0].fingerprint()
    with torch.no_grad():
        encoders[0].model.features["12"].squeeze.weight[0, 0] += 1e-6
    assert build(f"squeezenet:{file}").fingerprint() != encoders[0].fingerprint()


def test_unusable_files_and_sizes(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        SqueezeNetEncoder(tmp_path / "missing.safetensors")
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="does not hold the weights of squeezenet: 50 of 50 tensors are missing"):
        SqueezeNetEncoder(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="squeezenet@16 is too small"):
        SqueezeNetEncoder(file, image_size=16)
