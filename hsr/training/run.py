# SPDX-License-Identifier: Apache-2.0
"""`hsr train`: from options to a run folder, through training to the summary."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from ..data import ImageDataset
from ..errors import UserError
from ..semantics import build_encoder
from ..semantics.encoders import Encoder
from .checkpoint import load_weights, restore
from .evaluation import Evaluator
from .grids import SampleGrid
from .logs import RunLog
from .loop import TrainingLoop
from .plan import Plan, make_plan
from .stream import BatchStream
from .trainer import Trainer

if TYPE_CHECKING:
    from ..cli import TrainOptions


def train(options: "TrainOptions") -> None:
    """Runs `hsr train`.

    Raises:
        UserError: The options or what they name cannot be used.
    """
    console = Console(soft_wrap=True, highlight=False)
    plan = make_plan(options)
    config = plan.config
    if plan.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    train_set, held_out = plan.dataset.split(config.held_out, config.held_out_max)
    encoder = _encoder(plan, train_set, console)
    torch.manual_seed(config.seed)
    trainer = Trainer(config, train_set, encoder, plan.device)
    state = _load(trainer, plan)
    folder = plan.run or new_folder(options.outdir, plan)
    (folder / "config.json").write_text(config.to_json() + "\n")
    evaluator = None
    if encoder is not None:
        evaluator = Evaluator(encoder, held_out, config.metric_images, plan.device, config.seed)
    regularizer = "no HSR" if trainer.hsr is None or encoder is None else f"HSR on {encoder.name}"
    console.print(
        f"{folder}: {len(train_set)} images, {plan.dataset.resolution} pixels wide, and {len(held_out)} held "
        f"out; {trainer.c_dim or 'no'} classes; {regularizer}; {plan.device}"
    )
    stream = BatchStream(
        train_set,
        config.batch,
        seed=config.seed,
        mirror=config.mirror,
        workers=plan.workers,
        start=trainer.images_seen,
    )
    log = RunLog(folder)
    grid = SampleGrid(train_set, config.z_dim, trainer.c_dim, plan.device, config.seed)
    try:
        _run(TrainingLoop(trainer, stream, grid, folder, log, state, console), plan, evaluator)
    finally:
        stream.close()
        log.close()


def _load(trainer: Trainer, plan: Plan) -> dict[str, Any]:
    """Restores what is resumed, if anything; returns the JSON values that go with checkpoints."""
    data = plan.dataset.fingerprint()
    if plan.run is not None:
        state = restore(trainer, plan.run)
        if state["data"] != data:
            raise UserError(f"{plan.run} was trained on other images than those of {plan.dataset.name}.")
        return state
    if plan.weights is not None:
        load_weights(plan.weights, {name: trainer.modules()[name] for name in ("G", "D", "G_ema")})
    return {"data": data}


def _run(loop: TrainingLoop, plan: Plan, evaluator: Evaluator | None) -> None:
    if plan.run is None:
        _start(loop, evaluator)
    if loop.run():
        _summarize(loop, evaluator)
        return
    loop.console.print(
        f"Stopped at {loop.trainer.images_seen / 1000:g} of {plan.config.kimg:g} kimg, and saved. "
        f"Continue with: hsr train --resume {loop.folder}"
    )


def _encoder(plan: Plan, train_set: ImageDataset, console: Console) -> Encoder | None:
    """The encoder for HSR and the metrics; the baseline does without one where "auto" finds none."""
    config = plan.config
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hsr"
    try:
        return build_encoder(
            config.encoder,
            dataset=train_set,
            weights=config.encoder_weights,
            device=plan.device,
            cache_dir=cache,
            log=console.print,
        )
    except UserError as error:
        if config.hsr_weight > 0 or config.encoder != "auto":
            raise
        console.print(f"There will be no Frechet distance and no PPL. {error}")
        return None


def new_folder(outdir: Path, plan: Plan) -> Path:
    """Makes the next run folder, `<n>-<name>`.

    Raises:
        UserError: The output folder cannot be written to.
    """
    parts = [plan.dataset.name, plan.config.preset]
    name = "-".join(dict.fromkeys(parts)) + ("-baseline" if plan.config.hsr_weight == 0 else "")
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        taken = [int(m[1]) for p in outdir.iterdir() if (m := re.match(r"(\d+)-", p.name))]
        folder = outdir / f"{max(taken, default=0) + 1:03d}-{name}"
        folder.mkdir()
    except OSError as error:
        raise UserError(f"--outdir {outdir} cannot be written to ({error.strerror}).") from error
    return folder


def _start(loop: TrainingLoop, evaluator: Evaluator | None) -> None:
    """Records where training starts: pictures, metrics, and a checkpoint."""
    loop.grid.save_reals(loop.folder / "reals.png")
    loop.save_samples()
    values: dict[str, Any] = {}
    if evaluator is not None:
        with loop.console.status("Measuring the untrained generator"):
            values = {evaluator.frechet_name: evaluator.frechet_distance(loop.trainer.G_ema)}
    loop.state["start"] = values
    loop.log.event("start", loop.trainer.images_seen, values)
    loop.save()


def _summarize(loop: TrainingLoop, evaluator: Evaluator | None) -> None:
    """Measures the trained generator, and says what became of the run."""
    G, folder, out = loop.trainer.G_ema, loop.folder, loop.console
    values: dict[str, float] = {}
    if evaluator is not None:
        with out.status("Measuring the trained generator"):
            values[evaluator.frechet_name] = evaluator.frechet_distance(G)
            values[evaluator.ppl_name] = evaluator.ppl_w(G)
    loop.log.event("summary", loop.trainer.images_seen, values)
    out.print(f"Trained to {loop.trainer.images_seen / 1000:g} kimg.")
    for name, value in values.items():
        start = loop.state["start"].get(name)
        change = f"{value:.4g}" if start is None else f"{start:.4g} at the start, {value:.4g} at the end"
        out.print(f"  {name.removeprefix('Metrics/')}: {change}")
    out.print(f"  Pictures: {loop.samples_path()} and the others there; real images: {folder / 'reals.png'}")
    out.print(f"  Generate more: hsr generate --checkpoint {folder} --seeds 0-35 --truncation 0.7")
