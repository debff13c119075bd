# SPDX-License-Identifier: Apache-2.0
"""Everything that is to be known about one GPU, in one command of a few minutes: tests, times, memory."""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import hsr_kernels
from hsr_kernels import _measured
from hsr_kernels._backends import implemented
from hsr_kernels.modulated_conv2d import routes

from . import gpu_backends, gpu_routes, gpu_table, roofline
from .cases import Case
from .gpu_cases import GPU_CASES
from .gpu_table import OUT_OF_TIME, Choices, Measured, Time
from .limit import OutOfTime, limit
from .memory import ROOT
from .run import Variant, commit, differentiate, infer
from .timing import per_call
from .workloads import BOTH, FORWARD, SCHEDULE, Workload, bare_convolution

DEVICE, OURS, CUDA = "cuda", "triton", "cuda"
TESTS_SHARE = 0.4  # of the time, at most
ROUTES_SECONDS = 75.0  # at most, to find out which route each layer takes
BACKENDS_SECONDS = 60.0  # and which backend is faster
CASE_SECONDS = 120.0  # for one case at most; what takes longer is stuck
TEST_PROCESSES = 8  # at most; each compiles the kernels of its tests
_CLEARED = 256 << 20  # bytes; no L2 cache is larger
_SECONDS = 0.15  # to measure one call in,
_LEAST, _MOST = 4, 100  # and how often to


class NoGpu(Exception):
    """There is no CUDA device to measure."""


def available() -> bool:
    """Whether there is a GPU to measure."""
    return torch.cuda.is_available()


def environment() -> dict[str, str]:
    """Chip, driver and versions."""
    import triton

    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True
    )
    return {
        "chip": torch.cuda.get_device_name(),
        "driver": driver.stdout.strip().split("\n")[0] if driver.returncode == 0 else "unknown",
        "torch": torch.__version__,
        "triton": triton.__version__,
        "commit": commit(),
    }


def report(out: Path, only: str, *, quick: bool, minutes: float, say: Callable[[str], None]) -> None:
    """Runs tests and measurements; writes gpu.csv, gpu.md, routes.csv, measured.csv and tests.log to `out` as it goes.

    Routes of modulated layers are measured first, where a case has such layers, and what follows takes them; then which
    backend is faster, cuda or triton. Cases are measured on both, wherever cuda has their operators.
    torch.compile, which takes long, comes last, so that what time there is goes to everything else first.

    Raises:
        NoGpu: There is no device, or no case of that name.
    """
    if not available():
        raise NoGpu("gpu-report needs a CUDA device, and PyTorch sees none; `roofline` works without one")
    chosen = [case for case in GPU_CASES if only in case.name]
    if not chosen:
        raise NoGpu(f"no case is called {only!r}; there are {', '.join(case.name for case in GPU_CASES)}")
    deadline = time.monotonic() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    setting = environment()
    say(", ".join(f"{name} {value}" for name, value in setting.items()))
    if not quick:
        say(f"kernels: {compile_kernels(chosen)}")
    tests = "left out" if quick else run_tests(out / "tests.log", 60 * minutes * TESTS_SHARE)
    say(f"pytest -m gpu: {tests}")
    torch.backends.cudnn.benchmark = True  # as `hsr train` has it, and the strongest baseline
    copy = copy_bandwidth(1 << 20 if quick else 1 << 30)
    say(f"device copy: {copy / 1e12:.2f} TB/s, read and written")
    choices = measure_choices(chosen, out, quick, deadline, say)
    found = {case.name: [Measured(case, phase, judged=not quick) for phase in case.targets] for case in chosen}
    jobs = [(case, False) for case in chosen] + [(case, True) for case in chosen if _wants_compile(case)]
    for case, compiled in jobs:
        measure(case, found[case.name], quick=quick, deadline=deadline, compiled=compiled)
        rows = [row for phases in found.values() for one in phases for row in gpu_table.rows(one, copy)]
        gpu_table.write_csv(out / "gpu.csv", rows, setting)
        (out / "gpu.md").write_text(gpu_table.markdown(rows, setting, tests, copy, choices) + "\n")
        for one in found[case.name]:
            say(f"{case.title}, {one.phase}{', compiled' * compiled}: {one.summary()}")
    tables = ["gpu.csv", "gpu.md"] + ["routes.csv"] * bool(choices.routes) + ["measured.csv"] * bool(choices.backends)
    say(f"written to {out}: {', '.join(tables)}")


def compile_kernels(cases: Sequence[Case]) -> str:
    """Compiles what the cases launch into Triton's cache, on all cores instead of at each kernel's first call."""
    from hsr_kernels.aot import build, record

    properties = torch.cuda.get_device_properties(0)
    chip = record.Chip(10 * properties.major + properties.minor, 1 << 30, properties.multi_processor_count)

    def both(case: Case) -> None:
        work = case.workload()
        infer(work)()
        differentiate(work)()

    traced = [case for case in cases if BOTH in case.targets]
    layers = gpu_routes.LAYERS if any(map(_takes_routes, cases)) else ()
    fused = [partial(gpu_routes.run_fused, layer, "cpu") for layer in layers]
    compared = gpu_backends.comparisons() if _compares(cases) and not without_cuda() else ()
    small = [partial(lambda one: differentiate(one.workload("cpu"))(), one) for one in compared]
    calls = [*(partial(both, case) for case in traced), *fused, *small]
    launches = record.record(calls, [chip])[chip].launches.values()
    builds = list(build.build_all([(launch, chip) for launch in launches], len(os.sched_getaffinity(0))))
    failed = [f"{one.launch.kernel}: {problem}" for one in builds for problem in one.problems]
    return f"{len(builds)} compiled beforehand" + "".join(f"; {problem}" for problem in failed)


def run_tests(log: Path, seconds: float) -> str:
    """Runs `pytest -m gpu` into a log, on several processes where pytest-xdist is installed; returns its last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(min(TEST_PROCESSES, len(os.sched_getaffinity(0))))]
    with log.open("w") as file:
        try:
            subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:.0f} s"
    lines = log.read_text().strip().splitlines()
    return lines[-1] if lines else "no output"


def copy_bandwidth(size: int) -> float:
    """Bytes per second, read plus written, of a large copy on the device."""
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * size / _time(lambda: target.copy_(source)).median


def _takes_routes(case: Case) -> bool:
    """Whether it has layers that may go two ways."""
    return len(case.routes) > 1 or bool(case.per_1000)


def _compares(cases: Sequence[Case]) -> bool:
    """Whether there is a choice between cuda and triton."""
    return any(map(_has_cuda, cases))


def _has_cuda(case: Case) -> bool:
    """Whether cuda has all of a case's operators."""
    return bool(case.operators) and all("cuda" in implemented(op) for op in case.operators)


def without_cuda() -> str:
    """Why the cuda backend can't run here; "" where it can."""
    return hsr_kernels.backends()["cuda"]


def measure_choices(
    cases: Sequence[Case], out: Path, quick: bool, deadline: float, say: Callable[[str], None]
) -> Choices:
    """Measures what the library can choose between, as far as the cases have it: routes first, as layers take them."""
    taken: list[routes.Measurement] = []
    if any(map(_takes_routes, cases)):
        taken, ended = measure_routes(out / "routes.csv", min(ROUTES_SECONDS, deadline - time.monotonic()), quick)
        say(f"routes of modulated layers: {len(taken)} passes measured{ended}")
    compared: list[_measured.Measurement] = []
    if not _compares(cases):
        note = "no case has operators of both"
    elif note := without_cuda():
        say(f"cuda beside triton: not measured: {note}")
    else:
        seconds = min(BACKENDS_SECONDS, deadline - time.monotonic())
        compared, note = measure_backends(out / "measured.csv", seconds, quick)
        say(f"cuda beside triton: measured {len(compared)} times{note and ', then '}{note}")
    return Choices(taken, compared, note)


def measure_backends(table: Path, seconds: float, quick: bool) -> tuple[list[_measured.Measurement], str]:
    """Writes to `table` which backend is faster for which tensor, as far as the time goes.

    Returns:
        What was measured, and what wasn't and why.
    """
    found: list[_measured.Measurement] = []
    notes = []
    todo = list(gpu_backends.comparisons(gpu_backends.TINY if quick else gpu_backends.TENSORS))
    try:
        with limit(seconds):
            for one in todo:
                try:
                    found.append(gpu_backends.measure(one, DEVICE, _batch))
                except Exception as error:
                    notes.append(f"{one}: {_reason(error)}")
                    torch.cuda.empty_cache()
    except OutOfTime:
        notes.append(f"out of time after {len(found)} of {len(todo)}")
    _measured.write(table, found)
    return found, "; ".join(notes)


def measure_routes(table: Path, seconds: float, quick: bool) -> tuple[list[routes.Measurement], str]:
    """Writes to `table` which route is faster for which layer, as far as the time goes; from then on layers take it.

    Returns:
        What was measured, and what ended it before its end.
    """
    found: list[routes.Measurement] = []
    ended = ""
    try:
        with limit(seconds):
            layers = gpu_routes.TINY if quick else gpu_routes.LAYERS
            for one in gpu_routes.measure(layers, DEVICE, lambda run: _time(_captured(run)).median):
                found.append(one)
    except OutOfTime:
        ended = ", then out of time"
    except Exception as error:
        ended = f", then {_reason(error)}"
    routes.write(table, found)
    os.environ[routes.ENVIRONMENT] = str(table)
    return found, ended


def measure(case: Case, found: list[Measured], *, quick: bool, deadline: float, compiled: bool) -> None:
    """Measures one case in all its passes and ways, or `compiled`: torch.compile of its reference alone."""
    name = "compile" if compiled else "triton"
    try:
        with limit(min(CASE_SECONDS, deadline - time.monotonic())):
            (_measure_compiled if compiled else _measure)(case, found, quick)
    except OutOfTime:
        for one in found:
            if (name, "eager") not in one.times:
                one.notes.setdefault((name, "eager"), OUT_OF_TIME)
    except Exception as error:
        for one in found:
            one.notes[name, "eager"] = f"{_reason(error)}"
    torch.cuda.empty_cache()


def contenders(case: Case, quick: bool) -> dict[str, Variant]:
    """Ours and what it is compared with, torch.compile apart."""

    def build(case: Case = case) -> Workload:
        torch.manual_seed(0)
        return case.workload(tiny=quick, device=DEVICE)

    shared = build()
    variants = {"triton": Variant(OURS, shared)}
    if case.without:
        less = replace(case, size=case.size | case.without, tiny=case.tiny | case.without)
        return variants | {"without": Variant(OURS, build(less))}
    # Training changes its networks, so each variant has its own; the rest shares its tensors.
    variants["reference"] = Variant("reference", build() if shared.steps else shared)
    if any(target.released is not None for target in case.targets.values()):
        variants["released"] = Variant("reference", build(replace(case, dtype=torch.float32)))
    if _has_cuda(case) and not without_cuda():
        variants["cuda"] = Variant(CUDA, build() if shared.steps else shared)
    return variants


def _measure(case: Case, found: list[Measured], quick: bool) -> None:
    if not quick:
        fewest = {work.phase: work.fewest for work in roofline.estimate(case)}
        for one in found:
            one.fewest = fewest.get(one.phase)
    variants = contenders(case, quick)
    for one in found:
        if one.phase == SCHEDULE:
            _schedule(case, found, one)
            continue
        for name, variant in variants.items():
            run = variant.phase(one.phase)
            _attempt(one, name, "eager", lambda run=run: _time(run))
            if one.phase in (FORWARD, BOTH) and name != "released":
                _attempt(one, name, "graph", lambda run=run: _time(_captured(run)))
            if one.phase != FORWARD and (name, "eager") in one.times:
                one.peaks[name] = _peak(run)
        if case.name.startswith("styled"):
            bare = bare_convolution(variants["triton"].workload, case.size["up"], one.phase)
            _attempt(one, "convolution", "eager", lambda bare=bare: _time(bare))


def _wants_compile(case: Case) -> bool:
    return any(target.compiled is not None for target in case.targets.values())


def _measure_compiled(case: Case, found: list[Measured], quick: bool) -> None:
    """Only the passes that are to be faster than it: compiling takes seconds each."""
    torch.manual_seed(0)
    shared = case.workload(tiny=quick, device=DEVICE)
    torch.compiler.reset()
    variant = Variant("reference", replace(shared, function=torch.compile(shared.function, dynamic=False)))
    for one in found:
        if case.targets[one.phase].compiled is not None:
            _attempt(one, "compile", "eager", lambda one=one: _time(variant.phase(one.phase)))


def _schedule(case: Case, steps: list[Measured], schedule: Measured) -> None:
    """The time for 1000 images, from those of the steps that it consists of."""
    parts = {one.phase: one for one in steps}
    for name in {name for one in steps for name, _ in one.times}:
        its = {phase: parts[phase].times.get((name, "eager")) for phase in case.per_1000}
        if all(its.values()):
            sums = [sum(n * getattr(its[phase], of) for phase, n in case.per_1000.items()) for of in Time._fields]
            schedule.times[name, "eager"] = Time(*sums)


def _attempt(one: Measured, name: str, mode: str, run: Callable[[], Time]) -> None:
    """Notes a failure instead of losing everything measured so far."""
    try:
        one.times[name, mode] = run()
    except Exception as error:
        one.notes[name, mode] = _reason(error)
        torch.cuda.empty_cache()


def _reason(error: Exception) -> str:
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first}"


def _time(run: Callable[[], Any]) -> Time:
    """Times a call with device events. Before each, memory larger than the L2 cache is read: it holds nothing of use,
    and nothing that would have to be written back meanwhile."""
    elsewhere = torch.zeros(_CLEARED // 4, dtype=torch.int32, device=DEVICE)
    for _ in range(2):  # compiles, and lets allocations settle
        run()
    count, times = _LEAST, []
    while len(times) < count:
        pairs = []
        for _ in range(min(count - len(times), _MOST)):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            elsewhere.sum()
            start.record()
            run()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize()
        times += [1e-3 * start.elapsed_time(end) for start, end in pairs]
        if len(times) == _LEAST:
            count = max(_LEAST, min(_MOST, int(_SECONDS / max(sum(times) / _LEAST, 1e-6))))
    return gpu_table.percentiles(times)


def _batch(run: Callable[[], Any], calls: int) -> float:
    """Seconds per call of so many calls in a row and of waiting for the last, by the host's clock."""
    return per_call(run, calls, torch.cuda.synchronize, wait=True)


def _captured(run: Callable[[], Any]) -> Callable[[], None]:
    """`run` as a CUDA graph; warmed up on a stream of its own, as capturing demands."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = run()

    def replay() -> None:
        graph.replay()

    replay.results = kept  # type: ignore[attr-defined]  # the graph writes to them
    return replay


def _peak(run: Callable[[], Any]) -> int:
    """Bytes by which allocated memory peaks above its start while `run` runs."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before
