# SPDX-License-Identifier: Apache-2.0
"""`hsr project`, and the search that it makes."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hsr.models import Generator
from hsr.models.build import build_generator
from hsr.projection.objective import noise_correlation
from hsr.projection.optimization import Projection, ProjectionSettings, find_starts, learning_rate_at, project
from hsr.projection.photo import read_photo
from hsr.semantics.encoders import Encoder
from hsr.weights import load_tensors, save_tensors

from .conftest import SMALL, run_folders, write_weights

Command = Callable[..., int]


class RandomEncoder(Encoder):
    """A random convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.shapes = "random", [(12, 8)]
        self.conv = torch.nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.freeze()

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        return [self.conv(images)]


@pytest.fixture(scope="module")
def G() -> Generator:
    torch.manual_seed(0)
    G = Generator(8, 0, 8, 16, mapping_layers=2, channel_base=128, channel_max=8).eval().requires_grad_(False)
    for name, value in G.named_parameters():
        # Images of untrained networks leave [-1, 1] by far.
        if name.endswith("torgb.weight"):
            value *= 0.1
    return G


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(1)
    return RandomEncoder()


def search(G: Generator, encoder: Encoder, photo: Tensor, **changes: object) -> Projection:
    settings = dataclasses.replace(ProjectionSettings(steps=60), **changes)  # type: ignore[arg-type]
    return project(G, encoder, photo, find_starts(G, None, 0), settings)


def test_an_own_image_is_recovered(G: Generator, encoder: Encoder) -> None:
    photo = G(torch.randn(1, 8, generator=torch.Generator().manual_seed(5)), noise_mode="const")
    found = search(G, encoder, photo)
    assert found.after.perceptual < found.before.perceptual / 30
    assert found.after.pixel < found.before.pixel / 30
    assert (found.w == found.w[0]).all()


def test_the_best_step_is_kept(G: Generator, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = G(torch.randn(1, 8, generator=torch.Generator().manual_seed(5)), noise_mode="const")
    found = search(G, encoder, photo)
    # The optimizer leaves the photo in its last steps.
    rates = "hsr.projection.optimization.learning_rate_at"
    monkeypatch.setattr(rates, lambda progress: learning_rate_at(progress) if progress < 0.96 else 3.0)
    disturbed = search(G, encoder, photo)
    assert disturbed.after.perceptual < found.after.perceptual * 2


def test_distances_are_those_of_the_picture(G: Generator, encoder: Encoder) -> None:
    photo = torch.ones(1, 3, 16, 16)
    loud = copy.deepcopy(G)
    # Every image of this generator is beyond white.
    loud.load_state_dict({name: value + 5 * name.endswith("torgb.bias") for name, value in G.state_dict().items()})
    found = search(loud, encoder, photo, steps=1)
    assert (found.before.pixel, found.after.pixel) == (0, 0)
    assert torch.equal(found.image, photo)


def test_the_seed_decides(G: Generator, encoder: Encoder) -> None:
    photo = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)
    first, again, other = (search(G, encoder, photo, steps=4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.w, again.w)
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.w, other.w)


def test_a_code_per_layer_comes_nearer(G: Generator, encoder: Encoder) -> None:
    ws = G.mapping(torch.randn(2, 8, generator=torch.Generator().manual_seed(6)))
    mixed = torch.cat([ws[:1, :2], ws[1:, 2:]], dim=1)
    photo = G.synthesis(mixed, noise_mode="const")
    one, several = (search(G, encoder, photo, space=space) for space in ("w", "w+"))
    assert several.after.perceptual < one.after.perceptual / 2
    assert several.w.shape == (G.num_ws, 8)
    assert not (several.w == several.w[0]).all()


def test_noise_is_learned_and_stays_standardized() -> None:
    torch.manual_seed(2)
    G = Generator(8, 0, 8, 16, mapping_layers=2, channel_base=128, channel_max=8).eval().requires_grad_(False)
    for name, value in G.named_parameters():
        if name.endswith("noise_strength"):
            value.fill_(0.5)
    before = {name: value.clone() for name, value in G.synthesis.named_buffers() if "noise" in name}
    photo = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)
    free, kept = (search(G, RandomEncoder(), photo, noise_weight=weight, steps=30) for weight in (0.0, 1e5))
    for name, value in kept.noise.items():
        assert not torch.equal(value, before[name])
        torch.testing.assert_close(value.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
        torch.testing.assert_close(value.square().mean(), torch.tensor(1.0))
        assert torch.equal(before[name], dict(G.synthesis.named_buffers())[name])
    assert noise_correlation(kept.noise.values()) < noise_correlation(free.noise.values()) / 10


def test_correlation_of_noise() -> None:
    # Neighbours of ones are ones, and each coarser scale has twice their values: 2 * (1 + 4^2 + 16^2).
    assert noise_correlation([torch.ones(8, 8)]) == 2
    assert noise_correlation([torch.ones(32, 32)]) == 2 * (1 + 4**2 + 16**2)
    stripes = torch.tensor([1.0, -1.0]).repeat(16).expand(32, 32)
    # Rows equal their neighbours and columns oppose theirs; a pair averages to nothing.
    assert noise_correlation([stripes]) == 2
    white = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    assert noise_correlation([white]) < 0.1


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate_at(progress) for progress in (0, 0.025, 0.05, 0.5, 0.75, 0.875, 1)]
    assert rates == pytest.approx([0, 0.5, 1, 1, 1, 0.5, 0])


def test_photos_are_turned_and_cropped(tmp_path: Path) -> None:
    pixels = np.zeros((24, 48, 3), np.uint8)
    pixels[:12, 12:36] = 255
    exif = Image.Exif()
    # The upper side of the stored image is the right one of what it shows.
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    photo = read_photo(tmp_path / "a.png", 8)
    assert photo.shape == (1, 3, 8, 8)
    assert (photo[..., :3] < -0.8).all()
    assert (photo[..., 5:] > 0.8).all()


def test_the_command_writes_code_noise_and_picture(
    hsr: Command,
    encoder: Encoder,
    labelled: Path,
    small_cfg: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("hsr.projection.command.build_encoder", lambda *_, **__: encoder)
    assert hsr("train", "--cfg", small_cfg, "--data", labelled, "--kimg", 0.004, "--device", "cpu") == 0
    (run,) = run_folders(tmp_path)
    photos = [labelled / "00000/img0000.png", labelled / "00000/img0001.png"]
    command = ["project", "--checkpoint", run, "--device", "cpu", "--steps", 3]
    assert hsr(*command, *photos) == 0
    tensors, header = load_tensors(tmp_path / "projected/img0001.safetensors")
    assert tensors["w"].shape == (6, 8)
    assert tensors["noise.blocks.16.conv1.noise_const"].shape == (16, 16)
    assert header["label"] in (0, 1)
    assert (header["encoder"], header["photo"]) == ("random", str(photos[1]))
    assert header["distances"]["after"].keys() == {"perceptual", "pixel"}
    assert header["settings"]["space"] == "w"
    picture = np.asarray(Image.open(tmp_path / "projected/img0001.png"))
    assert picture.shape == (16, 48, 3)
    assert (picture[:, :16] == np.asarray(Image.open(photos[1]))).all()

    # A photo's result doesn't depend on the others.
    assert hsr(*command, photos[1], "--outdir", "alone", "--label", header["label"]) == 0
    alone, _ = load_tensors(tmp_path / "alone/img0001.safetensors")
    assert torch.equal(alone["w"], tensors["w"])

    (tmp_path / "text.png").write_text("text")
    (tmp_path / "img0000.png").write_bytes(photos[0].read_bytes())
    capsys.readouterr()
    for words, message in (
        ([*command, "none.png"], "none.png does not exist."),
        ([*command, "text.png"], "text.png cannot be read as an image"),
        ([*command, photos[0], "img0000.png"], "would be written to one file"),
        ([*command, "img0000.png", "--outdir", "."], "img0000.png would be replaced"),
        ([*command, photos[0], "--label", 7], "--label 7 is not a class of this network"),
        (["project", photos[0], "--checkpoint", "none"], "none does not exist."),
    ):
        assert hsr(*words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error


def test_an_edit_has_the_projection_in_its_middle(
    encoder: Encoder,
    hsr: Command,
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the noise that was found for the photo, in a network whose noise shows."""
    monkeypatch.setattr("hsr.projection.command.build_encoder", lambda *_, **__: encoder)
    torch.manual_seed(0)
    G = build_generator(SMALL, 16, 0).requires_grad_(False)
    for name, value in G.named_parameters():
        if name.endswith("noise_strength"):
            value.fill_(1)
    weights = write_weights(tmp_path / "noisy.safetensors", G, ())
    common = ("--checkpoint", weights, "--device", "cpu")
    assert hsr("project", labelled / "00000/img0000.png", *common, "--steps", 20, "--noise-weight", 0) == 0
    assert hsr("directions", *common, "--method", "sefa", "--number", 1, "--samples", 100) == 0
    edit = ("edit", *common, "--directions", "directions.safetensors", "--direction", "sefa-1@all", "--frames", 3)
    tensors, _ = load_tensors(tmp_path / "projected/img0000.safetensors")
    save_tensors({"w": tensors["w"]}, tmp_path / "code.safetensors", {})
    middles = []
    for source in ("projected/img0000.safetensors", "code.safetensors"):
        assert hsr(*edit, "--from", source) == 0
        middles.append(np.asarray(Image.open(tmp_path / "edit.png"))[:, 16:32].astype(int))
    projection = np.asarray(Image.open(tmp_path / "projected/img0000.png"))[:, 16:32]
    assert abs(middles[0] - projection).max() <= 1
    assert abs(middles[1] - projection).mean() > 10
    assert "other weights" not in capsys.readouterr().out
    G.synthesis.get_parameter("blocks.16.torgb.bias").add_(0.1)
    edit = ("edit", "--checkpoint", write_weights(tmp_path / "other.safetensors", G, ()), *edit[3:])
    assert hsr(*edit, "--from", "projected/img0000.safetensors") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The codes in projected/img0000.safetensors were found with other weights of the same shape." in said
    assert "The directions in directions.safetensors were found with other weights of the same shape." in said
