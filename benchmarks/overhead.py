# SPDX-License-Identifier: Apache-2.0
"""What the host does for an eager call on the cuda backend before the GPU has anything to do, in microseconds.

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
from hsr_kernels import _native

from .memory import ROOT
from .roofline import is_ours, touches_data
from .timing import per_call

TARGET = 12.0  # µs of bias_act on a kilobyte
BIAS_ACT = "bias_act, 1x4x8x8"
HEADER = ("on", "call", "median, µs", "fewest, µs", "launches", "PyTorch's operations", "target")
_BATCH = 1e-3  # seconds of calls in a row: what else the machine runs interrupts some batches and not all,
_CALLS = 50  # and so many at most: too few to fill a device's queue, which takes about a thousand launches
_SECONDS = 8.0  # for all batches,
_FEWEST, _MOST = 20, 1000  # of so many rounds
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


@dataclass(frozen=True)
class Overhead:
    """The host's time for one call.

    Attributes:
        on: The GPU's name, or what stands for one.
        median, fewest: Microseconds, over batches of calls.
        launches: Of our kernels, where they are counted; None elsewhere.
        operations: Of PyTorch's that compute, the convolution apart.
        load: Of the machine when the measurement began: processes that want to run.
    """

    on: str
    call: str
    median: float
    fewest: float
    launches: int | None
    operations: int
    load: float

    @property
    def verdict(self) -> str:
        """Whether the target holds, where there is one; what else runs on the machine moves the median."""
        if self.call != BIAS_ACT:
            return ""
        fails = "does not hold" if self.fewest >= TARGET else "only the fewest"
        return f"< {TARGET:g} µs: {'holds' if self.median < TARGET else fails}"


class Operations(TorchDispatchMode):
    """Counts PyTorch's operators that compute, those inside of ours too; the convolution is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if is_ours(func.name()):
            tensor = next(a for a in args if isinstance(a, torch.Tensor))
            key = torch._C.DispatchKey.CUDA if tensor.is_cuda else torch._C.DispatchKey.CPU
            with self:  # what the implementation calls comes here again
                return func._op_dk(key, *args, **options)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE):
            with self:  # below autograd, operators such as `contiguous` arrive whole
                return func.decompose(*args, **options)
        if touches_data(func) and "conv" not in func.name():
            self.names.append(func.name())
        return func(*args, **options)


def calls(device: str) -> dict[str, Callable[[], torch.Tensor]]:
    """What is measured, by name: PyTorch's own beside ours. Few channels, as a CPU computes PyTorch's operations."""
    torch.manual_seed(0)
    x, b = torch.randn(1, 4, 8, 8, device=device), torch.randn(4, device=device)
    along = b.view(1, -1, 1, 1)
    found: dict[str, Callable[[], torch.Tensor]] = {
        "torch.empty_like, 1x4x8x8": lambda: torch.empty_like(x),
        "F.leaky_relu(x + b), 1x4x8x8": lambda: F.leaky_relu(x + along, 0.2),
        BIAS_ACT: lambda: hk.bias_act(x, b, act="lrelu"),
    }
    for side in (4, 16):
        found |= _of_side(side, device)
    return found


def _of_side(side: int, device: str) -> dict[str, Callable[[], torch.Tensor]]:
    taps = hk.setup_filter([1, 3, 3, 1], device=device)
    x = torch.randn(1, 8, side, side, device=device)
    last = x.contiguous(memory_format=torch.channels_last)
    w, s, b = torch.randn(8, 8, 3, 3, device=device), torch.randn(1, 8, device=device), torch.randn(8, device=device)
    w_last, noise = w.contiguous(memory_format=torch.channels_last), torch.randn(1, 1, side, side, device=device)

    def layer() -> torch.Tensor:
        return hk.modulated_conv2d(last, w, s, noise, padding=1, bias=b, act="lrelu", clamp=256.0)

    return {
        f"upsample2d, 1x8x{side}x{side}": lambda: hk.upsample2d(x, taps),
        f"F.conv2d alone, 1x8x{side}x{side}": lambda: F.conv2d(last, w_last, padding=1),
        f"styled layer, 1x8x{side}x{side}": layer,
    }


def measure(device: str, seconds: float = _SECONDS) -> list[Overhead]:
    """Times the calls on a device, in turns; on "cpu" with launches that are emulated and idle."""
    load = os.getloadavg()[0]
    cuda = _native.cuda()
    emulated = _native.cuda_is_emulated()
    settle = cuda.emulator_reset if emulated else torch.cuda.synchronize
    if emulated:
        torch.set_flush_denormal(True)  # kernels that don't run leave behind whatever was there, which is computed on
        cuda.emulator_idle(True)
    try:
        with torch.no_grad(), hk.use_backend("cuda"):
            todo = calls(device)
            counted = {name: _count(run, cuda if emulated else None) for name, run in todo.items()}
            times = _in_turns(todo, settle, seconds)
    finally:
        if emulated:
            cuda.emulator_idle(False)
            cuda.emulator_reset()
            torch.set_flush_denormal(False)
    on = "no device, idle launches" if emulated else torch.cuda.get_device_name()
    return [
        Overhead(on, name, 1e6 * median(times[name]), 1e6 * min(times[name]), *counted[name], load) for name in todo
    ]


def _count(run: Callable[[], torch.Tensor], emulator: Any) -> tuple[int | None, int]:
    """(launches of ours, PyTorch's operations) of a call that was made before."""
    run()
    if emulator is not None:
        emulator.emulator_reset()
    run()
    launches = None if emulator is None else len(emulator.emulator_launches())
    with Operations() as operations:
        run()
    return launches, len(operations.names)


def _in_turns(
    todo: Mapping[str, Callable[[], object]], settle: Callable[[], object], seconds: float
) -> dict[str, list[float]]:
    """Seconds per call of each, batch by batch."""
    usual = {name: min(per_call(run, 3, settle, wait=False) for _ in range(3)) for name, run in todo.items()}
    calls = {name: int(max(1, min(_CALLS, _BATCH / max(one, 1e-9)))) for name, one in usual.items()}
    times: dict[str, list[float]] = {name: [] for name in todo}
    ends = time.monotonic() + seconds
    for i in range(_MOST):
        if i >= _FEWEST and time.monotonic() > ends:
            break
        for name, run in todo.items():
            times[name].append(per_call(run, calls[name], settle, wait=False))
    return times


def in_process(device: str, emulated: Path | None) -> list[Overhead]:
    """Measures in a process of its own.

    Args:
        device: "cpu" or "cuda".
        emulated: The emulated extension, for "cpu".

    Raises:
        RuntimeError: The process failed; the message ends in what it said last.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "HSR_CUDA_EMULATED")}
    if emulated is not None:
        environment["HSR_CUDA_EMULATED"] = str(emulated)
    command = [sys.executable, "-m", "benchmarks.overhead", device]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[1:])} failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return [Overhead(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def line(one: Overhead) -> list[str]:
    """The cells under HEADER."""
    launches = "—" if one.launches is None else str(one.launches)
    times = f"{one.median:.1f}", f"{one.fewest:.1f}"
    return [one.on, one.call, *times, launches, str(one.operations), one.verdict]


def write_csv(path: Path, rows: Sequence[Overhead], setting: dict[str, str]) -> None:
    """One line per row, with the setting in columns of its own."""
    with path.open("w", newline="") as file:
        names = [field.name for field in fields(Overhead)]
        writer = csv.DictWriter(file, [*names, *setting], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) | setting for row in rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps([asdict(row) for row in measure(sys.argv[1])]))
