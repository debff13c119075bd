# SPDX-License-Identifier: Apache-2.0
"""What was found of the cases, from the journal's entries, and whether they reached what they must."""

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ..case import Case
from ..timing import Time
from ..variants import BASELINE, COMPILE, COPY, CUDA, GPU_BACKENDS, REFERENCE, RELEASED, TRITON
from ..workloads import SCHEDULE
from .cases import GPU_CASES
from .journal import BEGAN, DONE, Entry
from .measuring import EAGER, GRAPH, LARGE_COPY

OUT_OF_TIME = "not measured: out of time"


@dataclass
class PhaseResult:
    """What became of one pass of a case; keys are (variant, mode).

    Attributes:
        case, phase: What was measured.
        is_judged: Whether what must be reached is compared with what was measured.
        min_bytes: The fewest bytes that can be moved.
        times: In seconds; those of COPY are of a copy on the device that moves the fewest bytes.
        notes: Why there is no time, or how one was taken.
        peaks: Variant -> peak of allocated memory above what was there before, in bytes.
    """

    case: Case
    phase: str
    is_judged: bool = True
    min_bytes: int | None = None
    times: dict[tuple[str, str], Time] = field(default_factory=dict)
    notes: dict[tuple[str, str], str] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)

    def median(self, name: str, mode: str = EAGER) -> float | None:
        """Seconds, None where there is no measurement."""
        time = self.times.get((name, mode))
        return time.median if time else None

    def device_seconds(self, name: str) -> float | None:
        """Seconds on the device alone, as far as that was measured: as a CUDA graph, else called eagerly."""
        return self.median(name, GRAPH) or self.median(name)

    def fastest(self, seconds: Callable[[str], float | None]) -> str:
        """The backend that takes the fewest seconds; triton where nothing was measured."""
        measured = {name: its for name in GPU_BACKENDS if (its := seconds(name))}
        return min(measured, key=measured.__getitem__, default=TRITON)

    def share_of_copy(self, name: str, mode: str) -> float | None:
        """The time of a copy of the same bytes, taken in the same way, as a share of a variant's."""
        return ratio(self.median(COPY, mode), self.median(name, mode))

    def device_share_of_copy(self, name: str) -> float | None:
        """`share_of_copy` as a CUDA graph where there is one, else of eager calls."""
        return self.share_of_copy(name, GRAPH) or self.share_of_copy(name, EAGER)

    def verdicts(self) -> Iterator[str]:
        """What was demanded and whether the faster backend reached it; speed-ups are of eager calls on both sides."""
        target = self.case.targets[self.phase]
        fastest, fastest_on_device = self.fastest(self.median), self.fastest(self.device_seconds)
        seconds = self.median(fastest)
        peaks = {name: ratio(self.peaks.get(fastest), peak) for name, peak in self.peaks.items()}

        def speedup(name: str) -> float | None:
            return ratio(self.median(name), seconds)

        baseline = ratio(seconds, self.median(BASELINE))
        share = self.device_share_of_copy(fastest_on_device)
        for text, demanded, value, reaches, backend in (
            ("{:g}x reference", target.reference, speedup(REFERENCE), operator.ge, fastest),
            ("{:g}x compile", target.compiled, speedup(COMPILE), operator.ge, fastest),
            ("{:g}x released float32", target.released, speedup(RELEASED), operator.ge, fastest),
            ("{:g} of the peak memory", target.peak, peaks.get(REFERENCE), operator.le, fastest),
            ("{:g} of released float32's peak", target.released_peak, peaks.get(RELEASED), operator.le, fastest),
            ("{:g} of copy", target.copy, share, operator.ge, fastest_on_device),
            ("{:g}x the baseline's time", target.baseline, baseline, operator.le, fastest),
        ):
            if demanded is None:
                continue
            if value is None or not self.is_judged:
                verdict = "not measured"
            else:
                verdict = "reached" if reaches(value, demanded) else "**not reached**"
                verdict += f" ({value:.3g}{', by cuda' if backend == CUDA else ''})"
            yield f"{text.format(demanded)}: {verdict}"


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """A quotient; None where a number is missing or 0."""
    return numerator / denominator if numerator and denominator else None


def collect(entries: Mapping[str, Entry], *, judged: bool) -> tuple[list[PhaseResult], float | None]:
    """Returns all passes of the cases of which any item began, and the rate of a large copy in bytes per second.

    Args:
        entries: The journal's, of the stages that time cases.
        judged: Whether sizes are those that targets are meant for.
    """
    cases = {case.name: case for case in GPU_CASES}
    found: dict[str, dict[str, PhaseResult]] = {}
    for entry in entries.values():
        if "case" in entry.labels:
            case = cases[entry.labels["case"]]
            passes = found.setdefault(case.name, {phase: PhaseResult(case, phase, judged) for phase in case.targets})
            _add(passes[entry.labels["phase"]], entry)
    for name, passes in found.items():
        if SCHEDULE in passes:
            _add_schedule(cases[name].steps_per_1000_images, passes)
    copy = entries.get(LARGE_COPY)
    rate = copy.data["bytes"] / copy.data["median"] if copy is not None and copy.state == DONE else None
    return [result for name in cases if name in found for result in found[name].values()], rate


def _add(result: PhaseResult, entry: Entry) -> None:
    variant, key = entry.labels["variant"], (entry.labels["variant"], entry.labels["mode"])
    if entry.state == DONE:
        result.times[key] = Time(*(entry.data[name] for name in Time._fields))
    note = OUT_OF_TIME if entry.state == BEGAN else entry.reason or entry.data.get("note", "")
    if note:
        result.notes[key] = note
    if variant == COPY and entry.state == DONE:
        result.min_bytes = entry.data["bytes"]
    elif "peak" in entry.data:
        result.peaks[variant] = entry.data["peak"]


def _add_schedule(steps: Mapping[str, float], passes: Mapping[str, PhaseResult]) -> None:
    """Adds the time for 1000 images, from those of the steps that it consists of."""
    for name in dict.fromkeys(name for result in passes.values() for name, _ in result.times):
        times = {phase: passes[phase].times.get((name, EAGER)) for phase in steps}
        if all(times.values()):
            sums = [sum(n * getattr(times[phase], field) for phase, n in steps.items()) for field in Time._fields]
            passes[SCHEDULE].times[name, EAGER] = Time(*sums)
