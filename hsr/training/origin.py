# SPDX-License-Identifier: Apache-2.0
"""Where a run starts from: nothing, weights, a baseline for HSR, or where a run was left off."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..config import Config, load_config
from ..console import command_line
from ..errors import UserError, exists
from ..files import replacing
from ..interop.opening import is_foreign
from ..job import job_name, restart_count
from ..options import TrainOptions
from ..weights import CHECKPOINTS, read_header
from .checkpoint import STATE
from .stage import baseline_weights, stage_config


@dataclass(frozen=True)
class Origin:
    """The start of a run.

    Attributes:
        run: Run folder to continue, or None for a new one.
        weights: File of weights that a new run starts from, or None.
        settings: Settings that come from there; None: a preset's.
        data_settings: Configurations whose images are trained on where no others are named, the first one that names
            any.
        is_restart: `torchrun` has started the processes again, so the options have been applied already.
        notes: Sentences on what is unusual about it.
    """

    run: Path | None = None
    weights: Path | None = None
    settings: Config | None = None
    data_settings: tuple[Config, ...] = ()
    is_restart: bool = False
    notes: tuple[str, ...] = ()


def find_origin(options: TrainOptions) -> Origin:
    """Returns where the options say that a run starts from.

    Raises:
        UserError: What they name cannot be used, or they contradict each other.
    """
    interrupted = _restarted_run(options.run.outdir)
    if interrupted is not None:
        config = load_config(interrupted / "config.json")
        notes = (f"The processes were started again, and go on with {interrupted}.",)
        return Origin(interrupted, None, config, (config,), is_restart=True, notes=notes)
    baseline = baseline_weights(options)
    if baseline is not None:
        _, weights = _resolve(baseline, f"--hsr-from {baseline}")
        stage, stage_notes = stage_config(baseline, has_data=options.data.data is not None)
        return Origin(None, weights, stage, (stage,), notes=tuple(stage_notes))
    run, weights = _resolve(options.run.resume, f"--resume {options.run.resume}")
    earlier = None if run is None else load_config(run / "config.json")
    cfg = options.schedule.cfg
    repeated = load_config(Path(cfg)) if cfg is not None and cfg.lower().endswith(".json") else None
    if run is None and weights is None and repeated is not None and repeated.start is not None:
        _, weights = _resolve(Path(repeated.start), f"The start of {cfg}, {repeated.start},")
    header = None if weights is None else read_header(weights)
    # A converted file says nothing of its images.
    trained = None if header is None or header.source else header.config
    settings = repeated
    if cfg is None:
        settings = earlier if header is None else header.config
    data_settings = tuple(config for config in (repeated, earlier, trained) if config is not None)
    return Origin(run, weights, settings, data_settings)


def _resolve(path: Path | None, title: str) -> tuple[Path | None, Path | None]:
    """Returns the run folder to continue and the file of weights to start from, of which one at most is there.

    `title` is what messages call it.
    """
    if path is None:
        return None, None
    if not exists(path, "a checkpoint"):
        raise UserError(f"{title} does not exist.")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{title} is not a run folder: it has no config.json.")
        return path, None
    if is_foreign(path):
        raise UserError(
            f"{title} is a file of another project: make a file of weights of it first, with "
            f"{command_line('convert', path, f'{path.stem}.safetensors')}."
        )
    return None, path


def remember_run(outdir: Path, run: Path) -> None:
    """Writes down which run folder this job of `torchrun` trains in, for the case that it is started again."""
    note = _job_note(outdir)
    if note is not None:
        with replacing(note) as part:
            part.write_text(json.dumps({"run": run.name}))


def forget_run(outdir: Path) -> None:
    """Undoes `remember_run` when the job has ended."""
    note = _job_note(outdir)
    if note is not None:
        note.unlink(missing_ok=True)


def _job_note(outdir: Path) -> Path | None:
    name = job_name()
    return None if name is None else outdir / f".job-{''.join(c if c.isalnum() else '-' for c in name)}.json"


def _restarted_run(outdir: Path) -> Path | None:
    """Returns the run folder in which this job has left a checkpoint before it was started again, or None."""
    note = _job_note(outdir)
    if note is None or restart_count() == 0:
        return None
    with suppress(OSError, ValueError, KeyError):
        run = outdir / json.loads(note.read_text())["run"]
        if (run / CHECKPOINTS / STATE).is_file():
            return run
    return None
