# SPDX-License-Identifier: Apache-2.0
"""Curves of training runs."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.__main__ import main
from benchmarks.curves import read_run
from hsr.config import Config, preset
from hsr.weights import FORMAT, weights_name


def write_run(folder: Path, frechet: list[float], start: Path | None = None) -> Path:
    """Makes a run folder whose log has a value for each kimg, and returns its last file of weights."""
    config = dataclasses.replace(preset("digits", 32, "cpu"), start=None if start is None else str(start))
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json())
    events = [{"event": "metrics", "kimg": k, "Metrics/Frechet": v, "text": "a/b"} for k, v in enumerate(frechet)]
    (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    images_seen = 1000 * (len(frechet) - 1)
    path = folder / "checkpoints" / weights_name(images_seen)
    write_weights(path, config, images_seen)
    return path


def write_weights(path: Path, config: Config, images_seen: int, source: str = "") -> None:
    header = {"config": dataclasses.asdict(config), "resolution": 32, "classes": [], "images_seen": images_seen}
    header |= {"format": FORMAT, "source": source}
    save_file({"G.const": torch.zeros(1)}, path, {"hsr": json.dumps(header)})


@pytest.fixture
def stages(tmp_path: Path) -> list[Path]:
    """Three runs, each from the weights of the one before."""
    folders = [tmp_path / name for name in ("baseline", "second", "third")]
    start = None
    for folder, values in zip(folders, ([9.0, 8.0, 7.0], [7.0, 5.0], [5.0, 4.0]), strict=True):
        start = write_run(folder, values, start)
    return folders


def test_stages_are_drawn_one_behind_the_other(stages):
    series = [read_run(str(folder)).series for folder in stages]
    assert [run["Metrics/Frechet"] for run in series] == [
        [(0, 9.0), (1, 8.0), (2, 7.0)],
        [(2, 7.0), (3, 5.0)],
        [(3, 5.0), (4, 4.0)],
    ]


def test_folders_may_have_an_equals_sign_in_their_names(tmp_path):
    write_run(tmp_path / "001-lr=0.1", [3.0])
    assert read_run(str(tmp_path / "001-lr=0.1")).name == "001-lr=0.1"
    assert read_run(f"fast={tmp_path / '001-lr=0.1'}").name == "fast"


def test_networks_of_other_projects_begin_at_zero(tmp_path):
    write_weights(tmp_path / "converted.safetensors", preset("auto", 32, "cpu"), 25_000_000, source="nvlabs")
    write_run(tmp_path / "tuned", [3.0], start=tmp_path / "converted.safetensors")
    assert read_run(str(tmp_path / "tuned")).series["Metrics/Frechet"] == [(0, 3.0)]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_picture(stages, tmp_path, capsys, ending):
    out = tmp_path / f"curves.{ending}"
    main(["curves", f"plain={stages[0]}", str(stages[1]), "--out", str(out), "--scalars", "Metrics/F"])
    assert capsys.readouterr().out == f"Wrote {out}.\n"
    if ending == "png":
        with Image.open(out) as picture:
            colours = {colour for _, colour in picture.convert("RGB").getcolors(2**24)}
        # Matplotlib's first two colours of lines.
        assert {(31, 119, 180), (255, 127, 14)} <= colours
    else:
        assert "<svg" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{tmp}/missing", "--out", "{tmp}/a.png"], "{tmp}/missing/config.json"),
        (["{run}", "--out", "{tmp}/a.png", "--scalars", "Loss/"], "No scalar's name begins with 'Loss/'"),
        (["{run}", "--out", "{tmp}/a.words"], "{tmp}/a.words cannot be written"),
        (["{run}", "--out", "{tmp}/missing/a.png"], "{tmp}/missing/a.png"),
    ],
)
def test_refusals(stages, tmp_path, capsys, arguments, sentence):
    names = {"tmp": tmp_path, "run": stages[0]}
    with pytest.raises(SystemExit, match="2"):
        main(["curves", *(argument.format(**names) for argument in arguments)])
    assert sentence.format(**names) in capsys.readouterr().err
