# SPDX-License-Identifier: Apache-2.0
"""Backbones of timm as encoders, and where their weights come from."""

import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from hsr.data import open_dataset
from hsr.errors import UserError
from hsr.semantics import TimmEncoder, build_encoder, timm_encoder, timm_weights


@pytest.fixture(scope="module")
def vit_file(tmp_path_factory) -> Path:
    """Random weights of a small ViT, as `torch.save` writes a training checkpoint."""
    path = tmp_path_factory.mktemp("weights") / "vit.pth"
    torch.save({"model": timm.create_model("vit_tiny_patch16_224").state_dict(), "epoch": 3}, path)
    return path


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory) -> Path:
    """Random weights of a small ResNet, with batch statistics that are not the initial ones."""
    path = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    model = timm.create_model("resnet18")
    model(torch.randn(4, 3, 64, 64))
    safetensors.torch.save_file(model.state_dict(), path)
    return path


class TestTimmEncoder:
    def test_vit_gives_the_last_block_of_each_quarter_through_the_final_norm(self, vit_file):
        encoder = TimmEncoder("vit_tiny_patch16_224", weights=vit_file)
        model = timm.create_model("vit_tiny_patch16_224").eval()
        model.load_state_dict(torch.load(vit_file, weights_only=True)["model"])
        assert encoder.target_shapes(4) == [(192, 14)] * 4
        images = torch.rand(2, 3, 448, 448) * 2 - 1
        x = F.avg_pool2d(images, 2)  # This model's own statistics, mean and deviation 0.5, give [-1, 1] again.
        captured = []
        for block in model.blocks:
            block.register_forward_hook(lambda module, args, output: captured.append(output))
        with torch.no_grad():
            model(x)
            for maps, i in zip(encoder.targets(images, 4), (11, 8, 5, 2), strict=True):
                tokens = model.norm(captured[i])[:, 1:]
                expected = tokens.reshape(2, 14, 14, 192).permute(0, 3, 1, 2)
                torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-4)

    def test_deit_goes_without_the_final_norm(self):
        model = timm.create_model("deit_tiny_patch16_224")
        assert timm_encoder._layers(model, "deit_tiny_patch16_224") == ([2, 5, 8, 11], False)

    def test_resnet_gives_its_last_four_stages(self, resnet_file):
        encoder = TimmEncoder("resnet18", weights=str(resnet_file))
        assert encoder.target_shapes(4) == [(512, 7), (256, 14), (128, 28), (64, 56)]
        model = timm.create_model("resnet18").eval()
        model.load_state_dict(safetensors.torch.load_file(resnet_file))
        images = torch.rand(2, 3, 32, 32) * 2 - 1
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).reshape(2, 1, 3, 1, 1)
        x = (F.interpolate((images + 1) / 2, size=(224, 224), mode="area") - mean) / std
        with torch.no_grad():
            deepest = model.forward_features(x)
        torch.testing.assert_close(encoder.targets(images, 1)[0], deepest, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(encoder.embed(images), deepest.mean(dim=[2, 3]), rtol=1e-4, atol=1e-4)

    def test_vgg_gives_features_after_its_poolings(self, tmp_path, monkeypatch):
        def build(name: str, image_size: int | None) -> torch.nn.Module:
            return timm.models.vgg.VGG([4, "M", 5, "M", 6, "M", 7, "M", 8, "M"], num_classes=0)

        model = build("vgg16", None)
        features = {k: v for k, v in model.state_dict().items() if k.startswith("features.")}
        safetensors.torch.save_file(features, tmp_path / "vgg.safetensors")
        monkeypatch.setattr(timm_encoder, "_build", build)
        encoder = TimmEncoder("vgg16", weights=tmp_path / "vgg.safetensors")
        assert encoder.target_shapes(4) == [(8, 7), (7, 14), (6, 28), (5, 56)]
        pooled: list[Tensor] = []
        for module in model.features:
            if isinstance(module, torch.nn.MaxPool2d):
                module.register_forward_hook(lambda module, args, output: pooled.append(output))
        images = torch.rand(1, 3, 224, 224) * 2 - 1
        model.features((((images + 1) / 2) - encoder.mean) / encoder.std)
        for maps, expected in zip(encoder.targets(images, 4), pooled[4:0:-1], strict=True):
            torch.testing.assert_close(maps, expected)

    def test_official_statistics(self, resnet_file):
        encoder = TimmEncoder("resnet18", weights=resnet_file, statistics="official")
        assert encoder.mean.flatten().tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073])
        assert encoder.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
        with pytest.raises(ValueError, match="statistics must be one of own, official, got 'x'"):
            TimmEncoder("resnet18", weights=resnet_file, statistics="x")

    def test_is_frozen_and_named(self, resnet_file):
        encoder = build_encoder(
            "timm:resnet18",
            dataset=open_dataset(),
            weights=str(resnet_file),
            cache_dir="unused",
            log=lambda _: None,
        )
        assert encoder.name == "timm:resnet18"
        assert not encoder.training
        assert not any(p.requires_grad for p in encoder.parameters())
        with pytest.raises(UserError, match="features at 4 depths, but 5 are needed"):
            encoder.target_shapes(5)


class TestTimmWeights:
    def test_of_another_network(self, vit_file, resnet_file):
        with pytest.raises(UserError, match=r"vit.pth does not hold the weights of resnet18: \d+ of \d+ tensors"):
            TimmEncoder("resnet18", weights=vit_file)
        with pytest.raises(UserError, match=r"does not hold the weights of vit_small_patch16_224: .* is \["):
            TimmEncoder("vit_small_patch16_224", weights=vit_file)

    def test_files_that_cannot_be_used(self, tmp_path):
        cases = {"missing.pth": None, "garbage.pth": b".", "garbage.safetensors": b"x" * 50, "short.pth": b""}
        for name, content in cases.items():
            if content is not None:
                (tmp_path / name).write_bytes(content)
            with pytest.raises(UserError, match=name):
                TimmEncoder("resnet18", weights=tmp_path / name)
        torch.save([1, 2], tmp_path / "list.pth")
        with pytest.raises(UserError, match="holds no state dict"):
            TimmEncoder("resnet18", weights=tmp_path / "list.pth")

    def test_code_in_a_file_is_not_run(self, tmp_path):
        class Malicious:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "run",))

        torch.save({"conv1.weight": Malicious()}, tmp_path / "w.pth")
        with pytest.raises(UserError, match="cannot be read"):
            TimmEncoder("resnet18", weights=tmp_path / "w.pth")
        assert not (tmp_path / "run").exists()

    def test_prefix_of_data_parallel_training(self, resnet_file, tmp_path):
        state = safetensors.torch.load_file(resnet_file)
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "w.pth")
        encoder = TimmEncoder("resnet18", weights=tmp_path / "w.pth")
        assert torch.equal(encoder.model.conv1.weight, state["conv1.weight"])

    def test_from_the_cache_of_the_hub(self, resnet_file, monkeypatch):
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file: str(resnet_file))
        assert timm_encoder.weights_at_hand("resnet18.a1_in1k")
        assert TimmEncoder("resnet18.a1_in1k").shapes[0] == (512, 7)

    def test_hub_that_does_not_answer(self, monkeypatch):
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file: None)
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url, timeout: time.sleep(30))
        monkeypatch.setattr(timm_weights, "PROBE_SECONDS", 0.2)
        start = time.perf_counter()
        with pytest.raises(UserError, match=r"no answer within.*<encoder>:<file>, or choose lite0 or labels"):
            TimmEncoder("resnet18")
        assert time.perf_counter() - start < 5
        assert not timm_encoder.weights_at_hand("resnet18")

    def test_hub_that_refuses(self, monkeypatch):
        def refuse(url: str, timeout: float) -> None:
            raise ConnectionError("connection refused\nand a long story")

        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file: None)
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
        with pytest.raises(UserError, match=r"cannot be downloaded \(connection refused\): name a file"):
            TimmEncoder("resnet18")

    def test_unknown_model(self):
        with pytest.raises(UserError, match=r"has no model resnet19; similar names are resnet1"):
            TimmEncoder("resnet19")
        with pytest.raises(UserError, match=r"has no model vit_base_patch16_224.dinox.*vit_base_patch16_224.dino"):
            TimmEncoder("vit_base_patch16_224.dinox")

    def test_without_timm(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(UserError, match="pip install timm"):
            TimmEncoder("resnet18")
