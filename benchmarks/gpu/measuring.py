# SPDX-License-Identifier: Apache-2.0
"""Times of the cases: ours on both backends, what it is compared with, and torch.compile in a stage of its own."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch

import hsr_kernels
from hsr_kernels._backends import implemented

from .. import roofline
from ..cases import Case
from ..run import Variant
from ..workloads import BOTH, FORWARD, STEP, Workload, bare_convolution
from . import device
from .cases import pieces
from .items import Item, Task
from .table import COPY

ATTEMPT_SECONDS = 20.0
TRAINING_SECONDS = 60.0  # networks are made, and cuDNN tries its algorithms on each of their layers
COMPILE_SECONDS = 60.0
LARGE_COPY = "a copy of gigabytes"
_LARGE_BYTES, _TINY_BYTES = 1 << 30, 1 << 20
_TIMED_STATISTICS = ("median", "p20", "p80")


def has_cuda(case: Case) -> bool:
    """Whether the cuda backend has all of a case's operators."""
    return bool(case.operators) and all("cuda" in implemented(op) for op in case.operators)


def without_cuda() -> str:
    """Why the cuda backend can't run here; "" where it can, or where a CPU stands in."""
    return "" if device.rehearsing() else hsr_kernels.backends()["cuda"]


def contenders(case: Case) -> list[str]:
    """Ours first, then what it is compared with, torch.compile apart."""
    names = ["triton"]
    if has_cuda(case) and not without_cuda():
        names.append("cuda")
    if case.without:
        return [*names, "without"]
    if any(target.copy is not None for target in case.targets.values()):
        names.append(COPY)
    names.append("reference")
    if case.name.startswith("styled"):
        names.append("convolution")
    if any(target.released is not None for target in case.targets.values()):
        names.append("released")
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
    def fewest(self) -> dict[str, int]:
        """Pass -> bytes that can be moved at the fewest."""
        if self.tiny:
            return dict.fromkeys((FORWARD, BOTH), _TINY_BYTES)
        return {work.phase: work.fewest for work in roofline.estimate(self.case)}

    def variant(self, name: str) -> Variant:
        """A contender other than a copy, the bare convolution and torch.compile."""
        if name not in self._variants:
            self._variants[name] = Variant(device.backend(self._backend(name)), self._workload(name))
        return self._variants[name]

    def _backend(self, name: str) -> str:
        return {"cuda": "cuda", "triton": "triton", "without": "triton"}.get(name, "reference")

    def _workload(self, name: str) -> Workload:
        case = self.case
        if name == "without":
            return self._build(replace(case, size=case.size | case.without, tiny=case.tiny | case.without))
        if name == "released":
            return self._build(replace(case, dtype=torch.float32))
        return self._build(case) if case.per_1000 else self.shared

    def run(self, phase: str, name: str) -> Callable[[], Any]:
        """What to time of a contender in a pass."""
        if name == COPY:
            return copying(self.fewest[phase])
        if name == "convolution":
            return bare_convolution(self.shared, self.case.size["up"], phase)
        return self.variant(name).phase(phase)


def copying(moved: int) -> Callable[[], Any]:
    """A copy on the device that moves so many bytes, half of them read and half written."""
    source = torch.zeros(moved // 2, dtype=torch.uint8, device=device.name())
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


class _Benches:
    """The bench of the case at hand; that of the case before is dropped, and its memory freed."""

    def __init__(self, tiny: bool) -> None:
        self.tiny = tiny
        self.bench: Bench | None = None

    def of(self, case: Case) -> Bench:
        if self.bench is None or self.bench.case is not case:
            self.bench = None
            device.free()
            torch.backends.cudnn.benchmark = True  # as `hsr train` has it, and the strongest baseline
            self.bench = Bench(case, self.tiny)
        return self.bench


def items(task: Task) -> Iterator[Item]:
    """A time per case, pass, contender and way to call it; peaks of memory with the eager ones."""
    benches = _Benches(task.tiny)
    size = _TINY_BYTES if task.tiny else 2 * _LARGE_BYTES
    yield Item(LARGE_COPY, ATTEMPT_SECONDS, lambda: _times(device.timed(copying(size))) | {"fewest": size})
    for case, phases in pieces(task.only):
        for phase in phases:
            for name in contenders(case):
                for mode in ("eager", "graph") if _has_graph(phase, name) else ("eager",):
                    run = partial(_measure, benches, case, phase, name, mode)
                    yield _item(case, phase, name, mode, run)


def _has_graph(phase: str, name: str) -> bool:
    return phase in (FORWARD, BOTH) and name not in ("released", "convolution")


def _item(case: Case, phase: str, name: str, mode: str, run: Callable[[], Mapping[str, Any]]) -> Item:
    about = {"case": case.name, "phase": phase, "variant": name, "mode": mode}
    seconds = COMPILE_SECONDS if name == "compile" else TRAINING_SECONDS if case.per_1000 else ATTEMPT_SECONDS
    return Item(", ".join(about.values()), seconds, run, about)


def _measure(benches: _Benches, case: Case, phase: str, name: str, mode: str) -> Mapping[str, Any]:
    bench = benches.of(case)
    run = bench.run(phase, name)
    if mode == "graph":
        found = _times(device.timed(device.captured(run)))
    elif name == "reference" and phase == STEP:
        # Seconds per call, and a sixteenth of all steps: not worth three.
        found = _times(device.once(run)) | {"note": "one call, without a warm-up"}
    else:
        found = _times(device.timed(run))
    if name == COPY:
        return found | {"fewest": bench.fewest[phase]}
    if mode == "eager" and phase != FORWARD and name != "convolution":
        found |= {"peak": device.peak(run)}
    return found


def _times(time: device.Time) -> dict[str, Any]:
    return dict(zip(_TIMED_STATISTICS, time, strict=True))


def compiled_items(task: Task) -> Iterator[Item]:
    """torch.compile of the reference, in the passes in which ours is to be faster than it: each takes a while."""
    benches = _Benches(task.tiny)
    for case, phases in pieces(task.only):
        for phase in phases:
            if case.targets[phase].compiled is not None:
                yield _item(case, phase, "compile", "eager", partial(_measure_compiled, benches, case, phase))


def _measure_compiled(benches: _Benches, case: Case, phase: str) -> Mapping[str, Any]:
    shared = benches.of(case).shared
    torch.compiler.reset()
    function = torch.compile(shared.function, dynamic=False)
    return _times(device.timed(Variant("reference", replace(shared, function=function)).phase(phase)))
