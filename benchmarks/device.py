# SPDX-License-Identifier: Apache-2.0
"""The GPU, as far as measuring needs it, or a CPU that stands in for it in a rehearsal.

HSR_GPU_REHEARSAL=1 makes everything run on the CPU in tiny sizes, on the reference backend in place of both of the
GPU's: it shows that commands, processes and files work. The results name the chip "none: a rehearsal" and judge
nothing. HSR_GPU_REHEARSAL="crash=TEXT;hang=TEXT;lost=TEXT;raise=TEXT" also lets items whose name contains TEXT crash,
hang, lose the device or raise.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import hsr_kernels
from hsr_kernels import _gpu

from .setting import commit
from .timing import Time, percentiles, seconds_per_call

REHEARSAL = "HSR_GPU_REHEARSAL"
# More than any L2 cache holds.
L2_BYTES = 256 << 20
SECONDS_PER_CALL = 0.15
MIN_SAMPLES, MAX_SAMPLES = 4, 100
# Why the device counts as lost in a rehearsal.
_rehearsed_loss = ""


def rehearsing() -> bool:
    """Whether a CPU stands in for the GPU."""
    return bool(os.environ.get(REHEARSAL))


def name() -> str:
    """The device that tensors are allocated on."""
    return "cpu" if rehearsing() else "cuda"


def backend(name: str) -> str:
    """The backend that runs where this one is meant."""
    return "reference" if rehearsing() else name


def why_no_cuda_backend() -> str:
    """The reason why the cuda backend is unavailable; empty if it is available, or if a CPU stands in."""
    return "" if rehearsing() else hsr_kernels.backends()["cuda"]


def machine() -> dict[str, str]:
    """Chip, driver and versions; empty where there is no device."""
    # Not before it is needed: CPUs are measured without it.
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
    """The GPU's, such as "sm_90" or, of AMD's, "gfx942"; None where there is none."""
    if rehearsing() or not torch.cuda.is_available():
        return None
    chip = _gpu.chip(None)
    return chip if _gpu.is_amd() else f"sm_{chip.replace('.', '')}"


def rehearse(item: str) -> None:
    """Lets an item fail in the way that HSR_GPU_REHEARSAL asks for."""
    global _rehearsed_loss
    for fault, _, text in (part.partition("=") for part in os.environ.get(REHEARSAL, "").split(";")):
        if text and text in item:
            if fault == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            elif fault == "hang":
                time.sleep(3600)
            elif fault == "lost":
                _rehearsed_loss = "CUDA error: an illegal memory access was encountered (rehearsed)"
            raise RuntimeError("rehearsed")


def loss() -> str:
    """The reason why the device answers this process no more, such as an illegal access; empty if it answers."""
    if rehearsing():
        return _rehearsed_loss
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").add_(1).item()
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return ""


def settle() -> None:
    """Waits for everything that was launched."""
    if not rehearsing():
        torch.cuda.synchronize()


def free() -> None:
    """Returns memory that isn't in use to the device."""
    if not rehearsing():
        torch.cuda.empty_cache()


def once(run: Callable[[], Any]) -> Time:
    """Times a single call, without a warm-up."""
    settle()
    start = time.perf_counter()
    run()
    settle()
    return Time(*[time.perf_counter() - start] * 3)


def timed(run: Callable[[], Any]) -> Time:
    """Times a call with device events, the L2 cache cold.

    Before each call, memory larger than the L2 cache is read: the cache then holds nothing that the call could use, and
    nothing that would have to be written back meanwhile.
    """
    if rehearsing():
        return once(run)
    evicting = torch.zeros(L2_BYTES // 4, dtype=torch.int32, device=name())
    # Compiles, and lets allocations settle.
    for _ in range(2):
        run()
    count = MIN_SAMPLES
    times: list[float] = []
    while len(times) < count:
        pairs = []
        for _ in range(min(count - len(times), MAX_SAMPLES)):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            evicting.sum()
            start.record()
            run()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize()
        times += [1e-3 * start.elapsed_time(end) for start, end in pairs]
        if len(times) == MIN_SAMPLES:
            wanted = int(SECONDS_PER_CALL / max(sum(times) / MIN_SAMPLES, 1e-6))
            count = max(MIN_SAMPLES, min(MAX_SAMPLES, wanted))
    return percentiles(times)


def batch(run: Callable[[], Any], calls: int) -> float:
    """Returns seconds per call of a number of calls in a row and of waiting for the last, by the host's clock."""
    return seconds_per_call(run, calls, settle, waits=True)


def captured(run: Callable[[], Any]) -> Callable[[], Any]:
    """Returns `run` as a CUDA graph; warmed up on a stream of its own, as capturing demands."""
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
        results = run()

    def replay() -> None:
        graph.replay()

    # Kept alive, as the graph writes to them.
    replay.results = results  # type: ignore[attr-defined]
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
