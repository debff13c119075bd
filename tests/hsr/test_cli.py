# SPDX-License-Identifier: Apache-2.0
"""The command line: help, options, and what bad input gets."""

import dataclasses
import functools
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from hsr.cli import parse
from hsr.commands import SECTIONS
from hsr.data import open_dataset
from hsr.errors import UserError
from hsr.latents import parse_seeds
from hsr.options import TrainOptions, flag
from hsr.options.train import (
    AugmentationOptions,
    DataOptions,
    MachineOptions,
    RunOptions,
    ScheduleOptions,
    SemanticsOptions,
)
from hsr.training.checkpoint import CheckpointFolder
from hsr.training.trainer import Trainer

from .conftest import SMALL, write_images

TRAIN_OPTIONS = tuple(
    flag(group, field.name).removeprefix("--")
    for group in TrainOptions().groups()
    for field in dataclasses.fields(group)
)
OPTIONS = {
    "train": TRAIN_OPTIONS,
    "dataset": (
        "resize",
        "fit",
        "filter",
        "transparency",
        "padding",
        "labels",
        "duplicates",
        "max-images",
        "strict",
        "workers",
    ),
    "generate": ("checkpoint", "seeds", "truncation", "label", "rng", "out", "outdir", "device"),
    "edit": (
        "checkpoint",
        "directions",
        "direction",
        "seeds",
        "from",
        "range",
        "interpolate",
        "frames",
        "truncation",
        "rng",
        "label",
        "out",
        "device",
    ),
    "mix": ("checkpoint", "rows", "columns", "layers", "truncation", "rng", "label", "out", "device"),
    "directions": (
        "checkpoint",
        "out",
        "method",
        "data",
        "resize",
        "features",
        "attributes",
        "classifier",
        "only",
        "preserve",
        "number",
        "samples",
        "label",
        "seed",
        "device",
    ),
    "ui": ("against", "directions", "against-directions", "truncation", "port", "device"),
    "project": (
        "checkpoint",
        "space",
        "label",
        "encoder",
        "steps",
        "learning-rate",
        "pixel-weight",
        "noise-weight",
        "seed",
        "outdir",
        "device",
    ),
    "convert": ("to",),
    "evaluate": (
        "checkpoint",
        "metrics",
        "data",
        "resize",
        "reals",
        "features",
        "distance",
        "images",
        "pairs",
        "eps",
        "attributes",
        "classifier",
        "directions",
        "edit-range",
        "sequences",
        "samples",
        "r2-images",
        "batch",
        "seed",
        "out",
        "device",
    ),
    "export": ("checkpoint", "onnx", "torch-export", "aot-inductor", "input", "noise"),
}


@pytest.mark.parametrize(("command", "options"), OPTIONS.items())
def test_help_documents_every_option(
    command: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse([command, "--help"])
    assert end.value.code == 0
    text = " ".join(line.strip(" │") for line in capsys.readouterr().out.splitlines())
    for option in options:
        words = text.split(f"--{option} ")[1].split(" --")[0].split()
        assert len(words) > 4, f"--{option} has no description"


def test_help_answers_without_pytorch() -> None:
    code = """
import sys, hsr.__main__
try:
    hsr.__main__.main(["train", "--help"])
except SystemExit as end:
    sys.exit(end.code or "torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_options_arrive() -> None:
    words = (
        "train --data d.zip --outdir o --cfg auto --kimg 2.5 --batch 8 --gamma 1 --mirror --hsr-weight 0 "
        "--encoder labels --encoder-weights w --encoder-statistics official --seed 3 --resume r --device cpu "
        "--workers 2 --aug ada --target 0.5 --p 0.2 --augpipe bgc,-xflip --freezed 3"
    )
    expected = TrainOptions(
        DataOptions(Path("d.zip"), mirror=True, workers=2),
        SemanticsOptions(0.0, encoder="labels", encoder_weights=Path("w"), encoder_statistics="official"),
        ScheduleOptions(cfg="auto", kimg=2.5, batch=8, gamma=1.0, seed=3),
        RunOptions(outdir=Path("o"), resume=Path("r"), device="cpu"),
        AugmentationOptions("ada", 0.5, 0.2, "bgc,-xflip", 3),
    )
    command, options = parse(words.split())
    assert (command.name, options) == ("train", expected)
    assert parse(["train"])[1] == TrainOptions()


@pytest.mark.parametrize(
    ("words", "mirror"), [("", None), ("--mirror", True), ("--mirror yes", True), ("--mirror no", False)]
)
def test_mirror_may_be_switched_on_and_off(words: str, mirror: bool | None) -> None:
    _, options = parse(["train", *words.split()])
    assert isinstance(options, TrainOptions) and options.data.mirror is mirror


@pytest.mark.parametrize(
    "words", ["train --kimg many", "train --colour red", "train --mirror maybe", "generate", "teach", ""]
)
def test_a_mistyped_command_line_exits_with_2(words: str) -> None:
    with pytest.raises(SystemExit) as end:
        parse(words.split())
    assert end.value.code == 2


def test_help_groups_every_command_by_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for title, commands in SECTIONS.items():
        box = text.split(f"─ {title} ")[1].split("╰")[0]
        for command in commands:
            assert f"│ {command.name} " in box and command.summary.split()[0] in box


def test_a_misspelt_command_is_told_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["generat"])
    assert capsys.readouterr().err == "hsr: there is no command generat: did you mean generate?\n"


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0-3", [0, 1, 2, 3]), ("7", [7]), ("9999999999", [9999999999]), ("1, 5,9-11", [1, 5, 9, 10, 11]), ("4-4", [4])],
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,,2", "-1", "0-99999", "1.5", "9" * 19, "9" * 400, "٣"])
def test_wrong_seeds(text: str) -> None:
    with pytest.raises(UserError, match="--seeds"):
        parse_seeds(text)


Command = Callable[..., int]


@pytest.fixture
def sentence(hsr: Command, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail, and returns the one sentence that it prints."""

    def run(*arguments: object) -> str:
        capfd.readouterr()
        code = hsr(*arguments)
        error = capfd.readouterr().err
        assert code == 2, error
        assert error.startswith("hsr: ") and error.endswith(".\n") and error.count("\n") == 1, error
        return error

    return run


Sentence = Callable[..., str]


def test_wrong_data(sentence: Sentence, images: Path, tmp_path: Path, small_cfg: Path) -> None:
    (tmp_path / "empty").mkdir()
    options = ["train", "--cfg", small_cfg, "--data"]
    assert "holds no images that can be read" in sentence(*options, tmp_path / "empty")
    assert "does not exist" in sentence(*options, tmp_path / "nowhere")
    assert "power of two" in sentence(*options, write_images(tmp_path / "odd", size=24))
    assert "has no labels" in sentence(*options, images, "--encoder", "labels")
    (images / "00000/img0004.png").write_bytes(b"junk")
    assert "img0004.png" in sentence(*options, images)
    Image.new("RGB", (32, 32)).save(images / "00000/img0004.png")
    assert "differ in size" in sentence(*options, images)
    assert not (tmp_path / "runs").exists()


def test_wrong_options(sentence: Sentence, labelled: Path, tmp_path: Path, small_cfg: Path) -> None:
    options = ["train", "--cfg", small_cfg, "--data", labelled]
    assert "Unknown encoder owl" in sentence(*options, "--encoder", "owl")
    assert "multiple of 4" in sentence(*options, "--batch", 6)
    assert "kimg is -1.0" in sentence(*options, "--kimg", -1)
    assert "--workers is -1" in sentence(*options, "--workers", -1)
    assert "--device gpu is none of" in sentence(*options, "--device", "gpu")
    assert "does not exist" in sentence(*options, "--device", "cuda:77")
    assert "--cfg best is neither a preset" in sentence("train", "--data", labelled, "--cfg", "best")
    assert "x.json cannot be read" in sentence("train", "--data", labelled, "--cfg", tmp_path / "x.json")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in sentence(*options, "--outdir", tmp_path / "file")


def test_wrong_things_to_resume(
    hsr: Command, sentence: Sentence, labelled: Path, tmp_path: Path, small_cfg: Path
) -> None:
    (tmp_path / "file").write_text("junk")
    assert "does not exist" in sentence("train", "--resume", tmp_path / "nowhere")
    assert "not a run folder" in sentence("train", "--resume", tmp_path)
    assert "cannot be read as a checkpoint" in sentence("train", "--resume", tmp_path / "file")

    assert hsr("train", "--cfg", small_cfg, "--data", labelled, "--kimg", 0.008, "--device", "cpu") == 0
    run = next((tmp_path / "runs").iterdir())
    weights = sorted((run / "checkpoints").glob("0*"))[-1]
    message = sentence("train", "--resume", run, "--gamma", 3, "--batch", 8, "--kimg", 1)
    assert "with other settings than it was trained with: gamma was 1 and is 3 now; batch was 4 and is 8 now" in message
    other = write_images(tmp_path / "other", labels=[i % 2 for i in range(25)], count=25)
    assert "not those that the run was trained on" in sentence("train", "--resume", run, "--data", other)
    larger = write_images(tmp_path / "larger", labels=[i % 2 for i in range(24)], size=32)
    message = sentence("train", "--resume", weights, "--data", larger)
    assert "another shape" in message and "images 16 pixels wide" in message and "32 pixels" in message
    unlabelled = write_images(tmp_path / "unlabelled")
    assert "no classes" in sentence("train", "--resume", weights, "--data", unlabelled, "--hsr-weight", 0)
    message = sentence("train", "--resume", weights, "--data", labelled, "--cfg", "auto", "--device", "cpu")
    assert "another shape" in message and "G." in message

    (run / "checkpoints/state.safetensors").write_bytes(b"junk")
    assert "state.safetensors cannot be read as a checkpoint" in sentence("train", "--resume", run)


def test_wrong_things_to_generate(sentence: Sentence, tmp_path: Path) -> None:
    assert "does not exist" in sentence("generate", "--checkpoint", tmp_path / "nowhere")
    assert "not a run folder" in sentence("generate", "--checkpoint", tmp_path)
    safetensors.torch.save_file({"w": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    for name in ("foreign.safetensors", "junk"):
        (tmp_path / "junk").write_bytes(b"junk")
        assert "cannot be read as a checkpoint" in sentence("generate", "--checkpoint", tmp_path / name)


def test_a_full_disk_is_reported_before_training(
    sentence: Sentence, labelled: Path, small_cfg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**30, 2**30 - 1000, 1000))
    message = sentence("train", "--cfg", small_cfg, "--data", labelled, "--device", "cpu")
    assert "No space left" in message and "has 0.00 MiB" in message


def test_an_error_of_the_program_is_not_hidden(
    hsr: Command, labelled: Path, small_cfg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("hsr.training.run.train", broken)
    with pytest.raises(ValueError, match="a bug"):
        hsr("train", "--cfg", small_cfg, "--data", labelled)


LONG = "x" * 5000


@pytest.mark.parametrize(
    "words",
    [
        f"train --data {LONG}",
        f"train --resume {LONG}",
        f"train --cfg {LONG}.json",
        f"train --cfg small.json --data images --outdir {LONG}",
        "train --cfg small.json --data images --outdir small.json",
        "train --cfg small.json --data images --outdir small.json/below",
        "train --cfg .json",
        "train --cfg images.json",
        "train --data small.json",
        "train --data images/00000/img0000.png",
        "train --data /dev/null",
        "train --resume small.json",
        "train --resume images",
        "train --encoder-weights small.json --encoder timm:resnet18 --cfg small.json --data images",
        "train --encoder-statistics official --encoder labels --cfg small.json --data labelled",
        "train --workers 1000000 --cfg small.json --data images",
        f"generate --checkpoint {LONG}",
        "generate --checkpoint images",
        "generate --checkpoint small.json",
        "generate --checkpoint /dev/null",
        "generate --checkpoint weights --truncation nan",
        "generate --checkpoint weights --truncation 1e9",
        "generate --checkpoint weights --out images",
        "generate --checkpoint weights --out images.png",
        f"generate --checkpoint weights --out {LONG}.png",
        "generate --checkpoint weights --out small.json/a.png",
        "generate --checkpoint weights --outdir small.json",
        f"generate --checkpoint weights --outdir {LONG}",
        "generate --checkpoint weights --label 70",
    ],
    ids=lambda words: words.replace(LONG, "long"),
)
def test_whatever_a_path_or_value_leads_to_is_one_sentence(
    words: str, sentence: Sentence, images: Path, labelled: Path, small_cfg: Path, tmp_path: Path
) -> None:
    (tmp_path / "images.json").mkdir()
    (tmp_path / "images.png").mkdir()
    if "weights" in words:
        (tmp_path / "weights").write_bytes(_weights())
    sentence(*words.split(), "--device", "cpu")


@functools.cache
def _weights() -> bytes:
    """A file of weights as a run writes it."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = dataclasses.replace(open_dataset(), resolution=16)
        trainer = Trainer(dataclasses.replace(SMALL, hsr_weight=0.0), dataset, None, torch.device("cpu"))
        return CheckpointFolder(Path(folder)).save(trainer, {}, 1).read_bytes()


def test_options_of_the_machine_arrive() -> None:
    words = "train --mixed-precision bf16 --mixed-precision-resolutions 2 --tf32 --batch-gpu 4 --threads 3 --profile"
    words += " --cuda-graphs off"
    _, options = parse(words.split())
    assert isinstance(options, TrainOptions)
    assert options.machine == MachineOptions("bf16", 2, True, "off", 4, 3, True)
    _, options = parse(["train", "--tf32", "no", "--profile", "no"])
    assert isinstance(options, TrainOptions)
    assert (options.machine.tf32, options.machine.profile) == (False, False)
