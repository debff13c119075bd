# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed at any moment, and disks that are full: nothing is lost but the work since a checkpoint."""

import json
import multiprocessing
import multiprocessing.connection
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import safetensors

from hsr.weights import find_weights, read_header
from tests.selection import FULL, kept

from .conftest import run_folders
from .test_train import assert_same_state

# Images of a tick, after which a checkpoint follows, and of the whole run.
TICK_IMAGES, TOTAL_IMAGES = 4, 36
MAX_SECONDS = 100
# A tick and its checkpoint take about half of that.
MAX_DELAY = 0.3
# Children fork from a process that has imported everything, and start at once.
_CHILDREN = multiprocessing.get_context("forkserver")
_CHILDREN.set_forkserver_preload(["hsr.training.run", "sklearn.datasets", "torch.utils.tensorboard"])


def _session(words: list[str], folder: Path, output: Any, prepare: Callable[[], None] | None) -> None:
    from hsr.cli import main

    os.chdir(folder)
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    if prepare is not None:
        prepare()
    main(words)


def start(words: list[Any], folder: Path, prepare: Callable[[], None] | None = None) -> tuple[Any, IO[str]]:
    """Starts `hsr` in a process of its own, in which `prepare` runs first; returns it with what it prints."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as end:
        output = multiprocessing.connection.Connection(os.dup(end.fileno()))
        process = _CHILDREN.Process(target=_session, args=([str(word) for word in words], folder, output, prepare))
        process.start()
        output.close()
    return process, os.fdopen(reader)


def finish(words: list[Any], folder: Path, prepare: Callable[[], None] | None = None) -> tuple[int, str]:
    """Runs `hsr` to its end in a process of its own; returns the exit code and what it printed."""
    process, output = start(words, folder, prepare)
    with output:
        text = output.read()
    process.join(MAX_SECONDS)
    assert process.exitcode is not None
    return process.exitcode, text


@pytest.fixture
def options(labelled: Path, write_cfg: Callable[..., Path]) -> list[Any]:
    settings = {"kimg": TOTAL_IMAGES / 1000, "tick_kimg": TICK_IMAGES / 1000, "checkpoint_ticks": 1, "threads": 1}
    cfg = write_cfg("crash", **settings, checkpoints_kept=1, metric_ticks=4)
    return ["train", "--cfg", cfg, "--data", labelled, "--device", "cpu"]


def saved_images(run: Path) -> int:
    """Returns the position of a run's state, after checking that the state and its weights are whole."""
    with safetensors.safe_open(run / "checkpoints/state.safetensors", "pt") as file:
        values = json.loads(file.metadata()["hsr"])
    assert read_header(run / "checkpoints" / values["weights"]).images_seen == values["images_seen"]
    return values["images_seen"]


def logged_images(run: Path) -> int:
    """Returns the position of the last tick in a run's log."""
    lines = (run / "log.jsonl").read_text().split("\n")[:-1] if (run / "log.jsonl").exists() else []
    ticks = [event["kimg"] for event in map(json.loads, lines) if event["event"] == "tick"]
    return round(1000 * ticks[-1]) if ticks else 0


def wait_for_tick(process: Any, folder: Path, position: int) -> None:
    """Waits until a new run, or one that goes on, has logged a tick behind `position`."""
    deadline = time.monotonic() + MAX_SECONDS
    while len(run_folders(folder)) < 2 or logged_images(run_folders(folder)[-1]) <= position:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("kills", kept([4, pytest.param(20, marks=FULL)]))
def test_a_run_killed_at_random_moments_loses_at_most_a_tick(kills: int, options: list[Any], tmp_path: Path) -> None:
    options = [*options, "--kimg", kills * 2 * TICK_IMAGES / 1000]
    assert finish(options, tmp_path)[0] == 0
    (unbroken,) = run_folders(tmp_path)
    rng = random.Random(1)
    broken, position = unbroken, 0
    for kill in range(kills):
        words = options if broken == unbroken else ["train", "--resume", broken, "--device", "cpu"]
        process, output = start(words, tmp_path)
        # Every other one dies while it starts.
        if kill % 2 == 0:
            wait_for_tick(process, tmp_path, position)
        time.sleep(rng.uniform(0, MAX_DELAY))
        process.kill()
        process.join()
        output.close()
        assert process.exitcode == -signal.SIGKILL
        broken = run_folders(tmp_path)[-1]
        assert saved_images(broken) >= max(position, logged_images(broken) - TICK_IMAGES)
        position = saved_images(broken)
    assert finish(["train", "--resume", broken, "--device", "cpu"], tmp_path)[0] == 0
    assert_same_state(broken, unbroken)


def _die_at_rename(number: int) -> None:
    replace, count = os.replace, 0

    def dying(source: Any, target: Any, **keywords: Any) -> None:
        nonlocal count
        if Path(target).parent.name == "checkpoints":
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target, **keywords)

    os.replace = dying


class _Die:
    """Kills the process at its n-th checkpoint file: before the rename, or with half the file written."""

    def __init__(self, number: int, is_half: bool) -> None:
        self.number, self.is_half = number, is_half

    def __call__(self) -> None:
        if not self.is_half:
            _die_at_rename(self.number)
            return
        import safetensors.torch

        save, count = safetensors.torch.save_file, 0

        def dying(tensors: Any, path: Any, **keywords: Any) -> None:
            nonlocal count
            save(tensors, path, **keywords)
            count += 1
            if count == self.number:
                os.truncate(path, os.path.getsize(path) // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        safetensors.torch.save_file = dying


@pytest.mark.parametrize(
    ("number", "is_half"),
    kept([(8, False), pytest.param(9, False, marks=FULL), pytest.param(7, True, marks=FULL), (8, True)]),
)
def test_a_run_killed_while_it_saves_goes_on(number: int, is_half: bool, options: list[Any], tmp_path: Path) -> None:
    """At the weights and at the state of the second tick; at the start another file is renamed, the best weights."""
    assert finish(options, tmp_path, _Die(number, is_half))[0] == -signal.SIGKILL
    (run,) = run_folders(tmp_path)
    saved = saved_images(run)
    assert saved == logged_images(run) - TICK_IMAGES > 0
    assert finish(["train", "--resume", run, "--device", "cpu"], tmp_path)[0] == 0
    assert saved_images(run) == TOTAL_IMAGES
    assert not [path for path in (run / "checkpoints").iterdir() if path.name.endswith(".part")]


def _fill_the_disk_later() -> None:
    from hsr.training.trainer import Trainer

    step = Trainer.step

    def last_step_with_a_disk(self: Trainer, *arguments: Any) -> Any:
        if self.steps == 6:
            # Files can't grow beyond this, and the process lives to hear of it.
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        return step(self, *arguments)

    Trainer.step = last_step_with_a_disk  # type: ignore[method-assign]


def test_a_full_disk_is_a_sentence_and_the_last_checkpoint_stays(options: list[Any], tmp_path: Path) -> None:
    code, output = finish(options, tmp_path, _fill_the_disk_later)
    (run,) = run_folders(tmp_path)
    assert code == 2, output
    assert "Traceback" not in output
    assert "cannot be written" in output.splitlines()[-1] and output.splitlines()[-1].startswith("hsr: ")
    saved = saved_images(run)
    assert saved >= 5 * TICK_IMAGES
    assert find_weights(run).name == f"{saved / 1000:010.3f}.safetensors"
    assert finish(["train", "--resume", run, "--device", "cpu"], tmp_path)[0] == 0
    assert saved_images(run) == TOTAL_IMAGES
