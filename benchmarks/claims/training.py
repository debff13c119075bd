# SPDX-License-Identifier: Apache-2.0
"""The warm start of a seed, and its arms: all from the same weights, with the same images, codes and noise."""

import itertools
import json
import statistics
from contextlib import closing
from pathlib import Path

import torch
from rich.console import Console

from hsr.config import Config
from hsr.data import ImageDataset
from hsr.files import replacing
from hsr.semantics.encoders import Encoder
from hsr.training.checkpoint import STATE, restore
from hsr.training.grids import SampleGrid
from hsr.training.kernels import prepare
from hsr.training.logs import RunLog
from hsr.training.loop import TrainingLoop
from hsr.training.start import start_from_weights
from hsr.training.stop import StopRequest
from hsr.training.stream import BatchStream
from hsr.training.trainer import Trainer
from hsr.weights import CHECKPOINTS
from hsr_kernels._precision import exact_float32

CONFIG = "config.json"
WARM_START = "warm-start"
# Written into a run folder once its training is at its end.
FINISHED = "finished.json"


def train(
    config: Config,
    dataset: ImageDataset,
    encoder: Encoder | None,
    folder: Path,
    device: torch.device,
    console: Console,
) -> bool:
    """Trains a run to its end, or goes on where it was interrupted; returns whether it is at its end.

    Whether there is an encoder or not, the same seed draws the same codes and noise at every step.

    Args:
        config: Settings; `start` is the file of weights to start from, or None for untrained networks.
        dataset: Images to train on.
        encoder: Teacher of HSR; None: no HSR.
        folder: Run folder, which is made if it doesn't exist.
        device: Where to train.
        console: Where to show the progress.
    """
    if (folder / FINISHED).exists():
        return True
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    prepare(config, dataset, encoder, device, 1, console)
    torch.manual_seed(config.seed)
    trainer = Trainer(config, dataset, encoder, device)
    state: dict = {}
    if (folder / CHECKPOINTS / STATE).exists():
        state = restore(trainer, folder)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(config.to_json() + "\n")
        if config.start is not None:
            start_from_weights(trainer, Path(config.start))
            trainer.start_path_length_mean()
        # The heads of HSR have drawn numbers which the baseline hasn't.
        torch.manual_seed(config.seed)
    stream = BatchStream(
        dataset,
        config.batch,
        seed=config.seed,
        mirror=bool(config.mirror),
        start=trainer.images_seen,
        pin_memory=device.type == "cuda",
    )
    grid = SampleGrid(dataset, config.z_dim, trainer.c_dim, device, config.seed)
    with exact_float32(), StopRequest() as stop, closing(stream), closing(RunLog(folder, trainer.images_seen)) as log:
        if not TrainingLoop(trainer, stream, grid, None, folder, log, state, console).run(stop):
            return False
    with replacing(folder / FINISHED) as part:
        part.write_text(json.dumps({"seconds_per_kimg": seconds_per_kimg(folder)}) + "\n")
    return True


def seconds_per_kimg(folder: Path) -> float | None:
    """Returns the training time of 1,000 images, the median over a run's ticks, or None if it had no two."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    ticks = [(record["time"], record["kimg"]) for record in records if record.get("event") == "tick"]
    # Interruptions lengthen a tick or repeat one, and the median leaves them out.
    rates = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in itertools.pairwise(ticks) if b[1] > a[1]]
    return statistics.median(rates) if rates else None
