# SPDX-License-Identifier: Apache-2.0
"""Run folders: what they are called, what they keep, what is measured on the way, and how a run is repeated."""

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hsr.config import preset
from hsr.models.build import build_discriminator
from hsr.training.evaluation import Evaluator
from hsr.weights import read_header, weight_files

from .conftest import run_folders
from .test_train import assert_same_state, events

Command = Callable[..., int]


def test_a_configuration_repeats_its_run(
    hsr: Command, labelled: Path, small_cfg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its data, its seed, and the weights that it started from."""
    assert hsr("train", "--cfg", small_cfg, "--data", labelled, "--seed", 3, "--desc", "first", "--device", "cpu") == 0
    (first,) = run_folders(tmp_path)
    assert first.name == "001-labelled-small-first"
    start = weight_files(first / "checkpoints")[-1]
    assert hsr("train", "--resume", start, "--data", labelled, "--kimg", 0.008, "--device", "cpu") == 0
    for run in (first, run_folders(tmp_path)[1]):
        assert hsr("train", "--cfg", run / "config.json", "--device", "cpu") == 0
        assert_same_state(run_folders(tmp_path)[-1], run)
    start.unlink()
    assert hsr("train", "--cfg", run / "config.json", "--device", "cpu") == 2
    assert "000000.020.safetensors, does not exist" in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_trained(
    hsr: Command, labelled: Path, small_cfg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--cfg", small_cfg, "--data", labelled, "--device", "cpu", "--gamma", 3.5, "--dry-run"]
    assert hsr(*command) == 0
    assert not (tmp_path / "runs").exists()
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    table = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    assert (table["gamma"], table["steps"], table["kimg"]) == ("3.5", "5", "0.02")
    assert table["discriminator"].endswith("parameters")
    assert hsr(*command, "--desc", "a/b") == 2
    assert "--desc a/b cannot be part of a folder's name" in capsys.readouterr().err


def test_the_best_checkpoint_outlives_the_others(
    hsr: Command, labelled: Path, write_cfg: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """By the first metric that is named, also where the best comes after a resume."""
    coverage = iter([0.25, 0.125, 0.75, 0.5, 0.875, 0.5, 0.875])

    def measured(self: Evaluator, metrics: list[str], G: object) -> dict[str, float]:
        value = next(coverage)
        return {self.title(name): value if name == "coverage" else 1.0 for name in metrics}

    monkeypatch.setattr(Evaluator, "measure", measured)
    cfg = write_cfg("best", checkpoint_ticks=1, checkpoints_kept=1, metric_ticks=1)
    command = ["train", "--cfg", cfg, "--data", labelled, "--metrics", "coverage,recall", "--device", "cpu"]
    assert hsr(*command) == 0
    (run,) = run_folders(tmp_path)
    best = run / "checkpoints/best.safetensors"
    assert (read_header(best).images_seen, len(weight_files(best.parent))) == (16, 1)
    assert "Best Coverage, labels features, 5 held-out images: 0.75 at 0.016 kimg" in capsys.readouterr().out
    assert hsr("train", "--resume", run, "--kimg", 0.036, "--keep", 2, "--device", "cpu") == 0
    assert (read_header(best).images_seen, len(weight_files(best.parent))) == (24, 2)
    assert (
        "Since the last checkpoint, kimg was 0.02 and is 0.036 now; checkpoints_kept was 1" in capsys.readouterr().out
    )
    kinds = [event["event"] for event in events(run)]
    assert kinds == ["start", *["tick", "metrics"] * 2, "tick", "summary", *["tick", "metrics"] * 2, "tick", "summary"]
    assert hsr("train", "--cfg", cfg, "--data", labelled, "--metrics", "fid", "--device", "cpu") == 2
    assert "metrics names 'fid', but must name some of frechet, ppl_w" in capsys.readouterr().err


def test_a_configuration_that_was_edited_is_not_continued(
    hsr: Command, labelled: Path, small_cfg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hsr("train", "--cfg", small_cfg, "--data", labelled, "--kimg", 0.004, "--device", "cpu") == 0
    (run,) = run_folders(tmp_path)
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"learning_rate": 0.5, "kimg": 0.008}))
    assert hsr("train", "--resume", run, "--device", "cpu") == 2
    message = capsys.readouterr().err
    assert "learning_rate was 0.002 and is 0.5 now. Leave that out" in message and "kimg" not in message.split("--")[0]
    (run / "config.json").write_text(json.dumps(settings))
    assert hsr("train", "--resume", run, "--cfg", small_cfg, "--device", "cpu") == 0


def test_scalars_go_to_weights_and_biases(
    hsr: Command, labelled: Path, small_cfg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in takes the calls, as the service needs an account; the real library took them by hand."""
    calls: list[Any] = []
    run = types.SimpleNamespace(
        log=lambda scalars, step: calls.append((step, scalars)), finish=lambda: calls.append("finish")
    )
    module = types.ModuleType("wandb")
    module.init = lambda **words: calls.append(words) or run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    command = ["train", "--cfg", small_cfg, "--data", labelled, "--wandb", "mine", "--kimg", 0.008, "--device", "cpu"]
    assert hsr(*command) == 0
    (folder,) = run_folders(tmp_path)
    started, *logged, finished = calls
    assert (started["project"], started["config"]["seed"], finished) == ("mine", 0, "finish")
    assert [step for step, _ in logged] == [0, 8, 8] and logged[1][1]["Loss/G/gan"] == events(folder)[1]["Loss/G/gan"]
    calls.clear()
    assert hsr("train", "--resume", folder, "--wandb", "mine", "--kimg", 0.012, "--device", "cpu") == 0
    assert calls[0]["id"] == started["id"]
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert hsr(*command) == 2


def test_published_settings_stand_apart() -> None:
    """Two presets were published under one name; the discriminator for CIFAR-10 has no skips."""
    ours, theirs = preset("paper256", 256, "cuda"), preset("nvlabs-paper256", 256, "cuda")
    assert (ours.batch, ours.minibatch_std_group, ours.learning_rate, ours.ema_kimg) == (16, 4, 0.002, 10)
    assert (theirs.batch, theirs.minibatch_std_group, theirs.learning_rate, theirs.ema_kimg) == (64, 8, 0.0025, 20)
    assert ours.channel_base == theirs.channel_base == 16384
    assert [preset(name, 512, "cuda").gamma for name in ("paper512", "paper1024", "stylegan2")] == [0.5, 2, 10]
    cifar = preset("cifar", 32, "cuda")
    assert not [name for name, _ in build_discriminator(cifar, 32, 10).named_parameters() if "skip" in name]
    assert (cifar.path_length_weight, cifar.style_mixing, cifar.ema_kimg, cifar.minibatch_std_group) == (0, 0, 500, 32)
