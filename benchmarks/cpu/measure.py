# SPDX-License-Identifier: Apache-2.0
"""Measures the cases: one set-up of a case serves its parity, its time and its memory, of all variants."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

import hsr_kernels
from hsr_kernels._precision import bfloat16_unit

from ..case import Case, Target
from ..costs import Cost, cost, pass_bytes
from ..messages import described
from ..parity import gate
from ..parity.call import Call
from ..peers.checkout import Peer, UselessPeer
from ..setting import commit, processor
from ..timing import percentiles
from ..variants import BASELINE, BFLOAT16, COMPILE, PEER, REFERENCE, Variant
from ..workloads import BOTH, FORWARD, SECOND, Workload
from .limits import PROBES, PRODUCT_SIDE, TINY_PRODUCT_SIDE, limits, probes
from .memory import can_give_freed_memory_back, give_freed_memory_back, growth_bytes, saved_bytes
from .report import IMPOSSIBLE, WRONG, CpuRow
from .timing import interleave, speedup

SECONDS_PER_PHASE = 20.0


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        backend: Which one is measured beside the reference.
        max_rounds: Of each phase; long ones take fewer.
        tiny: Whether to use tiny sizes.
        compiled: Whether torch.compile is measured too.
        measures_peak: Whether peak memory is; nothing can be timed in this process afterwards.
        peer, family: A checkout whose operators are measured too, and its family; empty for none.
    """

    backend: str
    max_rounds: int
    tiny: bool
    compiled: bool
    measures_peak: bool = False
    peer: str = ""
    family: str = ""


@dataclass
class _Samples:
    """What was measured of a phase.

    Attributes:
        costs: Variant -> what the phase needs.
        seconds: Variant -> seconds per round.
        floors: Variant -> the least seconds by what the machine did in the same rounds.
        notes: Variant -> why there is no time.
        saved, peak: Variant -> bytes saved for backward, peak extra bytes.
    """

    costs: Mapping[str, Cost]
    seconds: dict[str, list[float]]
    floors: Mapping[str, float]
    notes: dict[str, str]
    saved: dict[str, int] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)


def measure_case(case: Case, options: Options) -> Iterator[CpuRow]:
    """Measures one case in all its phases; yields a row per phase and variant."""
    variants = variants_of(case, options)
    wrong = faults(case, variants)
    if options.peer and PEER not in variants:
        wrong[PEER] = _why_no_peer(case, options)
    measured = {phase: _measure_phase(case, phase, variants, wrong, options) for phase in case.targets}
    if options.measures_peak and can_give_freed_memory_back():
        give_freed_memory_back()
        for phase, samples in measured.items():
            samples.peak = _peaks(phase, {name: variants[name] for name in samples.seconds})
    for phase in case.targets:
        samples = measured[phase]
        # The baseline has a row as a case of its own.
        names = [name for name in (*samples.seconds, *samples.notes) if name != BASELINE]
        for name in dict.fromkeys(names):
            yield _row(case, phase, name, samples, options)


def variants_of(case: Case, options: Options, device: str = "cpu") -> dict[str, Variant]:
    """Returns the variants by name.

    Among them are the baseline where the case has one, bfloat16 where the case has targets for it and the processor
    multiplies it faster than float32, and torch.compile of the reference where it is wanted and possible.
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
    if case.bfloat16_targets and bfloat16_unit():
        variants[BFLOAT16] = Variant(options.backend, build(case.in_bfloat16()))
    if options.peer and not _why_no_peer(case, options):
        variants[PEER] = Variant(REFERENCE, peer(options.peer, options.family).workload(shared))
    if not options.compiled or case.why_not_compiled:
        return variants
    torch.compiler.reset()
    compiled = torch.compile(shared.function, dynamic=False)
    variants[COMPILE] = Variant(REFERENCE, replace(shared, function=compiled))
    return variants


@functools.cache
def peer(path: str, family: str) -> Peer:
    """The checkout that is measured too."""
    return Peer(Path(path), family)


def _why_no_peer(case: Case, options: Options) -> str:
    """The reason why a checkout can't do what a case is, empty if it can."""
    try:
        peer(options.peer, options.family).workload(case.workload(tiny=True))
    except UselessPeer as error:
        return str(error)
    return ""


def faults(case: Case, variants: Mapping[str, Variant]) -> dict[str, str]:
    """Returns which variants are wrong, {name: a sentence}: nothing of these is timed.

    Operators are held to the float64 reference in all orders on small tensors, where its kinks can be kept away from;
    at the size that is timed they are compared with the reference.
    """
    layout = "channels_last" if case.size.get("layout") == torch.channels_last else "contiguous"
    calls = case.workload(tiny=True).calls
    found: dict[str, str] = {}
    for name, variant in variants.items():
        # The compiled reference has no second derivatives, and the baseline is another case's.
        if name in (REFERENCE, COMPILE, BASELINE):
            continue
        theirs = [None] * len(calls) if name != PEER else [_same_call(call, variant) for call in calls]
        pairs = zip(calls, theirs, strict=True)
        sentences = (gate.fault(call, variant.backend, _dtype(name), layout, measured) for call, measured in pairs)
        sentence = next(filter(None, sentences), "")
        sentence = sentence or _fault_at_size(case, variants[REFERENCE], variant, _dtype(name))
        if sentence:
            found[name] = WRONG + sentence
    return found


def _dtype(name: str) -> torch.dtype:
    """Of the images of a variant."""
    return torch.bfloat16 if name == BFLOAT16 else torch.float32


def _same_call(call: Call, variant: Variant) -> Call:
    """A call as a variant makes it."""
    return replace(variant.workload.calls[0], name=call.name, shapes=call.shapes)


def _fault_at_size(case: Case, reference: Variant, measured: Variant, dtype: torch.dtype) -> str:
    # What networks compute depends on what they have drawn.
    phases = () if measured.workload.is_network else (FORWARD, BOTH, SECOND)
    for phase in (phase for phase in phases if phase in case.targets):
        expected, actual = (_results(variant, phase) for variant in (reference, measured))
        if sentence := gate.fault_at_size(expected, actual, dtype):
            return f"{phase} at the size that is timed: {sentence}"
    return ""


def _results(variant: Variant, phase: str) -> list[torch.Tensor | None]:
    results = variant.stage(phase)()()
    return [results] if isinstance(results, torch.Tensor) else list(results)


def _measure_phase(
    case: Case, phase: str, variants: Mapping[str, Variant], wrong: Mapping[str, str], options: Options
) -> _Samples:
    notes = dict(wrong)
    # AOTAutograd differentiates once.
    left_out = {COMPILE} if phase == SECOND else set()
    stages = {n: v.stage(phase) for n, v in variants.items() if n not in notes and n not in left_out}
    if options.compiled and case.why_not_compiled:
        notes[COMPILE] = case.why_not_compiled
    if options.backend in wrong:
        # There is nothing to compare.
        stages = {}
    for name, stage in list(stages.items()):
        try:
            # Compiles, and lets allocations settle.
            for _ in range(2):
                stage()()
        except Exception as error:
            if name not in (COMPILE, PEER):
                raise
            del stages[name]
            notes[name] = described(error)
    costs = _costs(case, phase, variants)
    if not stages:
        return _Samples(costs, {}, {}, notes)
    side = TINY_PRODUCT_SIDE if options.tiny else PRODUCT_SIDE
    machine = probes(costs[REFERENCE], side, {_dtype(name) for name in stages})
    seconds = interleave(stages | machine, options.max_rounds, SECONDS_PER_PHASE)
    floors = {}
    for name in [name for name in seconds if name not in PROBES and name != BASELINE]:
        needed, median = costs[name], percentiles(seconds[name]).median
        floors[name] = limits(costs[REFERENCE], seconds, side, _dtype(name)).floor(needed)
        if median < floors[name]:
            why = f"{1e3 * median:.3g} ms for {needed.min_bytes} bytes and {needed.flops:.3g} FLOP"
            notes[name] = f"{IMPOSSIBLE}{why}, which take at least {1e3 * floors[name]:.3g} ms here"
    timed = {name: s for name, s in seconds.items() if name not in (*PROBES, *notes)}
    saved = {} if phase == FORWARD else {name: _saved(variants[name]) for name in timed if name != BASELINE}
    return _Samples(costs, timed, floors, notes, saved)


def _costs(case: Case, phase: str, variants: Mapping[str, Variant]) -> dict[str, Cost]:
    """Returns what a phase needs by variant: in bfloat16 as many products, and fewer bytes."""
    needed = cost(variants[REFERENCE].workload, phase, case.reread)
    costs = dict.fromkeys(variants, needed)
    if BFLOAT16 in variants and not variants[BFLOAT16].workload.is_network:
        costs[BFLOAT16] = replace(needed, min_bytes=pass_bytes(variants[BFLOAT16].workload, phase, case.reread))
    return costs


def _saved(variant: Variant) -> int:
    """Bytes saved for backward by a forward pass."""
    work = variant.workload
    with hsr_kernels.use_backend(variant.backend):
        return saved_bytes(lambda: work.function(*work.inputs, *work.parameters), work.parameters)


def _peaks(phase: str, variants: Mapping[str, Variant]) -> dict[str, int]:
    """Peak extra bytes of each variant in a phase, without what was there when it began."""
    return {name: growth_bytes(variant.stage(phase)()) for name, variant in variants.items()}


def _row(case: Case, phase: str, name: str, measured: _Samples, options: Options) -> CpuRow:
    samples = measured.seconds.get(name)
    median, p20, p80 = percentiles([1e3 * t for t in samples]) if samples else (None, None, None)
    targets = {options.backend: case.targets, BFLOAT16: case.bfloat16_targets}.get(name, {})
    demanded = targets.get(phase, Target()) if not options.tiny else Target()
    # What couldn't be set up has a row with a note alone.
    needed = measured.costs.get(name, measured.costs[REFERENCE])
    title = case.title + (", bfloat16" if name == BFLOAT16 else "")

    def against(other: str) -> float | None:
        if not samples or other not in measured.seconds or other == name:
            return None
        return speedup(measured.seconds[other], samples)

    return CpuRow(
        case=case.name,
        title=title + (" (tiny)" if options.tiny else ""),
        suite=case.suite,
        phase=phase,
        variant=name,
        median_ms=median,
        p20_ms=p20,
        p80_ms=p80,
        rounds=len(samples or []),
        vs_reference=against(REFERENCE),
        vs_compile=against(COMPILE),
        vs_peer=against(PEER),
        vs_baseline=against(BASELINE) if name == options.backend else None,
        vs_float32=against(options.backend) if name == BFLOAT16 else None,
        saved_bytes=measured.saved.get(name),
        peak_bytes=measured.peak.get(name),
        min_bytes=needed.min_bytes,
        flops=needed.flops,
        floor_ms=1e3 * measured.floors[name] if samples else None,
        target_reference=demanded.reference,
        target_compile=demanded.compiled,
        target_peak=demanded.peak,
        target_baseline=demanded.baseline,
        target_float32=demanded.float32,
        note=measured.notes.get(name, ""),
        peer=f"{options.family}: {Path(options.peer).resolve().name}" if options.peer else "",
        chip=processor(),
        cores=torch.get_num_threads(),
        torch=torch.__version__,
        commit=commit(),
    )
