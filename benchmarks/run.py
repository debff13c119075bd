# SPDX-License-Identifier: Apache-2.0
"""Measures the cases: time and memory, against the reference backend and torch.compile of it."""

import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import hsr_kernels

from .cases import Case, Target
from .memory import ROOT, peak_extra_bytes, saved_bytes
from .report import Row
from .timing import interleave, speedup, summarize
from .workloads import FORWARD, STEP, Workload

SECONDS_PER_PHASE = 20.0


@dataclass(frozen=True)
class Options:
    """How to measure: at most `rounds` rounds, `tiny` sizes or real ones, with torch.compile or without."""

    backend: str
    rounds: int
    tiny: bool
    compiled: bool


@dataclass(frozen=True)
class Variant:
    """One contender: a workload under a backend."""

    backend: str
    workload: Workload

    def phase(self, name: str) -> Callable[[], Any]:
        """What to time for a phase."""
        run: Callable[[], Any]
        if name in self.workload.steps:
            run = self.workload.steps[name]
        else:
            run = infer(self.workload) if name == FORWARD else differentiate(self.workload)

        def on_backend() -> Any:
            with hsr_kernels.use_backend(self.backend):
                return run()

        return on_backend


def use_all_cores() -> None:
    """Lets PyTorch use every core that this process may run on."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))


def infer(workload: Workload) -> Callable[[], torch.Tensor]:
    """The forward pass alone, without a graph."""

    def run() -> torch.Tensor:
        with torch.no_grad():
            return workload.function(*workload.inputs, *workload.parameters)

    return run


def differentiate(workload: Workload) -> Callable[[], tuple[torch.Tensor, ...]]:
    """Forward, then backward to every tensor that requires grad."""
    tensors = (*workload.inputs, *workload.parameters)
    leaves = [t for t in tensors if t.requires_grad]
    return lambda: torch.autograd.grad(workload.function(*tensors), leaves, workload.cotangent)


def measure(case: Case, options: Options) -> Iterator[Row]:
    """Measures one case in all its phases; yields a row per phase and variant."""
    variants = variants_of(case, options)
    if STEP not in case.targets:
        _agree(case, variants["reference"], variants[options.backend])
    for phase, target in case.targets.items():
        runs = {name: variant.phase(phase) for name, variant in variants.items()}
        failure = case.no_compile if options.compiled else ""
        for name, run in list(runs.items()):
            try:
                for _ in range(2):
                    run()
            except Exception as error:
                if name != "compile":
                    raise
                del runs[name]
                failure = _reason(error)
        times = interleave(runs, options.rounds, SECONDS_PER_PHASE)
        memory = {name: _memory(case, phase, name, variants[name], options) for name in runs}
        for name in (*runs, *(["compile"] if failure else [])):
            yield _row(case, phase, name, times, memory.get(name, (None, None)), target, failure, options)


def variants_of(case: Case, options: Options, device: str = "cpu") -> dict[str, Variant]:
    """The contenders by name; torch.compile of the reference among them where it is wanted and possible."""

    def build() -> Workload:
        torch.manual_seed(0)
        return case.workload(tiny=options.tiny, device=device)

    shared = build()
    # Training steps change their networks, so each variant trains its own; the rest shares its tensors.
    ours = build() if shared.steps else shared
    variants = {"reference": Variant("reference", shared), options.backend: Variant(options.backend, ours)}
    if not options.compiled or case.no_compile:
        return variants
    torch.compiler.reset()
    variants["compile"] = Variant("reference", replace(shared, function=torch.compile(shared.function, dynamic=False)))
    return variants


def _agree(case: Case, reference: Variant, ours: Variant) -> None:
    """Refuses to time a wrong result: gradients must agree with the reference's."""
    phase = next(name for name in case.targets if name != FORWARD)
    pairs = zip(reference.phase(phase)(), ours.phase(phase)(), strict=True)
    for i, (expected, got) in enumerate(pairs):
        error = (got - expected).norm() / expected.norm()
        if not error < 1e-3:
            raise RuntimeError(f"{case.name}: gradient {i} is off by {float(error):.1e} of its norm; not timed")


def _memory(case: Case, phase: str, name: str, variant: Variant, options: Options) -> tuple[int | None, int | None]:
    """(bytes saved for backward, peak extra bytes) of one variant; None where they mean nothing."""
    if phase == FORWARD:
        return None, None
    work = variant.workload
    with hsr_kernels.use_backend(variant.backend):
        saved = saved_bytes(lambda: work.function(*work.inputs, *work.parameters), work.parameters)
    if not case.measure_peak or name == "compile":
        return saved, None
    return saved, peak_extra_bytes(case.name, variant.backend, tiny=options.tiny)


def _reason(error: Exception) -> str:
    first = (str(error).strip() or "no message").splitlines()[0].rstrip(".")
    return f"{type(error).__name__}: {first}"


def _row(
    case: Case,
    phase: str,
    name: str,
    times: dict[str, list[float]],
    memory: tuple[int | None, int | None],
    target: Target,
    failure: str,
    options: Options,
) -> Row:
    samples = times.get(name)
    summary = summarize([1e3 * t for t in samples]) if samples else None
    demanded = Target() if name in ("reference", "compile") or options.tiny else target

    def against(other: str) -> float | None:
        return speedup(times[other], samples) if samples and other in times and other != name else None

    return Row(
        case=case.name,
        title=case.title + (" (tiny)" if options.tiny else ""),
        phase=phase,
        variant=name,
        median_ms=summary.median if summary else None,
        p20_ms=summary.p20 if summary else None,
        p80_ms=summary.p80 if summary else None,
        rounds=len(samples or []),
        vs_reference=against("reference"),
        vs_compile=against("compile"),
        saved_bytes=memory[0],
        peak_bytes=memory[1],
        target_reference=demanded.reference,
        target_compile=demanded.compiled,
        target_peak=demanded.peak,
        note=failure if name == "compile" else "",
        chip=chip(),
        cores=torch.get_num_threads(),
        torch=torch.__version__,
        commit=commit(),
    )


def chip() -> str:
    """The processor's name."""
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def commit() -> str:
    """HSR_COMMIT, for copies without .git; else the short hash of the checkout, + if it has changes; else "unknown"."""
    if given := os.environ.get("HSR_COMMIT"):
        return given
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
