# SPDX-License-Identifier: Apache-2.0
"""Fills Triton's cache: what calls launch is found without running them, and compiled on all cores.

Otherwise each kernel is compiled at its first launch, one after another.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import triton
from triton.compiler import ASTSource

from . import build, record
from .record import Chip, Launch

# A call on tensors without data, with a name for it.
NamedCall = tuple[str, Callable[[], None]]
# Takes how many kernels are compiled, and how many have to be: 0 at first, and then after each.
Tell = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    """Tells nothing."""


@dataclass(frozen=True)
class Outcome:
    """What filling the cache did.

    Attributes:
        launches: The distinct launches of the calls, the largest first.
        builds: Those that weren't in the cache, compiled.
        faults: Which calls failed, and what can't be compiled, and why: sentences.
    """

    launches: list[Launch]
    builds: list[build.Build]
    faults: list[str]

    def described(self, chip: Chip, processes: int, seconds: float) -> str:
        """Returns a sentence on what was done for a chip, in so many processes and seconds."""
        all_of_them = f"{len(self.launches)} kernels for {chip.name}"
        if not self.builds:
            return f"{all_of_them}: all were in {triton.knobs.cache.dir}."
        longest = max(self.builds, key=lambda b: b.seconds)
        return (
            f"{all_of_them}: {len(self.builds)} compiled into {triton.knobs.cache.dir} in {seconds:.1f} s by "
            f"{processes} processes, {sum(b.seconds for b in self.builds):.1f} s of processor time, of which "
            f"{longest.launch.kernel} took {longest.seconds:.1f} s, the longest."
        )


def warm(calls: Iterable[NamedCall], chip: Chip, processes: int, tell: Tell = _silent, kernel: str = "") -> Outcome:
    """Compiles what calls launch on a chip, unless it is in Triton's cache.

    Args:
        calls: The calls, of the package's public functions.
        chip: The GPU to compile for.
        processes: The number of compilers at a time.
        tell: Takes the progress.
        kernel: Only the kernels whose name contains this.
    """
    launches, faults = recorded(calls, chip)
    launches = [launch for launch in launches if kernel in launch.kernel]
    builds = compile_missing(launches, chip, processes, tell)
    return Outcome(launches, builds, faults + failures(builds))


def compile_missing(launches: Iterable[Launch], chip: Chip, processes: int, tell: Tell = _silent) -> list[build.Build]:
    """Compiles into Triton's cache what isn't there; see `warm`."""
    jobs = [(launch, chip) for launch in launches if not is_cached(launch, chip)]
    builds: list[build.Build] = []
    if jobs:
        tell(0, len(jobs))
        for built in build.build_all(jobs, min(processes, len(jobs)), build.fill_cache):
            builds.append(built)
            tell(len(builds), len(jobs))
    return builds


def failures(builds: Iterable[build.Build]) -> list[str]:
    """Returns what can't be compiled, and why."""
    return [f"{built.launch.kernel}: {problem}" for built in builds for problem in built.problems]


def recorded(named_calls: Iterable[NamedCall], chip: Chip) -> tuple[list[Launch], list[str]]:
    """Returns the distinct launches of calls, the largest first, and which calls failed and why."""
    launches: dict[str, Launch] = {}
    faults = []
    for name, call in named_calls:
        with record.recording(chip) as found:
            try:
                call()
            except Exception as error:
                faults.append(f"{name}: {_described(error)}")
        launches |= found.launches
    return largest_first(launches.values()), faults


def largest_first(launches: Iterable[Launch]) -> list[Launch]:
    """Sorts launches so that no core waits at the end for one that takes long."""
    return sorted(launches, key=lambda launch: launch.size, reverse=True)


def is_cached(launch: Launch, chip: Chip) -> bool:
    """Whether Triton's cache has what a real launch on the chip looks for."""
    try:
        build.compile_source(_CachedSource, launch, chip)
    except _NotCached:
        return False
    return True


class _NotCached(Exception):
    """A kernel would have to be compiled."""


class _CachedSource(ASTSource):
    """A kernel that is read from the cache, or not at all: Triton makes its first form where it isn't there."""

    def make_ir(self, *args: object, **kwargs: object) -> object:
        raise _NotCached


def _described(error: Exception) -> str:
    line = (str(error).strip() or "no message").splitlines()[0].rstrip(".")
    return f"{type(error).__name__}: {line}"
