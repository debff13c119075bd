# SPDX-License-Identifier: Apache-2.0
"""`hsr train`: from options to a run folder, through training to the summary."""

import dataclasses
import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hsr_kernels._precision import exact_float32, tf32_on_gpus

from ..console import command_line, make_console
from ..data import ImageDataset
from ..errors import UserError, reason, writing
from ..files import cache_folder, replacing
from ..options import TrainOptions
from ..ranks import Ranks, joined
from ..semantics.build import build_encoder
from ..semantics.encoders import Encoder
from ..weights import CHECKPOINTS
from .checkpoint import BEST, restore
from .evaluation import Evaluator
from .graphs import SWITCHED_OFF, require_graphs
from .grids import SampleGrid
from .kernels import prepare
from .logs import RunLog
from .loop import TrainingLoop
from .machine import decide_threads
from .origin import forget_run, remember_run
from .plan import Plan, describe, make_plan
from .profiling import StepProfiler
from .split import split_images
from .start import start_from_weights
from .stop import StopRequest
from .stream import BatchStream
from .trainer import Trainer


def train(options: TrainOptions) -> None:
    """Runs `hsr train`.

    Raises:
        UserError: The options or what they name cannot be used.
    """
    console = make_console()
    with joined(options.run.device) as ranks:
        with ranks.one_per_machine_first():
            plan = make_plan(options, console, ranks.device)
        # A batch that can't be divided among the processes is told before anything else is done.
        plan.config.parts_per_process(ranks.count)
        require_graphs(plan.config, plan.device, ranks.count)
        if options.run.dry_run:
            console.print(describe(plan))
            return
        with _memory_errors_in_words(), tf32_on_gpus() if plan.config.tf32 else exact_float32():
            _train(options, plan, ranks, console)


@contextmanager
def _memory_errors_in_words() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            "The memory of the GPU is full: compute the batch in smaller parts (--batch-gpu), in 16 bits "
            f"(--mixed-precision fp16), or HSR at fewer scales (--hsr-scales 8,16). {reason(error)}"
        ) from error


def _train(options: TrainOptions, plan: Plan, ranks: Ranks, console: Console) -> None:
    if plan.device.type == "cpu" and ranks.count == 1:
        config, sentences = decide_threads(plan.config, plan.dataset.resolution, console)
        plan = dataclasses.replace(plan, config=config)
        for sentence in sentences:
            console.print(sentence)
    config = plan.config
    if plan.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    split = split_images(plan.dataset, config)
    train_set = split.train
    with ranks.one_per_machine_first():
        encoder = _encoder(plan, train_set, console)
        prepare(config, train_set, encoder, plan.device, ranks.count, console)
    torch.manual_seed(config.seed)
    trainer = Trainer(config, train_set, encoder, plan.device, ranks)
    _announce_graphs(trainer, bool(options.machine.profile), console)
    state = _load(trainer, plan, encoder, console)
    evaluator = None
    if encoder is not None:
        evaluator = Evaluator(
            encoder, split.reals, config.metric_images, plan.device, config.seed, console, split.reals_kind, ranks
        )
    stream = BatchStream(
        train_set,
        config.batch,
        seed=config.seed,
        mirror=bool(config.mirror),
        workers=plan.workers,
        start=trainer.images_seen,
        part=ranks.part,
        pin_memory=plan.device.type == "cuda",
    )
    with StopRequest(is_alone=ranks.count == 1) as stop, closing(stream):
        folder = _open_folder(options, plan, ranks)
        regularizer = "no HSR" if trainer.hsr is None or encoder is None else f"HSR on {encoder.name}"
        console.print(
            f"{folder}: {len(train_set)} images, {plan.dataset.resolution} pixels wide, and "
            f"{len(split.held_out) or 'none'} held out; {trainer.c_dim or 'no'} classes; {regularizer}; {plan.device}"
            f"{f', {ranks.count} processes' if ranks.count > 1 else ''}"
        )
        grid = SampleGrid(train_set, config.z_dim, trainer.c_dim, plan.device, config.seed)
        with ExitStack() as stack:
            log = profiler = None
            if ranks.is_main:
                log = stack.enter_context(closing(RunLog(folder, trainer.images_seen, options.run.wandb)))
            if options.machine.profile and ranks.is_main:
                profiler = stack.enter_context(closing(StepProfiler(config, folder, plan.device, console)))
            _run(TrainingLoop(trainer, stream, grid, evaluator, folder, log, state, console, profiler), stop)
        if ranks.is_main:
            forget_run(options.run.outdir)


def _announce_graphs(trainer: Trainer, is_profiled: bool, console: Console) -> None:
    """Says why there are no CUDA graphs on a GPU, now or when a capture fails, unless they are switched off."""
    graphs = trainer.graphs
    graphs.tell = console.print
    if is_profiled and not graphs.reason:
        graphs.give_up("a profile is to tell operators apart")
    elif trainer.device.type == "cuda" and graphs.reason not in ("", SWITCHED_OFF):
        graphs.tell(f"Training runs without CUDA graphs: {graphs.reason}.")


def _open_folder(options: TrainOptions, plan: Plan, ranks: Ranks) -> Path:
    """Returns the run folder, which the main process makes if it is new, with the configuration in it."""
    folder = plan.run
    if ranks.is_main:
        folder = folder or new_folder(options.run.outdir, plan, options.run.desc)
        with replacing(folder / "config.json") as part:
            part.write_text(plan.config.to_json() + "\n")
        remember_run(options.run.outdir, folder)
    folder = ranks.from_main(folder)
    assert folder is not None
    return folder


def _load(trainer: Trainer, plan: Plan, encoder: Encoder | None, console: Console) -> dict[str, Any]:
    """Restores the run or weights that are resumed, if any; returns the JSON values that go with checkpoints."""
    sources = {"data": plan.dataset.fingerprint(), "encoder": None if encoder is None else encoder.name}
    if plan.run is not None:
        state = restore(trainer, plan.run)
        if state["data"] != sources["data"]:
            raise UserError(
                f"{plan.run} cannot be continued on {plan.dataset.name}: its images or labels are not those that the "
                "run was trained on."
            )
        # The baseline uses an encoder for its metrics alone, which carry its name.
        if trainer.hsr is not None and state.get("encoder", sources["encoder"]) != sources["encoder"]:
            raise UserError(
                f"{plan.run} was trained with the encoder {state['encoder']}, but now it would be {sources['encoder']}."
            )
        return state
    if plan.weights is not None:
        console.print(start_from_weights(trainer, plan.weights))
        if plan.config.path_length_weight > 0 and plan.config.path_length_interval > 0:
            with console.status("Measuring the path lengths of the generator"):
                trainer.start_path_length_mean()
    return sources


def _run(loop: TrainingLoop, stop: StopRequest) -> None:
    try:
        if "start" not in loop.state and loop.trainer.images_seen == 0:
            _start(loop, stop)
        if loop.run(stop):
            with stop.interruptible():
                _summarize(loop)
            return
    except KeyboardInterrupt:
        # A second request ends the run at once, and so does the first one if nothing is lost.
        if not stop.requested or not loop.is_saved():
            raise
    loop.console.print(
        f"Stopped at {loop.trainer.images_seen / 1000:g} of {loop.trainer.config.kimg:g} kimg, and saved. "
        f"Continue with: {command_line('train', '--resume', loop.folder)}"
    )


def _encoder(plan: Plan, train_set: ImageDataset, console: Console) -> Encoder | None:
    """Returns the encoder for HSR and the metrics; the baseline does without one if "auto" finds none."""
    config = plan.config
    try:
        return build_encoder(
            config.encoder,
            dataset=train_set,
            weights=config.encoder_weights,
            statistics=config.encoder_statistics,
            device=plan.device,
            cache_dir=cache_folder(),
            log=console.print,
        )
    except UserError as error:
        if config.hsr_weight > 0 or config.encoder != "auto":
            raise
        console.print(f"There will be no Frechet distance and no PPL. {error}")
        return None


def new_folder(outdir: Path, plan: Plan, description: str | None) -> Path:
    """Makes the next run folder, `<n>-<name>` and a description of the user's.

    Raises:
        UserError: The output folder cannot be written to.
    """
    parts = [plan.dataset.name, plan.config.preset, *(["baseline"] if plan.config.hsr_weight == 0 else [])]
    parts += [] if description is None else [description]
    name = "-".join(dict.fromkeys(parts))
    with writing(f"--outdir {outdir}"):
        outdir.mkdir(parents=True, exist_ok=True)
        numbers = [int(m[1]) for p in outdir.iterdir() if (m := re.match(r"(\d+)-", p.name))]
        folder = outdir / f"{max(numbers, default=0) + 1:03d}-{name}"
        folder.mkdir()
    return folder


def _start(loop: TrainingLoop, stop: StopRequest) -> None:
    """Records the start of training: a checkpoint, pictures and metrics; a resumed run records what is missing."""
    loop.save()
    with stop.interruptible():
        if loop.trainer.ranks.is_main:
            loop.grid.save_reals(loop.folder / "reals.png")
        loop.save_samples()
        loop.state["start"] = loop.measure("start", loop.trainer.config.metric_names())
    loop.save()


def _summarize(loop: TrainingLoop) -> None:
    """Measures the trained generator, also its path lengths, and prints the results of the run."""
    folder, console = loop.folder, loop.console
    metrics = dict.fromkeys([*loop.trainer.config.metric_names(), "ppl_w"])
    values = loop.measure("summary", list(metrics))
    if loop.is_best():
        loop.save()
    console.print(f"Trained to {loop.trainer.images_seen / 1000:g} kimg.")
    for name, value in values.items():
        start = loop.state.get("start", {}).get(name)
        change = f"{value:.4g}" if start is None else f"{start:.4g} at the start, {value:.4g} at the end"
        console.print(f"  {name.removeprefix('Metrics/')}: {change}")
    best = loop.state.get("best")
    if best is not None and not loop.is_best():
        console.print(
            f"  Best {best['metric'].removeprefix('Metrics/')}: {best['value']:.4g} at {best['images_seen'] / 1000:g} "
            f"kimg, in {folder / CHECKPOINTS / BEST}"
        )
    console.print(f"  Pictures: {loop.samples_path()} and the others there; real images: {folder / 'reals.png'}")
    example = command_line("generate", "--checkpoint", folder, "--seeds", "0-35", "--truncation", 0.7)
    console.print(f"  Generate more: {example}")
