# SPDX-License-Identifier: Apache-2.0
"""Times of the cases: the library on both backends, what it is compared with, and torch.compile in its own stage."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch

from hsr_kernels._dispatch.explain import implemented

from .. import device, roofline
from ..case import Case
from ..timing import Time
from ..variants import (
    BASELINE,
    COMPILE,
    CONVOLUTION,
    COPY,
    CUDA,
    GPU_BACKENDS,
    REFERENCE,
    RELEASED,
    TRITON,
    Variant,
)
from ..workloads import BOTH, FORWARD, STEP, Workload, bare_convolution
from .cases import pieces
from .items import Item, Task

SECONDS_PER_ITEM = 20.0
# Networks are made, and cuDNN tries its algorithms on each of their layers.
SECONDS_PER_TRAINING_ITEM = 60.0
SECONDS_PER_COMPILED_ITEM = 60.0
LARGE_COPY = "a copy of gigabytes"
LARGE_COPY_BYTES, TINY_COPY_BYTES = 2 << 30, 1 << 20
EAGER, GRAPH = "eager", "graph"


def has_cuda(case: Case) -> bool:
    """Whether the cuda backend has all of a case's operators."""
    return bool(case.operators) and all(CUDA in implemented(op) for op in case.operators)


def variant_names(case: Case) -> list[str]:
    """The names of a case's variants, the library's first; torch.compile has a stage of its own."""
    names = [TRITON]
    if has_cuda(case) and not device.why_no_cuda_backend():
        names.append(CUDA)
    if case.baseline_changes:
        return [*names, BASELINE]
    if case.demands("copy"):
        names.append(COPY)
    names.append(REFERENCE)
    if case.is_styled_layer:
        names.append(CONVOLUTION)
    if case.demands("released"):
        names.append(RELEASED)
    return names


class Bench:
    """One case on the device; tensors and networks are made when they are first needed."""

    def __init__(self, case: Case, tiny: bool) -> None:
        self.case, self.tiny = case, tiny
        self._variants: dict[str, Variant] = {}

    def _build(self, case: Case) -> Workload:
        torch.manual_seed(0)
        return case.workload(tiny=self.tiny, device=device.name())

    @cached_property
    def shared(self) -> Workload:
        """What all variants work on, except for training, which changes its networks."""
        return self._build(self.case)

    @cached_property
    def min_bytes(self) -> dict[str, int]:
        """Pass -> the fewest bytes that it can move."""
        if self.tiny:
            return dict.fromkeys((FORWARD, BOTH), TINY_COPY_BYTES)
        return {work.phase: work.min_bytes for work in roofline.estimate(self.case)}

    def variant(self, name: str) -> Variant:
        """Returns a variant other than a copy, the bare convolution and torch.compile."""
        if name not in self._variants:
            backend = name if name in GPU_BACKENDS else TRITON if name == BASELINE else REFERENCE
            self._variants[name] = Variant(device.backend(backend), self._workload(name))
        return self._variants[name]

    def _workload(self, name: str) -> Workload:
        if name == BASELINE:
            return self._build(self.case.baseline())
        if name == RELEASED:
            return self._build(replace(self.case, dtype=torch.float32))
        return self._build(self.case) if self.case.is_training else self.shared

    def run(self, phase: str, name: str) -> Callable[[], Any]:
        """Returns what to time of a variant in a pass."""
        if name == COPY:
            return copying(self.min_bytes[phase])
        if name == CONVOLUTION:
            return bare_convolution(self.shared, self.case.size["up"], phase)
        return self.variant(name).phase(phase)


def copying(moved: int) -> Callable[[], Any]:
    """Returns a copy on the device that moves so many bytes, half of them read and half written."""
    source = torch.zeros(moved // 2, dtype=torch.uint8, device=device.name())
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


class _Benches:
    """Holds the bench of one case at a time; that of the case before is dropped, and its memory freed."""

    def __init__(self, tiny: bool) -> None:
        self.tiny = tiny
        self._bench: Bench | None = None

    def bench(self, case: Case) -> Bench:
        if self._bench is None or self._bench.case is not case:
            self._bench = None
            device.free()
            # As `hsr train` has it, and the strongest baseline.
            torch.backends.cudnn.benchmark = True
            self._bench = Bench(case, self.tiny)
        return self._bench


def items(task: Task) -> Iterator[Item]:
    """Yields a time per case, pass, variant and way to call it; peaks of memory with the eager ones."""
    benches = _Benches(task.tiny)
    size = TINY_COPY_BYTES if task.tiny else LARGE_COPY_BYTES
    yield Item(LARGE_COPY, SECONDS_PER_ITEM, partial(_measure_copy, size))
    for case, phases in pieces(task.case_filter):
        for phase in phases:
            for name in variant_names(case):
                for mode in (EAGER, GRAPH) if _has_graph(phase, name) else (EAGER,):
                    run = partial(_measure, benches, case, phase, name, mode)
                    yield _item(case, phase, name, mode, run)


def _has_graph(phase: str, name: str) -> bool:
    return phase in (FORWARD, BOTH) and name not in (RELEASED, CONVOLUTION)


def _item(case: Case, phase: str, name: str, mode: str, run: Callable[[], Mapping[str, Any]]) -> Item:
    labels = {"case": case.name, "phase": phase, "variant": name, "mode": mode}
    seconds = SECONDS_PER_TRAINING_ITEM if case.is_training else SECONDS_PER_ITEM
    if name == COMPILE:
        seconds = SECONDS_PER_COMPILED_ITEM
    return Item(", ".join(labels.values()), seconds, run, labels)


def _measure_copy(size: int) -> Mapping[str, Any]:
    return _noted(device.timed(copying(size))) | {"bytes": size}


def _measure(benches: _Benches, case: Case, phase: str, name: str, mode: str) -> Mapping[str, Any]:
    bench = benches.bench(case)
    run = bench.run(phase, name)
    if mode == GRAPH:
        data = _noted(device.timed(device.captured(run)))
    elif name == REFERENCE and phase == STEP:
        # Seconds per call, and a sixteenth of all steps: not worth three calls.
        data = _noted(device.once(run)) | {"note": "one call, without a warm-up"}
    else:
        data = _noted(device.timed(run))
    if name == COPY:
        return data | {"bytes": bench.min_bytes[phase]}
    if mode == EAGER and phase != FORWARD and name != CONVOLUTION:
        data |= {"peak": device.peak(run)}
    return data


def _noted(time: Time) -> dict[str, Any]:
    """A time as the journal holds it."""
    return dict(time._asdict())


def compiled_items(task: Task) -> Iterator[Item]:
    """Yields torch.compile of the reference, in the passes that must be faster than it: each takes a while."""
    benches = _Benches(task.tiny)
    for case, phases in pieces(task.case_filter):
        for phase in phases:
            if case.targets[phase].compiled is not None:
                yield _item(case, phase, COMPILE, EAGER, partial(_measure_compiled, benches, case, phase))


def _measure_compiled(benches: _Benches, case: Case, phase: str) -> Mapping[str, Any]:
    shared = benches.bench(case).shared
    torch.compiler.reset()
    function = torch.compile(shared.function, dynamic=False)
    return _noted(device.timed(Variant(REFERENCE, replace(shared, function=function)).phase(phase)))
