# SPDX-License-Identifier: Apache-2.0
"""`hsr train` and `hsr generate` from end to end: what runs leave behind, resuming, interruption."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hsr.training.checkpoint import find_weights, read_header
from hsr.training.trainer import Trainer

Command = Callable[..., int]


def run_folders(folder: Path) -> list[Path]:
    return sorted((folder / "runs").iterdir())


def final_tensors(run: Path) -> dict[str, torch.Tensor]:
    state = safetensors.torch.load_file(run / "checkpoints/state.safetensors")
    return state | safetensors.torch.load_file(find_weights(run))


def assert_same_state(run: Path, other: Path) -> None:
    found, expected = final_tensors(run), final_tensors(other)
    assert found.keys() == expected.keys()
    assert all(value.equal(expected[name]) for name, value in found.items())


def events(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_train_leaves_a_complete_run_folder(
    hsr: Command, labelled: Path, small_cfg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hsr("train", "--cfg", small_cfg, "--data", labelled, "--seed", 5, "--device", "cpu") == 0
    (run,) = run_folders(tmp_path)
    assert run.name == "001-labelled-small"
    config = json.loads((run / "config.json").read_text())
    assert (config["seed"], config["data"], config["hsr_hidden"]) == (5, str(labelled), 8)

    samples = sorted(path.name for path in (run / "samples").iterdir())
    assert samples == ["000000.000.png", "000000.008.png", "000000.016.png", "000000.020.png"]
    assert Image.open(run / "samples/000000.020.png").size == Image.open(run / "reals.png").size == (160, 160)

    log = events(run)
    assert [event["event"] for event in log] == ["start", "tick", "tick", "tick", "summary"]
    frechet = "Metrics/Frechet distance, labels features, 5 held-out images"
    path_length = "Metrics/PPL in w, labels features"
    assert log[0][frechet] > 0 and log[-1][frechet] > 0 and log[-1][path_length] > 0
    terms = {
        "Loss/G/gan",
        "Loss/G/hsr",
        "Loss/G/hsr_8",
        "Loss/G/hsr_16",
        "Loss/G/pl",
        "Loss/D/gan",
        "Loss/D/r1",
    }
    assert terms <= log[1].keys() and log[1]["kimg"] == 0.008

    board = EventAccumulator(str(run))
    board.Reload()
    assert terms <= set(board.Tags()["scalars"])
    assert [scalar.step for scalar in board.Scalars("Loss/G/gan")] == [8, 16, 20]

    out = capsys.readouterr().out
    assert "held-out images:" in out and "at the start" in out and "at the end" in out
    assert str(run.relative_to(tmp_path) / "samples") in out
    assert "Accuracy of the encoder" in out


def test_resume_equals_training_in_one_go(hsr: Command, labelled: Path, small_cfg: Path, tmp_path: Path) -> None:
    options = ["train", "--cfg", small_cfg, "--data", labelled, "--mirror", "--device", "cpu"]
    assert hsr(*options, "--kimg", 0.036) == 0
    assert hsr(*options, "--kimg", 0.012) == 0
    whole, part = run_folders(tmp_path)
    assert hsr("train", "--resume", part, "--kimg", 0.036, "--workers", 1, "--device", "cpu") == 0
    assert_same_state(part, whole)
    assert (part / "samples/000000.036.png").read_bytes() == (whole / "samples/000000.036.png").read_bytes()
    assert len(run_folders(tmp_path)) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_resume_goes_on(
    hsr: Command,
    labelled: Path,
    small_cfg: Path,
    tmp_path: Path,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["train", "--cfg", small_cfg, "--data", labelled, "--device", "cpu"]
    assert hsr(*options) == 0
    step = Trainer.step

    def interrupted(self: Trainer, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.steps == 2:
            os.kill(os.getpid(), number)
        return step(self, images, labels)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        assert hsr(*options) == 0
    whole, stopped = run_folders(tmp_path)
    assert read_header(find_weights(stopped)).images_seen == 12
    assert f"hsr train --resume {stopped.relative_to(tmp_path)}" in capsys.readouterr().out
    assert hsr("train", "--resume", stopped, "--device", "cpu") == 0
    assert_same_state(stopped, whole)


def test_a_second_ctrl_c_ends_at_once(
    hsr: Command, labelled: Path, small_cfg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(self: Trainer, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal must interrupt")

    monkeypatch.setattr(Trainer, "step", stuck)
    assert hsr("train", "--cfg", small_cfg, "--data", labelled, "--device", "cpu") == 130


def test_hsr_starts_from_a_baseline(hsr: Command, labelled: Path, small_cfg: Path, tmp_path: Path) -> None:
    options = ["--cfg", small_cfg, "--data", labelled, "--device", "cpu"]
    assert hsr("train", *options, "--hsr-weight", 0) == 0
    (baseline,) = run_folders(tmp_path)
    assert baseline.name == "001-labelled-small-baseline"
    assert hsr("train", *options, "--resume", find_weights(baseline), "--kimg", 0.004) == 0
    regularized = run_folders(tmp_path)[1]
    start = safetensors.torch.load_file(regularized / "checkpoints/000000.000.safetensors")
    end = safetensors.torch.load_file(find_weights(baseline))
    assert {name for name in start if name not in end} == {n for n in start if n.startswith("hsr.heads.")}
    assert all(start[name].equal(value) for name, value in end.items())
    assert "Loss/G/hsr" in events(regularized)[1]


def test_a_baseline_needs_neither_labels_nor_encoder(
    hsr: Command,
    images: Path,
    write_cfg: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("hsr.semantics.weights_at_hand", lambda name: False)
    cfg = write_cfg("baseline", encoder="auto", hsr_weight=0.0, kimg=0.008)
    assert hsr("train", "--cfg", cfg, "--data", images, "--device", "cpu") == 0
    (run,) = run_folders(tmp_path)
    assert [event["event"] for event in events(run)] == ["start", "tick", "summary"]
    assert "no Frechet distance and no PPL" in capsys.readouterr().out


def test_divergence_stops_the_run_before_a_checkpoint(
    hsr: Command,
    labelled: Path,
    small_cfg: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = Trainer.step

    def diverged(self: Trainer, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return step(self, images, labels) | {"Loss/G/gan": torch.tensor(float("nan"))}

    monkeypatch.setattr(Trainer, "step", diverged)
    assert hsr("train", "--cfg", small_cfg, "--data", labelled, "--device", "cpu") == 2
    assert "Training diverged (Loss/G/gan not finite" in capsys.readouterr().err
    assert read_header(find_weights(run_folders(tmp_path)[0])).images_seen == 0


def test_generate_writes_a_grid_and_single_images(
    hsr: Command, labelled: Path, small_cfg: Path, tmp_path: Path
) -> None:
    assert hsr("train", "--cfg", small_cfg, "--data", labelled, "--kimg", 0.004, "--device", "cpu") == 0
    (run,) = run_folders(tmp_path)
    command = ["generate", "--checkpoint", run, "--device", "cpu", "--seeds"]
    assert hsr(*command, "0-35", "--truncation", 0.7) == 0
    grid = np.asarray(Image.open(tmp_path / "generated.png"))
    assert grid.shape == (6 * 16, 6 * 16, 3)

    assert hsr(*command, "3,5", "--out", "deep/two.png", "--outdir", "single", "--truncation", 0.7) == 0
    assert sorted(p.name for p in (tmp_path / "single").iterdir()) == ["seed0003.png", "seed0005.png"]
    alone = np.asarray(Image.open(tmp_path / "single/seed0003.png")).astype(int)
    assert abs(alone - grid[:16, 48:64]).max() <= 1  # Batches of another size may round otherwise.
    assert Image.open(tmp_path / "deep/two.png").size == (32, 16)

    assert hsr(*command, "3", "--label", 0, "--out", "zero.png") == 0
    assert hsr(*command, "3", "--label", 1, "--out", "one.png") == 0
    assert (tmp_path / "zero.png").read_bytes() != (tmp_path / "one.png").read_bytes()
    assert hsr(*command, "3", "--label", 2) == 2
