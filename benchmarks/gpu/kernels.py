# SPDX-License-Identifier: Apache-2.0
"""Which Triton kernels the cases launch, so that they are compiled before anything is measured."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton

from hsr.training.kernels import phases_of
from hsr_kernels.aot import record, warm

from ..case import Case
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
    outcome = warm.warm(calls(), chip, cores())
    cache.declare(Path(triton.knobs.cache.dir), chip.name, len(outcome.launches))
    return {"compiled": len(outcome.launches), "faults": outcome.faults}


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
    """Yields each phase of a training step."""
    size = next(case.size for case in GPU_CASES if case.is_training and not case.size["encoder"])
    for name, phase in phases_of(trainer(**size), size["resolution"]):
        yield f"training, {name}", phase
