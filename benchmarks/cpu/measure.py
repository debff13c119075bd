# SPDX-License-Identifier: Apache-2.0
"""Measures the cases: time and memory, against the reference backend and torch.compile of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

import hsr_kernels

from ..case import Case, Target
from ..messages import described
from ..setting import commit, processor
from ..timing import percentiles
from ..variants import BASELINE, COMPILE, REFERENCE, Variant
from ..workloads import FORWARD, STEP, Workload
from .memory import peak_extra_bytes, saved_bytes
from .report import CpuRow
from .timing import interleave, speedup

SECONDS_PER_PHASE = 20.0
MAX_GRADIENT_ERROR = 1e-3


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        backend: Which one is measured beside the reference.
        max_rounds: Of each phase; long ones take fewer.
        tiny: Whether to use tiny sizes.
        compiled: Whether torch.compile is measured too.
    """

    backend: str
    max_rounds: int
    tiny: bool
    compiled: bool


@dataclass(frozen=True)
class _Samples:
    """What was measured of a phase.

    Attributes:
        seconds: Variant -> seconds per round.
        memory: Variant -> (bytes saved for backward, peak extra bytes).
        why_not_compiled: The reason why torch.compile wasn't measured, empty if it was or wasn't wanted.
    """

    seconds: dict[str, list[float]]
    memory: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    why_not_compiled: str = ""


def measure_case(case: Case, options: Options) -> Iterator[CpuRow]:
    """Measures one case in all its phases; yields a row per phase and variant."""
    variants = variants_of(case, options)
    if STEP not in case.targets:
        _check_gradients(case, variants[REFERENCE], variants[options.backend])
    for phase, target in case.targets.items():
        samples = _measure_phase(case, phase, variants, options)
        # The baseline has a row as a case of its own.
        names = [name for name in samples.seconds if name != BASELINE]
        if COMPILE not in names and samples.why_not_compiled:
            names.append(COMPILE)
        for name in names:
            yield _row(case, phase, name, samples, target, options)


def variants_of(case: Case, options: Options, device: str = "cpu") -> dict[str, Variant]:
    """Returns the variants by name.

    Among them are the baseline where the case has one, and torch.compile of the reference where it is wanted and
    possible.
    """

    def build(case: Case = case) -> Workload:
        torch.manual_seed(0)
        return case.workload(tiny=options.tiny, device=device)

    shared = build()
    # Training steps change their networks, so each variant trains its own; the rest shares its tensors.
    measured = build() if shared.steps else shared
    variants = {REFERENCE: Variant(REFERENCE, shared), options.backend: Variant(options.backend, measured)}
    if case.baseline_changes:
        variants[BASELINE] = Variant(options.backend, build(case.baseline()))
    if not options.compiled or case.why_not_compiled:
        return variants
    torch.compiler.reset()
    compiled = torch.compile(shared.function, dynamic=False)
    variants[COMPILE] = Variant(REFERENCE, replace(shared, function=compiled))
    return variants


def _check_gradients(case: Case, reference: Variant, measured: Variant) -> None:
    """Refuses to time a wrong result: gradients must agree with the reference's."""
    phase = next(name for name in case.targets if name != FORWARD)
    pairs = zip(reference.phase(phase)(), measured.phase(phase)(), strict=True)
    for i, (expected, gradient) in enumerate(pairs):
        error = (gradient - expected).norm() / expected.norm()
        if not error < MAX_GRADIENT_ERROR:
            raise RuntimeError(f"{case.name}: gradient {i} is off by {float(error):.1e} of its norm; not timed")


def _measure_phase(case: Case, phase: str, variants: dict[str, Variant], options: Options) -> _Samples:
    runs = {name: variant.phase(phase) for name, variant in variants.items()}
    why_not_compiled = case.why_not_compiled if options.compiled else ""
    for name, run in list(runs.items()):
        try:
            _warm_up(run)
        except Exception as error:
            if name != COMPILE:
                raise
            del runs[name]
            why_not_compiled = described(error)
    seconds = interleave(runs, options.max_rounds, SECONDS_PER_PHASE)
    memory = {name: _memory(case, phase, name, variants[name], options) for name in runs if name != BASELINE}
    return _Samples(seconds, memory, why_not_compiled)


def _warm_up(run: Callable[[], Any]) -> None:
    for _ in range(2):
        run()


def _memory(case: Case, phase: str, name: str, variant: Variant, options: Options) -> tuple[int | None, int | None]:
    """Returns (bytes saved for backward, peak extra bytes) of one variant; None where they mean nothing."""
    if phase == FORWARD:
        return None, None
    work = variant.workload
    with hsr_kernels.use_backend(variant.backend):
        saved = saved_bytes(lambda: work.function(*work.inputs, *work.parameters), work.parameters)
    if not case.measures_peak or name == COMPILE:
        return saved, None
    return saved, peak_extra_bytes(case.name, variant.backend, tiny=options.tiny)


def _row(case: Case, phase: str, name: str, measured: _Samples, target: Target, options: Options) -> CpuRow:
    samples = measured.seconds.get(name)
    median, p20, p80 = percentiles([1e3 * t for t in samples]) if samples else (None, None, None)
    saved, peak = measured.memory.get(name, (None, None))
    demanded = Target() if name in (REFERENCE, COMPILE) or options.tiny else target

    def against(other: str) -> float | None:
        if not samples or other not in measured.seconds or other == name:
            return None
        return speedup(measured.seconds[other], samples)

    return CpuRow(
        case=case.name,
        title=case.title + (" (tiny)" if options.tiny else ""),
        phase=phase,
        variant=name,
        median_ms=median,
        p20_ms=p20,
        p80_ms=p80,
        rounds=len(samples or []),
        vs_reference=against(REFERENCE),
        vs_compile=against(COMPILE),
        vs_baseline=against(BASELINE),
        saved_bytes=saved,
        peak_bytes=peak,
        target_reference=demanded.reference,
        target_compile=demanded.compiled,
        target_peak=demanded.peak,
        target_baseline=demanded.baseline,
        note=measured.why_not_compiled if name == COMPILE else "",
        chip=processor(),
        cores=torch.get_num_threads(),
        torch=torch.__version__,
        commit=commit(),
    )
