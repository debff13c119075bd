# SPDX-License-Identifier: Apache-2.0
"""`hsr train` from end to end: what runs leave behind, resuming, interruption."""

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hsr.cli import main
from hsr.console import SteadyOutput
from hsr.semantics import LabelEncoder
from hsr.training.checkpoint import CheckpointFolder
from hsr.training.evaluation import Evaluator
from hsr.training.stop import MIN_SECONDS_BETWEEN_REQUESTS
from hsr.training.trainer import Trainer
from hsr.weights import find_weights, read_header
from tests.selection import FULL, kept

from .conftest import run_folders

Command = Callable[..., int]

# Time for a command in a process of its own, on a machine that is busy with other tests.
MAX_SECONDS = 200


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


def test_many_resumes_equal_one_run(
    hsr: Command, labelled: Path, small_cfg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At ticks and between them, at the start, after a session that did nothing, after a crash past the checkpoint."""
    options = ["train", "--cfg", small_cfg, "--data", labelled, "--mirror", "--device", "cpu"]
    assert hsr(*options, "--kimg", 0.052) == 0
    assert hsr(*options, "--kimg", 0.004) == 0
    whole, part = run_folders(tmp_path)
    again = ["train", "--resume", part, "--device", "cpu"]
    for kimg in (0.004, 0.02, 0.028):
        assert hsr(*again, "--kimg", kimg) == 0

    def crash(self: CheckpointFolder, *_: object) -> None:
        raise RuntimeError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFolder, "save", crash)
        with pytest.raises(RuntimeError, match="power"):
            main([str(word) for word in [*again, "--kimg", 0.052]])
    for kimg in (0.036, 0.052):
        assert hsr(*again, "--kimg", kimg) == 0
    assert_same_state(part, whole)
    ticks = [[e["kimg"] for e in events(run) if e["event"] == "tick"] for run in (part, whole)]
    assert ticks[1] == [0.008, 0.016, 0.024, 0.032, 0.04, 0.048, 0.052]
    # A session ends with a tick of its own; none is there twice.
    assert ticks[0] == sorted({*ticks[1], 0.004, 0.02, 0.028, 0.036})
    values = [{e["kimg"]: e["Loss/D/gan"] for e in events(run) if e["event"] == "tick"} for run in (part, whole)]
    assert values[0][0.048] == values[1][0.048]


def test_a_run_stopped_while_it_starts_goes_on(
    hsr: Command, labelled: Path, small_cfg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics of the start take minutes on large sets: they're given up at once, and made up for later."""
    options = ["train", "--cfg", small_cfg, "--data", labelled, "--device", "cpu"]
    assert hsr(*options) == 0

    def interrupted(self: Evaluator, metrics: object, G: object) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("metrics must be interruptible")

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "measure", interrupted)
        assert hsr(*options) == 0
    whole, stopped = run_folders(tmp_path)
    assert [event["event"] for event in events(stopped)] == []
    assert hsr("train", "--resume", stopped, "--device", "cpu") == 0
    assert_same_state(stopped, whole)
    assert [event["event"] for event in events(stopped)] == [event["event"] for event in events(whole)]


@pytest.mark.parametrize("number", kept([signal.SIGTERM, pytest.param(signal.SIGHUP, marks=FULL)]))
def test_signals_to_every_process_of_a_job_save(
    labelled: Path, write_cfg: Callable[..., Path], number: signal.Signals
) -> None:
    """Schedulers and terminals signal the workers too; they must live until the main process has stopped."""
    cfg = write_cfg("long", threads=1, kimg=1000.0, hsr_weight=0.0, checkpoint_ticks=0)
    command = [
        sys.executable,
        "-m",
        "hsr",
        "train",
        "--cfg",
        cfg,
        "--data",
        labelled,
        "--workers",
        2,
        "--device",
        "cpu",
    ]
    job = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=labelled.parent,
        start_new_session=True,
    )  # fmt: skip
    log = labelled.parent / "runs/001-labelled-small-baseline/log.jsonl"
    deadline = time.monotonic() + MAX_SECONDS
    while (not log.exists() or '"tick"' not in log.read_text()) and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.05)
    # `timeout` signals its child, and then its group with the child in it.
    os.kill(job.pid, number)
    os.killpg(job.pid, number)
    out, error = job.communicate(timeout=MAX_SECONDS)
    assert job.returncode == 0 and "Traceback" not in error, error
    assert "and saved. Continue with: hsr train --resume" in out
    assert read_header(find_weights(log.parent)).images_seen > 0


def test_names_that_a_terminal_cannot_show_are_shown_otherwise() -> None:
    bytes_written = io.BytesIO()
    output = SteadyOutput(io.TextIOWrapper(bytes_written, encoding="ascii"))
    for text in ("M\u00fcller ", "\udcff ", "on"):
        output.write(text)
    output.flush()
    assert bytes_written.getvalue() == b"M\\xfcller \\udcff on"


def test_a_run_survives_its_terminal(labelled: Path, write_cfg: Callable[..., Path]) -> None:
    """Nobody reads what it prints any more, and it trains to its end all the same."""
    cfg = write_cfg("quiet", threads=1, hsr_weight=0.0)
    command = [sys.executable, "-m", "hsr", "train", "--cfg", cfg, "--data", labelled, "--device", "cpu"]
    job = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=labelled.parent
    )
    assert job.stdout is not None and job.stderr is not None
    job.stdout.close()
    assert job.wait(MAX_SECONDS) == 0 and job.stderr.read() == ""
    job.stderr.close()
    assert read_header(find_weights(labelled.parent / "runs/001-labelled-small-baseline")).images_seen == 20


@pytest.mark.parametrize("number", kept([signal.SIGINT, pytest.param(signal.SIGTERM, marks=FULL), signal.SIGHUP]))
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
    step = Trainer.step

    def stuck(self: Trainer, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.steps == 0:
            return step(self, images, labels)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # Still the first request: some send it twice.
        time.sleep(MIN_SECONDS_BETWEEN_REQUESTS + 0.1)
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


@pytest.mark.usefixtures("no_encoders")
def test_a_baseline_needs_neither_labels_nor_encoder(
    hsr: Command,
    images: Path,
    write_cfg: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
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
    assert "Training diverged (Loss/G/gan persistently not finite" in capsys.readouterr().err
    assert read_header(find_weights(run_folders(tmp_path)[0])).images_seen == 0


def test_a_full_gpu_is_a_sentence(
    hsr: Command, labelled: Path, small_cfg: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Trainer, *batch: torch.Tensor) -> dict[str, torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Trainer, "step", full)
    assert hsr("train", "--cfg", small_cfg, "--data", labelled, "--device", "cpu") == 2
    assert "--batch-gpu" in (message := capsys.readouterr().err) and "Tried to allocate 2.00 GiB" in message


def test_one_bad_step_is_counted_and_survived(
    hsr: Command, labelled: Path, small_cfg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    step = Trainer.step

    def overflow(self: Trainer, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        bad = {"Loss/G/gan": torch.tensor(float("inf"))} if self.steps == 2 else {}
        return step(self, images, labels) | bad

    monkeypatch.setattr(Trainer, "step", overflow)
    assert hsr("train", "--cfg", small_cfg, "--data", labelled, "--device", "cpu") == 0
    (run,) = run_folders(tmp_path)
    ticks = [event for event in events(run) if event["event"] == "tick"]
    assert [tick.get("Not finite/Loss/G/gan", 0) for tick in ticks] == [0, 1, 0]
    assert all(math.isfinite(value) for tick in ticks for name, value in tick.items() if name != "event")
    assert "not finite: Loss/G/gan 1 times" in capsys.readouterr().out


def test_classes_are_the_datas_own(hsr: Command, images: Path, small_cfg: Path, tmp_path: Path) -> None:
    """Labels 100 and 2,000,000,000 make two classes, known by these numbers wherever a class is named."""
    names = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    pairs = [[name, (100, 2_000_000_000)[i % 2]] for i, name in enumerate(names)]
    (images / "dataset.json").write_text(json.dumps({"labels": pairs}))
    assert hsr("train", "--cfg", small_cfg, "--data", images, "--kimg", 0.004, "--device", "cpu") == 0
    (run,) = run_folders(tmp_path)
    assert read_header(find_weights(run)).classes == (100, 2_000_000_000)
    command = ["generate", "--checkpoint", run, "--device", "cpu", "--seeds", "9999999999", "--label"]
    assert hsr(*command, 2_000_000_000) == 0
    assert hsr(*command, 1) == hsr(*command, 101) == 2


def test_a_start_from_weights_is_no_worse_after_a_step(
    hsr: Command, labelled: Path, write_cfg: Callable[..., Path], tmp_path: Path
) -> None:
    """The average stays that of what was trained, and the penalty on path lengths begins where it was."""
    cfg = write_cfg("rampup", ema_kimg=10.0, ema_rampup=0.05)
    assert hsr("train", "--cfg", write_cfg("slow", ema_kimg=10.0), "--data", labelled, "--device", "cpu") == 0
    (first,) = run_folders(tmp_path)
    weights = find_weights(first)
    options = ["--resume", weights, "--data", labelled, "--kimg", 0.004, "--device", "cpu"]
    assert hsr("train", "--cfg", cfg, *options) == 0
    second = run_folders(tmp_path)[1]
    assert json.loads((second / "config.json").read_text())["ema_rampup"] is None
    start, end = (event for event in events(second) if event["event"] in ("start", "summary"))
    name = next(name for name in start if "Frechet" in name)
    assert end[name] <= 1.02 * start[name]
    before, after = (safetensors.torch.load_file(path) for path in (weights, find_weights(second)))
    # The average of latents, a buffer, is copied.
    for key in (key for key in before if key.startswith("G_ema.") and not key.endswith(".w_avg")):
        moved = (after[key] - before[key]).abs().max()
        assert moved <= 0.01 * (after[key.replace("G_ema.", "G.")] - before[key]).abs().max(), key
    state = safetensors.torch.load_file(second / "checkpoints/state.safetensors")
    # The two samples of one batch differ; a penalty that began at 0 would be at a hundredth of theirs.
    assert 1 / 3 < state["loss.pl_mean"].item() / events(second)[1]["Loss/G/path_length"] < 3


def test_a_run_goes_on_with_its_own_encoder_only(
    hsr: Command, labelled: Path, small_cfg: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What "auto" stands for may change between sessions; the baseline has an encoder for its metrics alone."""
    runs = labelled.parent / "runs"
    for weight in (1, 0):
        options = ["--cfg", small_cfg, "--data", labelled, "--hsr-weight", weight, "--kimg", 0.004, "--device", "cpu"]
        assert hsr("train", *options) == 0
    monkeypatch.setattr(LabelEncoder, "name", "another")
    regularized, baseline = sorted(runs.iterdir())
    assert hsr("train", "--resume", regularized, "--kimg", 0.008, "--device", "cpu") == 2
    assert "was trained with the encoder labels, but now it would be another" in capsys.readouterr().err
    assert hsr("train", "--resume", baseline, "--kimg", 0.008, "--device", "cpu") == 0
