# SPDX-License-Identifier: Apache-2.0
"""What the processor decides of a run: bfloat16, and the number of threads."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from hsr.config import preset
from hsr.training import machine

from .conftest import SMALL, run_folders, write_images

Command = Callable[..., int]


def set_unit(monkeypatch: pytest.MonkeyPatch, unit: str) -> None:
    monkeypatch.setattr(machine, "bfloat16_unit", lambda: unit)


@pytest.mark.parametrize("unit", ["AMX", "AVX512-BF16", ""])
@pytest.mark.parametrize("resolution", [16, 32, 64])
@pytest.mark.parametrize("name, device", [("auto", "cpu"), ("digits", "cpu"), ("auto", "cuda"), ("paper256", "cpu")])
def test_bfloat16_is_the_default_where_it_is_faster(unit, resolution, name, device, monkeypatch):
    set_unit(monkeypatch, unit)
    before = preset(name, resolution, device)
    config, sentences = machine.decide_precision(before, resolution, torch.device(device))
    if unit and resolution >= 32 and device == "cpu" and name != "digits":
        changes = {"mixed_precision": "bf16", "hsr_precision": "bfloat16"}
        assert config == dataclasses.replace(before, **changes) and unit in sentences[0]
    else:
        assert config == before and not sentences


def test_what_the_user_asks_for_stays(monkeypatch):
    set_unit(monkeypatch, "AMX")
    off = dataclasses.replace(preset("auto", 64, "cpu"), mixed_precision="off")
    assert machine.decide_precision(off, 64, torch.device("cpu")) == (off, [])
    float32_hsr = dataclasses.replace(preset("auto", 64, "cpu"), hsr_precision="float32")
    assert machine.decide_precision(float32_hsr, 64, torch.device("cpu"))[0].hsr_precision == "float32"


def test_a_new_run_is_told_and_a_continued_one_stays_as_it_was(
    hsr: Command, write_cfg: Callable[..., Path], tmp_path: Path, capsys, monkeypatch
) -> None:
    set_unit(monkeypatch, "")
    images = write_images(tmp_path / "images", size=32, labels=[i % 2 for i in range(24)])
    cfg = write_cfg("low", mixed_precision_resolutions=2, hsr_weight=0.0, kimg=0.008)
    command = ["train", "--cfg", cfg, "--data", images, "--device", "cpu"]
    assert hsr(*command) == 0
    set_unit(monkeypatch, "AMX")
    capsys.readouterr()
    (run,) = run_folders(tmp_path)
    assert hsr("train", "--resume", run, "--kimg", 0.012, "--device", "cpu") == 0
    assert '"mixed_precision": "fp16"' in (run / "config.json").read_text()
    assert "bfloat16" not in capsys.readouterr().out
    assert hsr(*command, "--dry-run") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Convolutions are computed in bfloat16" in out and "mixed_precision bf16" in out
    assert hsr(*command, "--dry-run", "--precision", "off") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "bfloat16" not in out and "mixed_precision off" in out


@pytest.fixture
def four_threads(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


def set_speed(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> list[int]:
    """Makes each number of threads take so many seconds; returns the numbers that were timed, as they come."""
    timed = []

    def time_once(*_):
        timed.append(torch.get_num_threads())
        # The first run of each number is slow.
        return seconds[timed[-1]] + (9 if timed.count(timed[-1]) == 1 else 0)

    monkeypatch.setattr(machine, "_time_once", time_once)
    return timed


@pytest.mark.parametrize(
    "seconds, fastest",
    [
        ({1: 0.1, 2: 0.3, 4: 0.3}, 1), ({1: 0.4, 2: 0.2, 4: 0.3}, 2), ({1: 0.4, 2: 0.2, 4: 0.1}, 4),
        # No difference that outlasts the noise.
        ({1: 0.4, 2: 0.19, 4: 0.2}, 4),
    ],
)  # fmt: skip
def test_the_fastest_number_of_threads_is_chosen_and_told(seconds, fastest, four_threads, monkeypatch):
    timed = set_speed(monkeypatch, seconds)
    config, (sentence,) = machine.decide_threads(SMALL, 16, Console(quiet=True))
    assert config == dataclasses.replace(SMALL, threads=fastest)
    assert timed == [4, 2, 1] * 6
    assert sentence.startswith(f"{fastest} of 4 threads compute") and f"{1000 * seconds[2]:.3g} ms with 2" in sentence


def test_no_number_is_measured_that_is_given(four_threads, monkeypatch):
    timed = set_speed(monkeypatch, {1: 1.0, 2: 2.0, 4: 3.0})
    given = dataclasses.replace(SMALL, threads=3)
    assert machine.decide_threads(given, 16, Console(quiet=True)) == (given, [])
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert machine.decide_threads(SMALL, 16, Console(quiet=True)) == (SMALL, [])
    assert not timed


def test_measuring_draws_nothing_from_the_random_generator(four_threads):
    state = torch.get_rng_state()
    config, _ = machine.decide_threads(SMALL, 16, Console(quiet=True))
    assert config.threads in (1, 2, 4) and torch.equal(torch.get_rng_state(), state)
