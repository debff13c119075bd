# SPDX-License-Identifier: Apache-2.0
"""Everything that is to be known about one GPU, in one command of a few minutes: tests, times, memory."""

import csv
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from . import roofline
from .cases import FORWARD, GPU_CASES, STEP, Case, Workload
from .memory import ROOT
from .run import Options, commit, variants_of

TESTS_SHARE = 0.5  # of the time, at most
NONE = "—"


class NoGpu(Exception):
    """There is no CUDA device to measure."""


@dataclass(frozen=True)
class Row:
    """One contender in one pass of one case; None means not measured, and `note` says why.

    Attributes:
        variant: "triton", "reference", "compile" (torch.compile of the reference), "convolution" (the bare one) or
            "copy" (a device copy).
        mode: "eager", or "graph" for the replay of a CUDA graph.
        median_us, p20_us, p80_us: Microseconds, the L2 cache cold.
        vs_reference, vs_compile: The other's median, called eagerly, over this one's.
        of_copy: Bandwidth over the fewest bytes that can be moved, as a fraction of the device copy's.
        peak_bytes: Peak of allocated memory above the inputs.
        target: What the case must reach, in words.
    """

    case: str
    title: str
    phase: str
    variant: str
    mode: str
    median_us: float | None
    p20_us: float | None
    p80_us: float | None
    vs_reference: float | None
    vs_compile: float | None
    of_copy: float | None
    peak_bytes: int | None
    target: str
    note: str


@dataclass(frozen=True)
class Time:
    """Seconds of a call: median, 20th and 80th percentile."""

    median: float
    p20: float
    p80: float


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
    """Runs tests and measurements; writes gpu.csv, gpu.md and tests.log under `out` as it goes.

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
    tests = "left out" if quick else run_tests(out / "tests.log", 60 * minutes * TESTS_SHARE)
    say(f"pytest -m gpu: {tests}")
    copy = copy_bandwidth(1 << 20 if quick else 1 << 30)
    say(f"device copy: {copy / 1e12:.2f} TB/s, read and written")
    rows: list[Row] = []
    for case in chosen:
        for row in measure(case, copy, quick, deadline):
            rows.append(row)
            if row.median_us is not None:
                say(f"{row.title}, {row.phase}, {row.variant} {row.mode}: {row.median_us:.1f} µs")
        write_csv(out / "gpu.csv", rows, setting)
        (out / "gpu.md").write_text(markdown(rows, setting, tests, copy) + "\n")
    say(f"written: {out / 'gpu.csv'} and gpu.md")


def run_tests(log: Path, seconds: float) -> str:
    """Runs `pytest -m gpu` into a log; returns its last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    with log.open("w") as file:
        try:
            subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:.0f} s"
    lines = log.read_text().strip().splitlines()
    return lines[-1] if lines else "no output"


def copy_bandwidth(size: int) -> float:
    """Bytes per second, read plus written, of a large copy on the device."""
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * size / _time(lambda: target.copy_(source)).median


def measure(case: Case, copy: float, quick: bool, deadline: float) -> Iterator[Row]:
    """Measures one case in all its passes and ways."""
    if time.monotonic() > deadline:
        for phase in case.targets:
            yield _row(case, phase, "triton", "eager", note="not measured: out of time")
        return
    torch.manual_seed(0)
    compiled = not case.no_compile and deadline - time.monotonic() > 60
    contenders = variants_of(case, Options("triton", 1, quick, compiled), "cuda")
    fewest = {work.phase: work.fewest for work in roofline.estimate(case)} if not quick else {}
    for phase in case.targets:
        times: dict[tuple[str, str], Time] = {}
        notes: dict[tuple[str, str], str] = {}
        for name, variant in contenders.items():
            run = variant.phase(phase)
            _attempt(times, notes, (name, "eager"), lambda run=run: _time(run))
            if phase != STEP and name != "compile":
                _attempt(times, notes, (name, "graph"), lambda run=run: _time(_captured(run)))
        if case.name.startswith("styled"):
            bare = _bare_convolution(contenders["reference"].workload, case, phase)
            _attempt(times, notes, ("convolution", "eager"), lambda bare=bare: _time(bare))
        for name, mode in (*times, *notes):
            peak = None
            if mode == "eager" and name in contenders and (name, mode) in times and phase != FORWARD:
                peak = _peak(contenders[name].phase(phase))
            yield _row(
                case, phase, name, mode, times, fewest.get(phase), copy, peak=peak, note=notes.get((name, mode), "")
            )
    torch.cuda.empty_cache()


def _attempt(times: dict, notes: dict, key: tuple[str, str], run: Callable[[], Time]) -> None:
    """Notes a failure instead of losing everything measured so far."""
    try:
        times[key] = run()
    except Exception as error:
        first = (str(error).strip() or "no message").splitlines()[0]
        notes[key] = f"{type(error).__name__}: {first}"
        torch.cuda.empty_cache()


def _time(run: Callable[[], Any]) -> Time:
    """Times a call with device events; the L2 cache is cleared before each."""
    from triton.testing import do_bench

    median, p20, p80 = do_bench(run, warmup=25, rep=150, quantiles=[0.5, 0.2, 0.8])
    return Time(1e-3 * median, 1e-3 * p20, 1e-3 * p80)


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


def _bare_convolution(work: Workload, case: Case, phase: str) -> Callable[[], Any]:
    """The convolution inside a styled layer alone, by cuDNN, in the same dtype and layout."""
    x, weight = work.inputs[0], work.parameters[0]
    up = case.size["up"]
    w = weight.detach().to(x.dtype).to(memory_format=torch.channels_last).requires_grad_()

    def convolve() -> torch.Tensor:
        return F.conv2d(x, w, padding=1) if up == 1 else F.conv_transpose2d(x, w.transpose(0, 1), stride=up)

    if phase == FORWARD:
        return lambda: convolve().detach()
    v = torch.randn_like(convolve())
    return lambda: torch.autograd.grad(convolve(), (x, w), v)


def _row(
    case: Case,
    phase: str,
    name: str,
    mode: str,
    times: dict[tuple[str, str], Time] | None = None,
    fewest: int | None = None,
    copy: float | None = None,
    peak: int | None = None,
    note: str = "",
) -> Row:
    times = times or {}
    own = times.get((name, mode))

    def against(other: str) -> float | None:
        its = times.get((other, "eager"))
        return its.median / own.median if its and own and other != name else None

    of_copy = fewest / own.median / copy if fewest and own and copy and name != "convolution" else None
    return Row(
        case.name,
        case.title,
        phase,
        name,
        mode,
        *((1e6 * t for t in (own.median, own.p20, own.p80)) if own else (None, None, None)),
        against("reference"),
        against("compile"),
        of_copy,
        peak,
        _target(case, phase) if name == "triton" else "",
        note,
    )


def _target(case: Case, phase: str) -> str:
    target = case.targets[phase]
    parts = {
        "x reference": target.reference,
        "x compile": target.compiled,
        " of the peak memory": target.peak,
        " of copy": target.copy,
    }
    return "; ".join(f"{value:g}{unit}" for unit, value in parts.items() if value is not None)


def write_csv(path: Path, rows: list[Row], setting: dict[str, str]) -> None:
    """One line per row, with the setting in columns of its own."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*(field.name for field in fields(Row)), *setting], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) | setting for row in rows)


def markdown(rows: list[Row], setting: dict[str, str], tests: str, copy: float) -> str:
    """Our times beside the others', what must be reached and whether it was."""
    header = ["case", "pass", "reference, µs", "compile, µs", "convolution, µs", "ours, µs", "ours as a graph, µs",
              "x reference", "x compile", "of copy", "peak, MB", "must reach"]  # fmt: skip
    lines = [header, ["---"] * 2 + ["---:"] * 9 + ["---"]]
    found = {(row.case, row.phase, row.variant, row.mode): row for row in rows}
    for row in rows:
        if (row.variant, row.mode) != ("triton", "eager"):
            continue

        def cell(variant: str, mode: str = "eager", row: Row = row) -> str:
            other = found.get((row.case, row.phase, variant, mode))
            return _figure(other.median_us if other else None)

        base = found.get((row.case, row.phase, "reference", "eager"))
        peaks = [None if r is None or r.peak_bytes is None else r.peak_bytes / 1e6 for r in (base, row)]
        lines.append([
            row.title, row.phase, cell("reference"), cell("compile"), cell("convolution"), cell("triton"),
            cell("triton", "graph"), _figure(row.vs_reference), _figure(row.vs_compile), _figure(row.of_copy),
            " → ".join(map(_figure, peaks)) if None not in peaks else NONE, row.target or NONE,
        ])  # fmt: skip
    notes = [f"{r.title}, {r.phase}, {r.variant} {r.mode}: {r.note}." for r in rows if r.note]
    about = ", ".join(f"{name} {value}" for name, value in setting.items())
    return "\n".join(
        ["| " + " | ".join(cells) + " |" for cells in lines]
        + ["", f"{about}. Medians, L2 cold. Device copy: {copy / 1e12:.2f} TB/s. `pytest -m gpu`: {tests}."]
        + [f"\n{note}" for note in notes]
    )


def _figure(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
