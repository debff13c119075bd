# SPDX-License-Identifier: Apache-2.0
"""Which Triton kernels the cases launch, found without running them, and compiled on all cores before they are needed.

Otherwise each is compiled at its first call, one after another: minutes that nothing is measured in.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton

from hsr_kernels.aot import build, record
from hsr_kernels.aot.record import Chip, Launch

from .. import workloads
from ..run import differentiate, infer
from ..workloads import BOTH
from . import backends, cache, routes
from .cases import GPU_CASES
from .items import Item, Task

SECONDS = 200.0


def items(task: Task) -> Iterator[Item]:
    """All kernels at once."""
    yield Item("kernels of the cases", SECONDS, _compile_here)


def _compile_here() -> Mapping[str, Any]:
    """Compiles for this machine's GPU into Triton's cache, and says so there: the next call needn't look again."""
    properties = torch.cuda.get_device_properties(0)
    chip = Chip(10 * properties.major + properties.minor, 1 << 30, properties.multi_processor_count)
    launches, faults = recorded(calls(), chip)
    faults += compiled(launches, chip, len(os.sched_getaffinity(0)))
    cache.declare(Path(triton.knobs.cache.dir), chip.name, len(launches))
    return {"compiled": len(launches), "faults": faults}


def calls() -> Iterator[tuple[str, Callable[[], None]]]:
    """What is measured, by name, to be called on tensors without data."""
    for case in GPU_CASES:
        if BOTH in case.targets:
            yield case.name, partial(_both, case)
            if case.name.startswith("feature_loss"):  # training's features are channels_last
                last = replace(case, size=case.size | {"layout": torch.channels_last})
                yield f"{case.name} in channels_last", partial(_both, last)
    for layer in routes.LAYERS:
        yield f"{layer}", partial(routes.run_fused, layer, "cpu")
    for one in backends.comparisons():
        yield f"{one}", partial(_compared, one)
    yield from _training()


def _both(case: Any) -> None:
    work = case.workload()
    infer(work)()
    differentiate(work)()


def _compared(one: backends.Comparison) -> None:
    differentiate(one.workload("cpu"))()


def _training() -> Iterator[tuple[str, Callable[[], None]]]:
    """Each phase of a training step, its networks made before: parameters must be real ones."""
    size = next(case.size for case in GPU_CASES if case.per_1000 and not case.size["encoder"])
    trainer = workloads.trainer(**size)
    loss, batch = trainer.loss, size["batch"]

    def z() -> torch.Tensor:
        return torch.empty(batch, trainer.config.z_dim)

    def real() -> torch.Tensor:
        return torch.empty(batch, 3, size["resolution"], size["resolution"])

    objectives = {
        "G main": (trainer.G, trainer.D, lambda: loss.generator_main(z(), None)),
        "G path length": (trainer.G, trainer.D, lambda: loss.generator_path_length(z(), None)),
        "D main": (trainer.D, trainer.G, lambda: loss.discriminator_main(real(), None, z(), None)),
        "D R1": (trainer.D, trainer.G, lambda: loss.discriminator_r1(real(), None)),
    }
    for name, (active, frozen, objective) in objectives.items():

        def phase(active: Any = active, frozen: Any = frozen, objective: Any = objective) -> None:
            frozen.requires_grad_(False)
            active.requires_grad_(True)
            # Not backward(): a real parameter takes no gradient without data.
            torch.autograd.grad(objective()[0], list(active.parameters()), allow_unused=True)

        yield f"training, {name}", phase


def recorded(named: Iterable[tuple[str, Callable[[], None]]], chip: Chip) -> tuple[list[Launch], list[str]]:
    """The distinct launches of calls, those that take longest to compile first, and which calls failed and why."""
    found: dict[str, Launch] = {}
    faults = []
    for name, call in named:
        with record.recording(chip) as launched:
            try:
                call()
            except Exception as error:
                faults.append(f"{name}: {type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}")
        found |= launched.launches
    return largest_first(found.values()), faults


def largest_first(launches: Iterable[Launch]) -> list[Launch]:
    """So that no core waits at the end for one that takes long."""
    return sorted(launches, key=lambda launch: launch.size, reverse=True)


def compiled(
    launches: Iterable[Launch], chip: Chip, processes: int, tell: Callable[[int], None] = lambda done: None
) -> list[str]:
    """Compiles into Triton's cache; returns what can't be compiled and why.

    Args:
        tell: Is given the number of kernels that are compiled, after each.
    """
    faults = []
    jobs = [(launch, chip) for launch in launches]
    for done, one in enumerate(build.build_all(jobs, processes, build.fill_cache), 1):
        faults += [f"{one.launch.kernel}: {problem}" for problem in one.problems]
        tell(done)
    return faults
