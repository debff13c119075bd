# SPDX-License-Identifier: Apache-2.0
"""`hsr train --profile`: what it writes, and that training goes on."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from hsr.config import Config
from hsr.training.profiling import MAX_PROFILED_STEPS, StepProfiler, profiled_steps
from hsr.weights import find_weights, read_header

from .conftest import SMALL, run_folders, write_images

Command = Callable[..., int]
# By the number of their calls in two steps, with path lengths at every one and R1 at every other one.
CALLS = {"data": 2, "G main": 2, "G path length": 2, "D main": 2, "D R1": 1, "EMA": 2, "other": 2, "step": 2}


@pytest.mark.usefixtures("no_encoders")
def test_a_profile_shows_phases_and_operators_and_training_goes_on(
    hsr: Command, write_cfg: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "images", 12, 8)
    cfg = write_cfg("baseline", encoder="auto", hsr_weight=0.0, path_length_interval=1, r1_interval=2)
    assert hsr("train", "--cfg", cfg, "--data", images, "--device", "cpu", "--profile") == 0
    (run,) = run_folders(tmp_path)
    assert read_header(find_weights(run)).images_seen == 20
    printed = capsys.readouterr().out
    assert all(name in printed for name in CALLS) and str(run.relative_to(tmp_path) / "profile.txt") in printed

    text = (run / "profile.txt").read_text()
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in text.splitlines() if "%" in line]
    phases = {row[0]: row[1:] for row in rows[: len(CALLS)]}
    assert {name: int(row[0]) for name, row in phases.items()} == CALLS
    per_step = {name: float(row[2]) for name, row in phases.items()}
    assert sum(per_step.values()) - per_step["step"] == pytest.approx(per_step["step"], rel=0.02)
    assert per_step["D R1"] == pytest.approx(float(phases["D R1"][1]) / 2, abs=0.01)
    operators = {row[0] for row in rows[len(CALLS) :]}
    assert any("conv" in name for name in operators) and not operators & CALLS.keys()

    events = json.loads(gzip.decompress((run / "profile.json.gz").read_bytes()))["traceEvents"]
    names = [event.get("name") for event in events]
    assert all(names.count(name) == count for name, count in CALLS.items() if name not in ("other", "step"))


@pytest.mark.parametrize("steps", [0, 5, 7])
def test_a_short_session_has_no_profile(tmp_path: Path, steps: int) -> None:
    output = io.StringIO()
    profiler = StepProfiler(SMALL, tmp_path, torch.device("cpu"), Console(file=output, width=200))
    for _ in range(steps):
        with profiler.phase("data"):
            profiler.step()
    profiler.close()
    assert f"There is no profile, as that takes 12 steps, and training ended after {steps}." in output.getvalue()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path_length_interval", "r1_interval", "steps"), [(4, 16, 16), (0, 0, 1), (3, 4, 12), (1023, 1024, 64), (0, 5, 5)]
)
def test_as_many_steps_are_profiled_as_repeat(path_length_interval: int, r1_interval: int, steps: int) -> None:
    config = Config(preset="x", path_length_interval=path_length_interval, r1_interval=r1_interval)
    assert profiled_steps(config) == steps <= MAX_PROFILED_STEPS
