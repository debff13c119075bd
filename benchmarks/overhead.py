# SPDX-License-Identifier: Apache-2.0
"""What the host does for an eager call on the cuda backend, in microseconds; with gradients, for its backward too.

Without a device the extension is the emulated one of tests/emulator, with launches that are counted and not run: all
that Python, PyTorch and the bindings do is measured, but neither the driver's share of a launch nor a GPU. With a
device kernels are launched for real, and what is measured is how long the calls take to return. Each measurement has a
process of its own, as which extension is loaded is decided once: `python -m benchmarks.overhead cpu` prints its rows as
JSON.
"""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import hsr_kernels as hk
from hsr_kernels._dispatch import native

from .markdown import NOT_MEASURED
from .messages import last_line
from .roofline import is_fused, touches_data
from .setting import ROOT
from .timing import seconds_per_call

BIAS_ACT = "bias_act, 1x4x8x8"
CONVOLUTION, LAYER = "F.conv2d alone, 1x8x{0}x{0}", "styled layer, 1x8x{0}x{0}"
# What is appended to the name of a call whose gradients are computed too.
WITH_GRADIENTS = ", forward + backward"
SIDES = (4, 16)
# By call: microseconds beyond those of another call, or of nothing.
TARGETS: dict[str, tuple[float, str]] = {
    BIAS_ACT: (12.0, ""),
    BIAS_ACT + WITH_GRADIENTS: (40.0, ""),
    **{LAYER.format(side): (60.0, CONVOLUTION.format(side)) for side in SIDES},
    **{LAYER.format(side) + WITH_GRADIENTS: (250.0, "") for side in SIDES},
}
HEADER = ("on", "call", "median, µs", "min, µs", "launches", "PyTorch's operations", "target")
# What else the machine runs interrupts some batches of this length and not all.
SECONDS_PER_BATCH = 1e-3
# Too few to fill a device's queue, which takes about a thousand launches.
MAX_CALLS_PER_BATCH = 50
SECONDS_PER_MEASUREMENT = 8.0
MIN_ROUNDS, MAX_ROUNDS = 20, 1000
Call = Callable[[], object]
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


@dataclass(frozen=True)
class Overhead:
    """The host's time for one call.

    Attributes:
        device: The GPU's name, or what stands for one.
        call: What was called.
        median_us, min_us: Microseconds, over batches of calls.
        launches: Of the library's kernels, where they are counted; None elsewhere.
        operations: PyTorch's operations that compute, except for the convolution.
        load: Of the machine when the measurement began: processes that want to run.
        target_us: What the median is to stay below, where something is.
    """

    device: str
    call: str
    median_us: float
    min_us: float
    launches: int | None
    operations: int
    load: float
    target_us: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the target is met, where there is one; what else runs on the machine moves the median."""
        if self.target_us is None:
            return ""
        missed = "missed" if self.min_us >= self.target_us else "met by the minimum only"
        return f"< {self.target_us:.3g} µs: {'met' if self.median_us < self.target_us else missed}"


class Operations(TorchDispatchMode):
    """Counts PyTorch's operators that compute, within the library's too; the convolution is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if is_fused(func.name()):
            tensor = next(a for a in args if isinstance(a, torch.Tensor))
            key = torch._C.DispatchKey.CUDA if tensor.is_cuda else torch._C.DispatchKey.CPU
            # What the implementation calls comes here again.
            with self:
                return func._op_dk(key, *args, **options)
        # Below autograd, composite operators such as `contiguous` arrive undivided.
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE):
            with self:
                return func.decompose(*args, **options)
        if touches_data(func) and "conv" not in func.name():
            self.names.append(func.name())
        return func(*args, **options)


def _with_gradients(function: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> Call:
    """Returns a call of the function that computes the gradients of all of its tensors too."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    dy = torch.ones_like(function(*tensors))

    def run() -> tuple[torch.Tensor, ...]:
        with torch.enable_grad():
            return torch.autograd.grad(function(*leaves), leaves, dy)

    return run


def calls(device: str) -> dict[str, Call]:
    """Returns what is measured, by name: the library's calls and PyTorch's.

    Images have few channels, as a CPU computes PyTorch's operations.
    """
    torch.manual_seed(0)
    x, b = torch.randn(1, 4, 8, 8, device=device), torch.randn(4, device=device)
    channels = b.view(1, -1, 1, 1)

    def activate(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return hk.bias_act(x, b, act="lrelu")

    found: dict[str, Call] = {
        "torch.empty_like, 1x4x8x8": lambda: torch.empty_like(x),
        "F.leaky_relu(x + b), 1x4x8x8": lambda: F.leaky_relu(x + channels, 0.2),
        BIAS_ACT: lambda: activate(x, b),
        BIAS_ACT + WITH_GRADIENTS: _with_gradients(activate, x, b),
    }
    for side in SIDES:
        found |= _calls_on_images(side, device)
    return found


def _calls_on_images(side: int, device: str) -> dict[str, Call]:
    taps = hk.setup_filter([1, 3, 3, 1], device=device)
    x = torch.randn(1, 8, side, side, device=device)
    images = x.contiguous(memory_format=torch.channels_last)
    w, s, b = torch.randn(8, 8, 3, 3, device=device), torch.randn(1, 8, device=device), torch.randn(8, device=device)
    weight, noise = w.contiguous(memory_format=torch.channels_last), torch.randn(1, 1, side, side, device=device)

    def convolve(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.conv2d(images, weight, padding=1)

    def layer(images: torch.Tensor, w: torch.Tensor, s: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return hk.modulated_conv2d(images, w, s, noise, padding=1, bias=b, act="lrelu", clamp=256.0)

    convolution_name, layer_name = CONVOLUTION.format(side), LAYER.format(side)
    return {
        f"upsample2d, 1x8x{side}x{side}": lambda: hk.upsample2d(x, taps),
        convolution_name: lambda: convolve(images, weight),
        convolution_name + WITH_GRADIENTS: _with_gradients(convolve, images, weight),
        layer_name: lambda: layer(images, w, s, b),
        layer_name + WITH_GRADIENTS: _with_gradients(layer, images, w, s, b),
    }


def measure_calls(device: str, seconds: float = SECONDS_PER_MEASUREMENT) -> list[Overhead]:
    """Times the calls on a device, in turns; on "cpu" with launches that are emulated and idle."""
    load = os.getloadavg()[0]
    cuda = native.cuda()
    emulated = native.cuda_is_emulated()
    settle = cuda.emulator_reset if emulated else torch.cuda.synchronize
    if emulated:
        # Kernels that don't run leave behind whatever was in memory, and PyTorch computes on it.
        torch.set_flush_denormal(True)
        cuda.emulator_idle(True)
    try:
        with torch.no_grad(), hk.use_backend("cuda"):
            runs = calls(device)
            counts = {name: _count(run, cuda if emulated else None) for name, run in runs.items()}
            times = _interleave(runs, settle, seconds)
    finally:
        if emulated:
            cuda.emulator_idle(False)
            cuda.emulator_reset()
            torch.set_flush_denormal(False)
    name = "no device, idle launches" if emulated else torch.cuda.get_device_name()
    medians = {call: 1e6 * median(times[call]) for call in runs}
    targets = {call: beyond + medians.get(other, 0.0) for call, (beyond, other) in TARGETS.items()}
    return [
        Overhead(name, call, medians[call], 1e6 * min(times[call]), *counts[call], load, targets.get(call))
        for call in runs
    ]


def _count(run: Call, emulator: Any) -> tuple[int | None, int]:
    """Returns (the library's launches, PyTorch's operations) of a call that was made before."""
    run()
    if emulator is not None:
        emulator.emulator_reset()
    run()
    launches = None if emulator is None else len(emulator.emulator_launches())
    with Operations() as operations:
        run()
    return launches, len(operations.names)


def _interleave(runs: Mapping[str, Call], settle: Callable[[], object], seconds: float) -> dict[str, list[float]]:
    """Returns seconds per call of each, batch by batch."""

    def batch(run: Call, count: int) -> float:
        return seconds_per_call(run, count, settle, waits=False)

    estimates = {name: min(batch(run, 3) for _ in range(3)) for name, run in runs.items()}
    counts = {
        name: int(max(1, min(MAX_CALLS_PER_BATCH, SECONDS_PER_BATCH / max(estimate, 1e-9))))
        for name, estimate in estimates.items()
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.monotonic() + seconds
    for i in range(MAX_ROUNDS):
        if i >= MIN_ROUNDS and time.monotonic() > end:
            break
        for name, run in runs.items():
            times[name].append(batch(run, counts[name]))
    return times


def build_emulated() -> Path:
    """Builds the extension that the tests emulate, in a process of its own; returns its file.

    Raises:
        RuntimeError: It can't be built; the message says why.
    """
    script = "from tests.emulator.build import build; print(build('_cuda_emulated'))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the emulated extension can't be built: {last_line(done.stderr)}")
    return Path(last_line(done.stdout))


def measure_in_process(device: str, emulated: Path | None) -> list[Overhead]:
    """Measures in a process of its own.

    Args:
        device: "cpu" or "cuda".
        emulated: The emulated extension, for "cpu".

    Raises:
        RuntimeError: The process failed; the message ends in its last line.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", native.EMULATED)}
    if emulated is not None:
        environment[native.EMULATED] = str(emulated)
    command = [sys.executable, "-m", "benchmarks.overhead", device]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[1:])} failed: {last_line(done.stderr)}")
    return [Overhead(**row) for row in json.loads(last_line(done.stdout))]


def cells(row: Overhead) -> list[str]:
    """The cells under HEADER."""
    launches = NOT_MEASURED if row.launches is None else str(row.launches)
    times = f"{row.median_us:.1f}", f"{row.min_us:.1f}"
    return [row.device, row.call, *times, launches, str(row.operations), row.verdict]


def write_csv(path: Path, rows: Sequence[Overhead], setting: dict[str, str]) -> None:
    """Writes one line per row, with the setting in columns of its own."""
    with path.open("w", newline="") as file:
        names = [field.name for field in fields(Overhead)]
        writer = csv.DictWriter(file, [*names, *setting], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) | setting for row in rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps([asdict(row) for row in measure_calls(sys.argv[1])]))
