# SPDX-License-Identifier: Apache-2.0
"""The experiment: a process for each seed, a few of them at a time, and each of them resumable.

A seed's folder has a run for its warm start and one for each arm, and a file of results once all is measured. What is
there isn't done again.
"""

import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hsr.data import ImageDataset
from hsr.errors import UserError
from hsr.files import cache_folder, replacing
from hsr.preparation.command import open_training_set
from hsr.semantics.build import build_encoder
from hsr.semantics.encoders import Encoder
from hsr.training.split import decide, split_images
from hsr.weights import find_weights

from ..setting import commit, cores, processor
from .arms import ARMS, BASELINE, GROUPS, Arm, prepare_teacher
from .measuring import measure_arms
from .presets import Preset, find_preset
from .statistics import POWER, paired_spread, seeds_needed
from .training import FINISHED, WARM_START, train

POLL_SECONDS = 1.0
# What the number of seeds is settled by: path lengths as the network judges that isn't the teacher.
PRIMARY_METRIC = "ppl2_wend"
PRIMARY_JUDGE = "squeezenet"


@dataclass(frozen=True)
class Experiment:
    """An experiment and where its files are.

    Attributes:
        name: Name of the preset.
        group: Name of the arms in `GROUPS`.
        data: Images, or None for the bundled digits.
        squeezenet: File with SqueezeNet's weights.
        out: Folder for the runs and results of all experiments.
        device: Where to train and measure.
    """

    name: str
    group: str
    data: Path | None
    squeezenet: Path
    out: Path
    device: torch.device

    @property
    def preset(self) -> Preset:
        """The preset."""
        return find_preset(self.name)

    @property
    def arms(self) -> dict[str, Arm]:
        """The arms by their names."""
        return {name: ARMS[name] for name in GROUPS[self.group]}

    @property
    def page_name(self) -> str:
        """Name of the files of its page, without their endings."""
        return self.name if self.group == "claims" else f"{self.name}-{self.group}"

    @property
    def runs(self) -> Path:
        """Folder of the runs of this preset, with those of all groups."""
        return self.out / self.name

    def folder(self, seed: int) -> Path:
        """Returns the folder of a seed."""
        return self.runs / f"seed-{seed:03d}"

    def results(self, seed: int) -> Path:
        """Returns the file with a seed's results."""
        return self.folder(seed) / f"{self.group}.json"

    def open_images(self, console: Console) -> ImageDataset:
        """Opens the images, brought to the preset's width."""
        return open_training_set(self.data, None if self.data is None else self.preset.resolution, None, console)


def run_seed(experiment: Experiment, seed: int, console: Console) -> bool:
    """Trains and measures all arms of a seed; returns whether that has come to its end.

    Raises:
        UserError: Images or networks can't be used, or training diverges.
    """
    preset, folder, arms = experiment.preset, experiment.folder(seed), experiment.arms
    if experiment.results(seed).exists():
        return True
    dataset = experiment.open_images(console)
    config, _ = decide(dataclasses.replace(preset.config, seed=seed), dataset)
    train_set = split_images(dataset, config).train
    if not train(config, train_set, None, folder / WARM_START, experiment.device, console):
        return False
    start = find_weights(folder / WARM_START)
    for name, arm in arms.items():
        console.print(f"Seed {seed}, {arm.title}")
        arm_config = dataclasses.replace(config, start=str(start), **_arm_settings(preset, arm))
        teacher = _teacher(experiment, arm, train_set, seed)
        if not train(arm_config, train_set, teacher, folder / name, experiment.device, console):
            return False
    judges = {kind: _encoder(experiment, kind, train_set) for kind in ("squeezenet", "lite0")}
    weights = {WARM_START: start} | {name: find_weights(folder / name) for name in arms}
    results = measure_arms(weights, judges, dataset, preset.sizes, experiment.device, console)
    times = {name: json.loads((folder / name / FINISHED).read_text()) for name in (WARM_START, *arms)}
    record = {"seed": seed, "machine": machine(experiment.device), "times": times, "results": results}
    with replacing(experiment.results(seed)) as part:
        part.write_text(json.dumps(record, indent=1) + "\n")
    return True


def _arm_settings(preset: Preset, arm: Arm) -> dict[str, Any]:
    """Returns the settings of an arm that differ from the warm start's."""
    settings: dict[str, Any] = {
        "kimg": preset.arm_kimg,
        "hsr_weight": 0.0 if arm.teacher is None else preset.hsr_weight,
    }
    if arm.heads_rate != 1.0:
        settings["hsr_learning_rate"] = arm.heads_rate * preset.config.learning_rate
    # As in any run that starts from trained networks, the average isn't hurried at the start.
    return settings | {"ema_rampup": None} | arm.settings


def _teacher(experiment: Experiment, arm: Arm, dataset: ImageDataset, seed: int) -> Encoder | None:
    if arm.teacher is None:
        return None
    return prepare_teacher(arm, _encoder(experiment, arm.teacher, dataset), dataset, seed)


def _encoder(experiment: Experiment, kind: str, dataset: ImageDataset) -> Encoder:
    spec = experiment.preset.network(kind, experiment.squeezenet)
    return build_encoder(spec, dataset=dataset, device=experiment.device, cache_dir=cache_folder(), log=lambda _: None)


def run_experiment(experiment: Experiment, seeds: int | None, jobs: int, console: Console) -> dict[str, Any]:
    """Runs as many seeds as the power of the pilot asks, several at a time; returns what settled their number.

    Args:
        experiment: The experiment.
        seeds: Number of seeds; None: what the pilot asks for, within the preset's limits.
        jobs: Number of seeds at a time, each in a process of its own.
        console: Where to show the progress.

    Raises:
        UserError: A seed failed.
    """
    preset = experiment.preset
    # The images are prepared once, and not by several processes at the same time.
    experiment.open_images(console)
    # The pilot is of all seeds that are run in any case.
    _run_seeds(experiment, range(seeds or preset.min_seeds), jobs, console)
    plan = plan_seeds(experiment, seeds)
    if plan["spread"] is not None:
        console.print(
            f"Pairs of {PRIMARY_METRIC} differ by {plan['spread']:.1%} from seed to seed: {plan['needed']} seeds show "
            f"the claimed change with {POWER:.0%} power, and {plan['seeds']} are run (at least {preset.min_seeds}, at "
            f"most {preset.max_seeds})."
        )
    _run_seeds(experiment, range(plan["seeds"]), jobs, console)
    return plan


def plan_seeds(experiment: Experiment, seeds: int | None) -> dict[str, Any]:
    """Returns the number of seeds to run, and what the pilot says of it."""
    preset = experiment.preset
    pilot_seeds = preset.min_seeds
    pilot = [read_results(experiment, seed) for seed in range(pilot_seeds) if experiment.results(seed).exists()]
    spread, needed = None, None
    if len(pilot) == pilot_seeds and "hsr" in experiment.arms:
        pairs = [[_primary(values, arm) for values in pilot] for arm in ("hsr", BASELINE)]
        spread = paired_spread(*pairs)
        needed = seeds_needed(spread)
    chosen = seeds or max(preset.min_seeds, min(needed or preset.min_seeds, preset.max_seeds))
    return {"pilot": pilot_seeds, "spread": spread, "needed": needed, "seeds": chosen}


def machine(device: torch.device) -> dict[str, str]:
    """Returns where and with what results are made."""
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return {
        "commit": commit(),
        "processor": f"{gpu}{cores()} cores of {processor()}",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def read_results(experiment: Experiment, seed: int) -> dict[str, Any]:
    """Returns what `run_seed` has written."""
    return json.loads(experiment.results(seed).read_text())


def _primary(values: dict[str, Any], arm: str) -> float:
    """Returns the primary metric of an arm as the primary judge has it."""
    for result in values["results"]:
        is_judge = result["network"].startswith(PRIMARY_JUDGE)
        if result["subject"] == arm and result["metric"] == PRIMARY_METRIC and is_judge:
            return result["value"]
    raise UserError(f"There is no {PRIMARY_METRIC} of {arm}: remove the folder of this seed, and run it again.")


def _run_seeds(experiment: Experiment, seeds: Sequence[int], jobs: int, console: Console) -> None:
    """Runs seeds, several at a time, and shows how many of their runs are done."""
    waiting = [seed for seed in seeds if not experiment.results(seed).exists()]
    if not waiting:
        return
    running: dict[int, subprocess.Popen] = {}
    total = len(waiting) * (len(experiment.arms) + 2)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    done_before = -1
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("Trainings and measurements", total=total)
            queue = list(waiting)
            while queue or running:
                while queue and len(running) < jobs:
                    seed = queue.pop(0)
                    running[seed] = _start_seed(experiment, seed)
                time.sleep(POLL_SECONDS)
                for seed in [seed for seed, process in running.items() if process.poll() is not None]:
                    if running.pop(seed).returncode != 0:
                        log = experiment.folder(seed) / "log.txt"
                        raise UserError(f"Seed {seed} has ended before its time: {_last_line(log)} (see {log}).")
                done = sum(_units_done(experiment, seed) for seed in waiting)
                progress.update(task, completed=done)
                if not console.is_terminal and done != done_before:
                    console.print(f"Trainings and measurements: {done} of {total}")
                done_before = done
    finally:
        for process in running.values():
            # Each saves its run, from where it goes on the next time.
            process.terminate()
        for process in running.values():
            process.wait()


def _start_seed(experiment: Experiment, seed: int) -> subprocess.Popen:
    folder = experiment.folder(seed)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.claims", "--preset", experiment.name, "--group", experiment.group]
    command += ["--seed", str(seed), "--squeezenet", str(experiment.squeezenet), "--out", str(experiment.out)]
    command += ["--device", str(experiment.device)]
    command += [] if experiment.data is None else ["--data", str(experiment.data)]
    with (folder / "log.txt").open("ab") as log:
        # A thread of each process on a core of its own is faster than several threads of one process.
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})


def _units_done(experiment: Experiment, seed: int) -> int:
    """Returns how many trainings and measurements of a seed are done."""
    folder = experiment.folder(seed)
    trainings = sum((folder / name / FINISHED).exists() for name in (WARM_START, *experiment.arms))
    return trainings + experiment.results(seed).exists()


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it says nothing"
