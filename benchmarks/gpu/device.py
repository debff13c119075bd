# SPDX-License-Identifier: Apache-2.0
"""The GPU, as far as measuring needs it, or a CPU that stands in for it in a rehearsal.

HSR_GPU_REHEARSAL=1 makes everything run on the CPU in tiny sizes, on the reference backend in the place of both of the
GPU's: it shows that commands, processes and files work. What comes out names the chip "none: a rehearsal" and judges
nothing. HSR_GPU_REHEARSAL="crash=TEXT;hang=TEXT;lost=TEXT;raise=TEXT" also lets items whose name contains TEXT crash,
hang, lose the device or raise.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..run import commit
from ..timing import per_call

REHEARSAL = "HSR_GPU_REHEARSAL"
MISSING = "gpu-report needs a CUDA device, and PyTorch sees none; `roofline` works without one"
_CLEARED_BYTES = 256 << 20  # no L2 cache is larger
_SECONDS = 0.15  # to measure one call in,
_MIN_SAMPLES, _MAX_SAMPLES = 4, 100  # and how often to
_lost = ""


class Time(NamedTuple):
    """Seconds of a call: median, 20th and 80th percentile."""

    median: float
    p20: float
    p80: float


def percentiles(seconds: Sequence[float]) -> Time:
    """Of a non-empty sample."""
    return Time(*(float(value) for value in np.percentile(seconds, [50, 20, 80])))


def rehearsing() -> bool:
    """Whether a CPU stands in for the GPU."""
    return bool(os.environ.get(REHEARSAL))


def name() -> str:
    """What tensors are to be allocated on."""
    return "cpu" if rehearsing() else "cuda"


def backend(variant: str) -> str:
    """The backend that a contender runs on."""
    return "reference" if rehearsing() else variant


def machine() -> dict[str, str]:
    """Chip, driver and versions; empty where there is no device."""
    import triton

    versions = {"torch": torch.__version__, "triton": triton.__version__, "commit": commit()}
    if rehearsing():
        return {"chip": "none: a rehearsal", "driver": "none"} | versions
    if not torch.cuda.is_available():
        return {}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        driver = "unknown"
    return {"chip": torch.cuda.get_device_name(), "driver": driver} | versions


def architecture() -> str | None:
    """The GPU's, such as "sm_90"; None where there is none."""
    if rehearsing() or not torch.cuda.is_available():
        return None
    return "sm_{}{}".format(*torch.cuda.get_device_capability())


def rehearse(item: str) -> None:
    """Does to an item what HSR_GPU_REHEARSAL asks for."""
    global _lost
    for fault, _, text in (part.partition("=") for part in os.environ.get(REHEARSAL, "").split(";")):
        if text and text in item:
            if fault == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            elif fault == "hang":
                time.sleep(3600)
            elif fault == "lost":
                _lost = "CUDA error: an illegal memory access was encountered (rehearsed)"
            raise RuntimeError("rehearsed")


def lost() -> str:
    """What keeps the device from answering this process for ever, such as an illegal access; "" where nothing does."""
    if rehearsing():
        return _lost
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").add_(1).item()
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return ""


def settle() -> None:
    """Waits for all that was launched."""
    if not rehearsing():
        torch.cuda.synchronize()


def free() -> None:
    """Gives memory that nothing holds back to the device."""
    if not rehearsing():
        torch.cuda.empty_cache()


def once(run: Callable[[], Any]) -> Time:
    """Times a single call, without a warm-up."""
    settle()
    began = time.perf_counter()
    run()
    settle()
    return Time(*[time.perf_counter() - began] * 3)


def timed(run: Callable[[], Any]) -> Time:
    """Times a call with device events. Before each, memory larger than the L2 cache is read: it holds nothing of use,
    and nothing that would have to be written back meanwhile."""
    if rehearsing():
        return once(run)
    elsewhere = torch.zeros(_CLEARED_BYTES // 4, dtype=torch.int32, device=name())
    for _ in range(2):  # compiles, and lets allocations settle
        run()
    count = _MIN_SAMPLES
    times: list[float] = []
    while len(times) < count:
        pairs = []
        for _ in range(min(count - len(times), _MAX_SAMPLES)):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            elsewhere.sum()
            start.record()
            run()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize()
        times += [1e-3 * start.elapsed_time(end) for start, end in pairs]
        if len(times) == _MIN_SAMPLES:
            count = max(_MIN_SAMPLES, min(_MAX_SAMPLES, int(_SECONDS / max(sum(times) / _MIN_SAMPLES, 1e-6))))
    return percentiles(times)


def batch(run: Callable[[], Any], calls: int) -> float:
    """Seconds per call of so many calls in a row and of waiting for the last, by the host's clock."""
    return per_call(run, calls, settle, wait=True)


def captured(run: Callable[[], Any]) -> Callable[[], Any]:
    """`run` as a CUDA graph; warmed up on a stream of its own, as capturing demands."""
    if rehearsing():
        return run
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


def peak(run: Callable[[], Any]) -> int:
    """Bytes by which allocated memory peaks above its start while `run` runs."""
    if rehearsing():
        run()
        return 1_000_000
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    print(json.dumps(machine()))
    sys.exit(0 if machine() else 2)
