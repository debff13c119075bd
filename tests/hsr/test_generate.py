# SPDX-License-Identifier: Apache-2.0
"""`hsr generate`: single images, grids and their formats."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hsr.weights import find_weights, load_tensors, save_tensors

from .conftest import run_folders

Command = Callable[..., int]


@pytest.mark.parametrize(
    "module, absent", (("generate", "hsr.training"), ("training.run", "sklearn"), ("editing.edit", "sklearn"))
)
def test_commands_start_without_what_they_do_not_need(module: str, absent: str) -> None:
    code = f"import sys, hsr.{module}; sys.exit(any(name.startswith('{absent}') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_formats_follow_suffixes_and_other_files_stay(
    hsr: Command, labelled: Path, small_cfg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hsr("train", "--cfg", small_cfg, "--data", labelled, "--kimg", 0.008, "--device", "cpu") == 0
    (run,) = run_folders(tmp_path)
    checkpoints = run / "checkpoints"
    mine = [
        checkpoints / name for name in ("best.safetensors", "000000.008-good.safetensors", "x000000.008.safetensors")
    ]
    for path in mine:
        path.write_bytes((checkpoints / "000000.008.safetensors").read_bytes())
    (checkpoints / "000000.008.part").write_text("mine")
    assert hsr("train", "--resume", run, "--kimg", 0.064, "--device", "cpu") == 0
    assert all(path.exists() for path in [*mine, checkpoints / "000000.008.part"])
    assert find_weights(run).name == "000000.064.safetensors"
    assert len(list(checkpoints.glob("000000.0??.safetensors"))) == 5

    for name, kind in {"a.jpg": "JPEG", "a.PNG": "PNG", "a.webp": "WEBP", "a.tif": "TIFF"}.items():
        (tmp_path / "a.part").write_text("mine")
        assert hsr("generate", "--checkpoint", run, "--seeds", 0, "--out", name, "--device", "cpu") == 0
        with Image.open(tmp_path / name) as image:
            assert image.format == kind
    assert (tmp_path / "a.part").read_text() == "mine"
    for name in ("a.gif", "a", "a.safetensors", "a.png.txt"):
        assert hsr("generate", "--checkpoint", run, "--out", name, "--device", "cpu") == 2
        assert "does not end in the suffix of an image format" in capsys.readouterr().err
        assert not (tmp_path / name).exists()


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


def test_weights_of_mirrored_layers_are_refused_in_words(
    hsr: Command, labelled: Path, small_cfg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hsr("train", "--cfg", small_cfg, "--data", labelled, "--kimg", 0.004, "--device", "cpu") == 0
    weights = find_weights(run_folders(tmp_path)[0])
    tensors, header = load_tensors(weights)
    # So were files written before the format had a number.
    del header["format"]
    save_tensors(tensors, weights, header)
    for command in (("generate", "--checkpoint"), ("train", "--resume")):
        assert hsr(*command, weights, "--device", "cpu") == 2
        assert "was written by another version of hsr" in capsys.readouterr().err
