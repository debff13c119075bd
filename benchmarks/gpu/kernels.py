# SPDX-License-Identifier: Apache-2.0
"""Which Triton kernels the cases launch, found without running them, and compiled on all cores before they are needed.

Otherwise each is compiled at its first call, one after another: minutes that nothing is measured in.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton

from hsr_kernels.aot import build, record
from hsr_kernels.aot.record import Chip, Launch

from ..case import Case
from ..messages import described
from ..networks import trainer
from ..setting import cores
from ..tune import backends, routes
from ..variants import differentiate, infer
from ..workloads import BOTH
from . import cache
from .cases import GPU_CASES
from .items import Item, Task

SECONDS_PER_ITEM = 200.0


def items(task: Task) -> Iterator[Item]:
    """Yields one item for all kernels."""
    yield Item("kernels of the cases", SECONDS_PER_ITEM, _compile_here)


def _compile_here() -> Mapping[str, Any]:
    """Compiles for this machine's GPU into Triton's cache, and declares it complete, so that a later call finds it."""
    chip = record.chip_at_hand()
    launches, faults = recorded(calls(), chip)
    faults += compile_all(launches, chip, cores())
    cache.declare(Path(triton.knobs.cache.dir), chip.name, len(launches))
    return {"compiled": len(launches), "faults": faults}


def calls() -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields what is measured, with its name, to be called on tensors without data."""
    for case in GPU_CASES:
        if BOTH in case.targets:
            yield case.name, partial(_infer_and_differentiate, case)
            # Training's features are channels_last.
            if case.is_feature_loss:
                channels_last = replace(case, size=case.size | {"layout": torch.channels_last})
                yield f"{case.name} in channels_last", partial(_infer_and_differentiate, channels_last)
    for layer in routes.LAYERS:
        yield f"routes of {layer}", partial(routes.run_all, layer, "cpu")
    for comparison in backends.comparisons():
        yield f"{comparison}", partial(_differentiate, comparison)
    yield from _training_phases()


def _infer_and_differentiate(case: Case) -> None:
    work = case.workload()
    infer(work)()
    differentiate(work)()


def _differentiate(comparison: backends.Comparison) -> None:
    differentiate(comparison.workload("cpu"))()


def _training_phases() -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields each phase of a training step, its networks made before: parameters must be real ones."""
    size = next(case.size for case in GPU_CASES if case.is_training and not case.size["encoder"])
    trained = trainer(**size)
    loss, batch = trained.loss, size["batch"]

    def z() -> torch.Tensor:
        return torch.empty(batch, trained.config.z_dim)

    def real() -> torch.Tensor:
        return torch.empty(batch, 3, size["resolution"], size["resolution"])

    objectives = {
        "G main": (trained.G, trained.D, lambda: loss.generator_main(z(), None)),
        "G path length": (trained.G, trained.D, lambda: loss.generator_path_length(z(), None)),
        "D main": (trained.D, trained.G, lambda: loss.discriminator_main(real(), None, z(), None)),
        "D R1": (trained.D, trained.G, lambda: loss.discriminator_r1(real(), None)),
    }
    for name, (active, frozen, objective) in objectives.items():

        def phase(active: Any = active, frozen: Any = frozen, objective: Any = objective) -> None:
            frozen.requires_grad_(False)
            active.requires_grad_(True)
            # Not backward(): a real parameter takes no gradient without data.
            torch.autograd.grad(objective()[0], list(active.parameters()), allow_unused=True)

        yield f"training, {name}", phase


def recorded(named_calls: Iterable[tuple[str, Callable[[], None]]], chip: Chip) -> tuple[list[Launch], list[str]]:
    """Returns the distinct launches of calls, the slowest to compile first, and which calls failed and why."""
    launches: dict[str, Launch] = {}
    faults = []
    for name, call in named_calls:
        with record.recording(chip) as found:
            try:
                call()
            except Exception as error:
                faults.append(f"{name}: {described(error)}")
        launches |= found.launches
    return largest_first(launches.values()), faults


def largest_first(launches: Iterable[Launch]) -> list[Launch]:
    """Sorts launches so that no core waits at the end for one that takes long."""
    return sorted(launches, key=lambda launch: launch.size, reverse=True)


def compile_all(
    launches: Iterable[Launch], chip: Chip, processes: int, tell: Callable[[int], None] = lambda count: None
) -> list[str]:
    """Compiles into Triton's cache; returns what can't be compiled and why.

    Args:
        launches: What to compile.
        chip: The GPU to compile for.
        processes: The number of compilers at a time.
        tell: Called after each kernel with the number of those that are compiled.
    """
    faults = []
    jobs = [(launch, chip) for launch in launches]
    for count, built in enumerate(build.build_all(jobs, processes, build.fill_cache), 1):
        faults += [f"{built.launch.kernel}: {problem}" for problem in built.problems]
        tell(count)
    return faults
