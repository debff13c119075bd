# SPDX-License-Identifier: Apache-2.0
"""Small data sets, a small configuration, and the command line in this process."""

import dataclasses
import json
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hsr.cli import main
from hsr.config import Config
from hsr.models import Generator
from hsr.weights import FORMAT, save_tensors

SMALL = Config(
    preset="small",
    held_out=0.2,
    z_dim=8,
    w_dim=8,
    mapping_layers=2,
    channel_base=128,
    channel_max=8,
    mixed_precision_resolutions=0,
    conv_clamp=None,
    hsr_hidden=8,
    encoder="labels",
    batch=4,
    kimg=0.02,
    tick_kimg=0.008,
    checkpoint_ticks=1,
    metric_images=12,
    ema_kimg=0.01,
    path_length_interval=2,
    r1_interval=3,
)


def write_images(
    folder: Path, count: int = 24, size: int = 16, suffix: str = ".png", labels: list | None = None
) -> Path:
    """Writes random images, and their labels to dataset.json where given."""
    rng = np.random.default_rng(size)
    (folder / "00000").mkdir(parents=True, exist_ok=True)
    names = [f"00000/img{i:04d}{suffix}" for i in range(count)]
    for i, name in enumerate(names):
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        if labels is not None:
            pixels[:, : size // 2] //= 1 + 8 * int(labels[i])
        Image.fromarray(pixels).save(folder / name)
    if labels is not None:
        pairs = [[name, label] for name, label in zip(names, labels, strict=True)]
        (folder / "dataset.json").write_text(json.dumps({"labels": pairs}))
    return folder


def write_weights(path: Path, G: Generator, classes: tuple[int, ...]) -> Path:
    """Writes a generator of the small configuration as a checkpoint."""
    header = {
        "config": dataclasses.asdict(SMALL),
        "resolution": G.resolution,
        "classes": classes,
        "images_seen": 0,
        "format": FORMAT,
    }
    save_tensors({f"G_ema.{name}": tensor for name, tensor in G.state_dict().items()}, path, header)
    return path


def zip_folder(folder: Path, path: Path) -> Path:
    """Packs a folder into a zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return path


def run_folders(folder: Path) -> list[Path]:
    """Returns the run folders in `folder`, oldest first."""
    return sorted((folder / "runs").iterdir())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Folder of 24 images of 16x16 without labels."""
    return write_images(tmp_path / "images")


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Folder of 24 images of 16x16 in two classes."""
    return write_images(tmp_path / "labelled", labels=[i % 2 for i in range(24)])


@pytest.fixture
def small_cfg(tmp_path: Path) -> Path:
    """JSON file with a configuration that trains in seconds."""
    path = tmp_path / "small.json"
    path.write_text(SMALL.to_json())
    return path


@pytest.fixture
def write_cfg(tmp_path: Path) -> Callable[..., Path]:
    """Writes the small configuration with changes."""

    def write(name: str, **changes: object) -> Path:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(dataclasses.asdict(SMALL) | changes))
        return path

    return write


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the tests alone; as its files are known by what they came from, one encoder does for equal images."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _not_the_users_cache(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_cache))


@pytest.fixture
def no_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without pretrained networks, on which a baseline without labels measures nothing."""
    monkeypatch.setattr("hsr.semantics.build.weights_at_hand", lambda name: False)
    monkeypatch.setattr("hsr.semantics.lite0_encoder.is_installed", lambda: False)


@pytest.fixture
def hsr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Runs the command line in this process, with run folders of its own; gives the exit code."""
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    threads = torch.get_num_threads()

    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        return int(end.value.code or 0)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert torch.get_num_threads() == threads
