# SPDX-License-Identifier: Apache-2.0
"""Several processes that train together, on CPUs: as `torchrun` starts them, and what becomes of them when one dies."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hsr.attributes.classifier import OwnClassifier
from hsr.cli import main
from hsr.config import Config
from hsr.data import ImageDataset
from hsr.errors import UserError
from hsr.evaluation.evaluation import Evaluation, Sizes
from hsr.evaluation.subjects import Subject
from hsr.ranks import Ranks, joined
from hsr.semantics import LabelEncoder
from hsr.training.evaluation import Evaluator
from hsr.weights import find_weights, read_header

from .conftest import run_folders
from .test_parts import assert_same_outcome, outcome, trainer_and_batch
from .test_train import assert_same_state, events

MAX_SECONDS = 100
_CHILDREN = multiprocessing.get_context("forkserver")
_CHILDREN.set_forkserver_preload(["hsr.training.run", "sklearn.datasets", "torch.utils.tensorboard"])


def _child(index: int, count: int, port: int, body: Callable[..., None], arguments: tuple) -> None:
    torch.set_num_threads(1)
    variables = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in variables.items()}
    body(*arguments)


def run_together(count: int, body: Callable[..., None], *arguments: Any) -> list[int]:
    """Runs a function in processes that belong together, and returns their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [_CHILDREN.Process(target=_child, args=(i, count, port, body, arguments)) for i in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(MAX_SECONDS)
    assert all(child.exitcode is not None for child in children)
    return [child.exitcode for child in children]


def metrics(ranks: Ranks | None = None) -> dict[str, float]:
    """Measures a generator in three batches of images."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (60, 3, 16, 16), np.uint8), np.arange(60) % 2
    reals = ImageDataset("noise", 16, labels, pixels, np.arange(60), identity="noise", classes=(0, 1))
    encoder = LabelEncoder(2)
    encoder.freeze()
    trainer, _, _ = trainer_and_batch(ranks=ranks)
    device = torch.device("cpu")
    evaluator = Evaluator(encoder, reals, 120, device, seed=0, ranks=ranks)
    measured = evaluator.measure(["frechet", "recall", "ppl_w"], trainer.G_ema)
    subject = Subject("a", Path("a"), trainer.G_ema, reals.classes, trainer.config, False)
    # Batches of which not every process has as many.
    sizes = Sizes(images=45, pairs=15, sequences=5, samples=60, r2_images=20, batch=7)
    colours = OwnClassifier(lambda images: images.mean(dim=[2, 3]), "colours", torch.zeros(1, 3, 16, 16))
    evaluation = Evaluation(
        [subject], sizes, device, features=encoder, distance=encoder, classifier=colours, reals=reals, ranks=ranks
    )
    results = evaluation.measure(["ppl_zend", "fd", "als", "linear_separability", "feature_r2"])
    return measured | {result.metric: result.value for result in results}


def _save_outcomes(path: Path, batch_gpu: int | None) -> None:
    os.environ["XDG_CACHE_HOME"] = str(path.parent)
    with joined("cpu") as ranks:
        found = [outcome(steps_before, ranks, batch_gpu=batch_gpu) for steps_before in (0, 1)]
        measured = metrics(ranks)
        if ranks.is_main:
            torch.save((found, measured), path)


@pytest.mark.parametrize("batch_gpu", [None, 2])
def test_two_processes_do_what_one_does(batch_gpu: int | None, tmp_path: Path) -> None:
    """One with a batch of 8, or two with 4 each, whole or in parts of 2: all that a step leaves behind, and metrics."""
    path = tmp_path / "outcomes.pt"
    assert run_together(2, _save_outcomes, path, batch_gpu) == [0, 0]
    outcomes, measured = torch.load(path)
    for steps_before, found in enumerate(outcomes):
        assert_same_outcome(found, outcome(steps_before))
    assert measured == pytest.approx(metrics(), rel=1e-6)


def _train(words: list[str], folder: Path) -> None:
    os.chdir(folder)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    main(words)


@pytest.fixture
def words(write_cfg: Callable[..., Path], labelled: Path) -> list[Any]:
    settings = {"batch": 8, "minibatch_std_group": 2, "kimg": 0.144, "tick_kimg": 0.016, "checkpoint_ticks": 1}
    cfg = write_cfg("ranks", **settings, metric_ticks=4, augmentation="ada", threads=1)
    return ["train", "--cfg", cfg, "--data", labelled, "--device", "cpu"]


def test_a_job_of_which_a_process_dies_is_started_again_and_loses_nothing(
    words: list[Any], labelled: Path, tmp_path: Path
) -> None:
    """By torchrun, from the newest checkpoint, to the very weights of a job that nothing happened to."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1", "-m", "hsr"]
    command = [sys.executable, "-m", *launcher, *map(str, words)]
    job = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "runs/001-labelled-small/log.jsonl"
    deadline = time.monotonic() + MAX_SECONDS
    while not log.exists() or log.read_text().count('"tick"') < 3:
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.01)
    (tmp_path / "whole").mkdir()
    workers = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    out, error = job.communicate(timeout=MAX_SECONDS)
    assert job.returncode == 0 and "Traceback" not in error, error
    assert "The processes were started again, and go on with" in out
    (run,) = [path for path in run_folders(tmp_path) if path.is_dir()]
    assert not list(run.parent.glob(".job*"))
    assert run_together(2, _train, list(map(str, words)), tmp_path / "whole") == [0, 0]
    (unbroken,) = run_folders(tmp_path / "whole")
    assert_same_state(run, unbroken)
    assert [event["kimg"] for event in events(run) if event["event"] == "tick"] == [
        event["kimg"] for event in events(unbroken) if event["event"] == "tick"
    ]


def _stop_one(words: list[str], folder: Path) -> None:
    from hsr.training.trainer import Trainer

    step = Trainer.step

    def stopping(self: Trainer, *batch: torch.Tensor) -> Any:
        if self.steps == 5 and self.ranks.index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *batch)

    Trainer.step = stopping  # type: ignore[method-assign]
    _train(words, folder)


def test_a_signal_to_one_process_stops_all_at_one_step(words: list[Any], tmp_path: Path) -> None:
    words += ["--kimg", 0.08]
    assert run_together(2, _stop_one, list(map(str, words)), tmp_path) == [0, 0]
    (run,) = run_folders(tmp_path)
    assert read_header(find_weights(run)).images_seen == 7 * 8
    for folder, more in ((run, ["--resume", run]), (None, [])):
        assert run_together(2, _train, [*map(str, words), *map(str, more)], tmp_path) == [0, 0], folder
    assert_same_state(*run_folders(tmp_path))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch": 9, "minibatch_std_group": 3}, "batch is 9, but must be a multiple of 2, the number of processes"),
        ({"batch": 8, "minibatch_std_group": 8}, "the share of each of 2 processes is 4, but must be a multiple of 8"),
        ({"batch": 12, "batch_gpu": 4, "minibatch_std_group": 2}, "but the batch of 6 images must be a multiple of it"),
    ],
)
def test_batches_that_cannot_be_divided_are_reported(settings: dict[str, int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Config(preset="x", **settings).parts_per_process(2)  # type: ignore[arg-type]
