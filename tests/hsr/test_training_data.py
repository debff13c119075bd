# SPDX-License-Identifier: Apache-2.0
"""Which images a run trains on: photographs as they are, subsets, held-out images, and what the data set decides."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hsr.config import Config, preset
from hsr.data import ImageDataset
from hsr.data.decoding import render
from hsr.semantics import LabelEncoder
from hsr.training.evaluation import Evaluator
from hsr.training.split import decide, split_images

from .conftest import run_folders
from .test_train import events

Command = Callable[..., int]


def make_set(count: int, num_classes: int = 0) -> ImageDataset:
    """Images of one pixel's information: their position."""
    pixels = np.broadcast_to(np.arange(count)[:, None, None, None] % 256, (count, 3, 8, 8)).astype(np.uint8)
    labels = np.arange(count) * num_classes // count if num_classes else None
    return ImageDataset("set", 8, labels, pixels, np.arange(count), "x", classes=tuple(range(num_classes)))


@pytest.mark.parametrize(
    ("count", "num_classes", "changes", "held_out", "mirror"),
    [
        (4999, 0, {}, 500, True),
        (5000, 0, {}, 0, True),
        (9999, 0, {}, 0, True),
        (10_000, 0, {}, 0, False),
        (100, 2, {}, 10, False),
        (100, 0, {"mirror": False, "held_out": 0.0}, 0, False),
        (10_000, 2, {"mirror": True, "held_out": 0.2}, 2000, True),
    ],
)
def test_what_is_not_said_the_data_set_decides(
    count: int, num_classes: int, changes: dict, held_out: int, mirror: bool
) -> None:
    dataset = make_set(count, num_classes)
    config, sentences = decide(Config(preset="x", **changes), dataset)
    split = split_images(dataset, config)
    assert (len(split.train), len(split.held_out), config.mirror) == (count - held_out, held_out, mirror)
    assert len(sentences) == 2 - len(changes)
    assert (split.reals is split.held_out, split.reals_kind) == (
        (True, "held-out") if held_out else (False, "training")
    )
    assert decide(config, dataset) == (config, [])


def test_presets_keep_what_they_state() -> None:
    config, sentences = decide(preset("digits", 32, "cpu"), make_set(1797, num_classes=10))
    assert (config.held_out, config.mirror, sentences) == (0.2, False, [])
    assert decide(preset("paper256", 256, "cuda"), make_set(20_000))[0].mirror is True


def test_a_subset_follows_the_seed_and_leaves_the_held_out_images() -> None:
    dataset = make_set(100)
    config = Config(preset="x", held_out=0.2, subset=30)
    whole, part = (split_images(dataset, dataclasses.replace(config, subset=n)) for n in (None, 30))
    assert len(part.train) == 30 and part.held_out.indices.tolist() == whole.held_out.indices.tolist()
    assert set(part.train.indices) < set(whole.train.indices)
    assert split_images(dataset, config).train.indices.tolist() == part.train.indices.tolist()
    other = split_images(dataset, dataclasses.replace(config, seed=1))
    assert other.train.indices.tolist() != part.train.indices.tolist()
    assert other.held_out.indices.tolist() == whole.held_out.indices.tolist()


def test_metrics_compare_with_training_images_of_every_class() -> None:
    dataset = make_set(400, num_classes=4)
    split = split_images(dataset, Config(preset="x", held_out=0.0))
    encoder = LabelEncoder(4)
    cpu = torch.device("cpu")
    evaluator = Evaluator(encoder, split.reals, 40, cpu, seed=0, reals_kind=split.reals_kind)
    assert evaluator.title("frechet") == "Metrics/Frechet distance, labels features, 40 training images"
    drawn = evaluator._classes(4, torch.Generator().manual_seed(0))
    assert drawn is not None and (drawn.sum(dim=0) > 0).all()
    other = Evaluator(encoder, split.reals, 40, cpu, seed=1)
    assert other._reals.indices.tolist() == evaluator._reals.indices.tolist()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photographs of 40x30 in two classes."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(tmp_path / f"photos/{i:02}.jpg")
    return tmp_path / "photos"


@pytest.mark.usefixtures("no_encoders")
def test_photographs_are_prepared_once(
    hsr: Command,
    photos: Path,
    small_cfg: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rendered: list[int] = []
    monkeypatch.setattr("hsr.preparation.picture.render", lambda *a: rendered.append(1) or render(*a))
    command = ["train", "--cfg", small_cfg, "--data", photos, "--hsr-weight", 0, "--encoder", "auto", "--device", "cpu"]
    assert hsr(*command) == 2
    error = capsys.readouterr().err
    assert "00.jpg in " in error and "is 40x30, but images must be square: hsr train --resize 16 crops" in error

    command += ["--resize", 16, "--held-out", 0.25, "--subset", 10]
    assert hsr(*command, "--kimg", 0.004) == 0 and len(rendered) == 24
    capsys.readouterr()
    assert hsr(*command, "--dry-run") == 0 and len(rendered) == 24
    assert "24 images (24 JPEG) of " in capsys.readouterr().out
    (run,) = run_folders(tmp_path)
    assert run.name == "001-photos-small-baseline"
    config = json.loads((run / "config.json").read_text())
    assert (config["data"], config["resize"], config["subset"]) == (str(photos), 16, 10)
    assert (config["held_out"], config["mirror"]) == (0.25, True)

    shutil.rmtree(tmp_path / "cache")
    assert hsr("train", "--resume", run, "--kimg", 0.008, "--device", "cpu") == 0 and len(rendered) == 48
    assert "10 images, 16 pixels wide, and 6 held out" in capsys.readouterr().out
    assert hsr("train", "--resume", run, "--resize", 8, "--device", "cpu") == 2
    (photos / "00.jpg").unlink()
    assert hsr("train", "--resume", run, "--device", "cpu") == 2
    assert "not those that the run was trained on" in capsys.readouterr().err


def test_all_images_may_be_trained_on_and_labels_left_alone(
    hsr: Command, labelled: Path, small_cfg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--cfg", small_cfg, "--data", labelled, "--hsr-weight", 0, "--kimg", 0.004, "--device", "cpu"]
    assert hsr(*command, "--held-out", 0, "--cond", "no") == 0
    (run,) = run_folders(tmp_path)
    config = json.loads((run / "config.json").read_text())
    assert (config["conditional"], config["held_out"], config["mirror"]) == (False, 0, False)
    assert events(run)[-1]["Metrics/Frechet distance, labels features, 12 training images"] > 0
    # Weights of other images don't say how many of these to hold out.
    other = tmp_path / "other"
    shutil.copytree(labelled, other)
    weights = sorted((run / "checkpoints").glob("0*"))[-1]
    for data, held_out in ((labelled, "0.0"), (other, "0.1")):
        capsys.readouterr()
        assert hsr("train", "--resume", weights, "--data", data, "--dry-run", "--device", "cpu") == 0
        assert ["held_out", held_out] in [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--resize 32", "--resize 32 is for images of your own"),
        ("--data images --resize 24", "--resize 24 is no power of two"),
        ("--data images --resize 4", "--resize 4 is no power of two from 8"),
        ("--data nowhere --resize 16", "nowhere does not exist"),
        ("--data hf:cifar10", "hf:cifar10 must be prepared: name the width of its images, as in --resize 32"),
        ("--data images --subset 23", "--subset 23 is more than the 22 images to train on"),
        ("--data images --held-out 0.95", "held_out is 0.95"),
    ],
)
def test_wrong_choices_of_images_are_one_sentence(
    hsr: Command, images: Path, options: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hsr("train", *options.split(), "--hsr-weight", 0, "--device", "cpu") == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
