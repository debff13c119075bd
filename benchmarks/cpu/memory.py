# SPDX-License-Identifier: Apache-2.0
"""Memory: what autograd keeps for backward, and how far a process grows while it runs a case.

`python -m benchmarks.cpu.memory CASE BACKEND full|tiny` prints the second figure in bytes.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import hsr_kernels

from ..setting import ROOT, use_all_cores
from ..variants import differentiate
from .cases import CASES


def saved_bytes(function: Callable[[], object], parameters: Sequence[torch.Tensor] = ()) -> int:
    """Bytes that autograd saves for backward while `function` runs.

    Every storage counts once, and all of it, as a saved view keeps all of it alive; those of `parameters` don't.
    """
    excluded = {t.untyped_storage().data_ptr() for t in parameters}
    # Holds the storages, so that no address comes back for another one.
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    total = sum(storage.nbytes() for storage in saved.values())
    del result
    return total


def peak_extra_bytes(case: str, backend: str, *, tiny: bool = False) -> int:
    """How far resident memory rises above the inputs while forward and backward run, in a process of its own.

    Resident memory counts everything: PyTorch's allocator, scratch space of oneDNN and MKL, native code.
    """
    command = [sys.executable, "-m", "benchmarks.cpu.memory", case, backend, "tiny" if tiny else "full"]
    # glibc gives a freed block back at once if it came from mmap, so residency follows what is alive.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return int(done.stdout.split()[-1])


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def growth_bytes(run: Callable[[], object]) -> int:
    """Bytes by which this process's resident memory peaks above its start while `run` runs.

    Linux only, and good to about a megabyte: the kernel batches its counts.
    """
    # Resets the high-water mark.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def main(name: str, backend: str, size: str) -> None:
    """Prints the growth of one case on one backend."""
    use_all_cores()
    case = next(case for case in CASES if case.name == name)
    with hsr_kernels.use_backend(backend):
        # Libraries load and threads start before the measurement.
        differentiate(case.workload(tiny=True))()
        run = differentiate(case.workload(tiny=size == "tiny"))
        print(growth_bytes(run))


if __name__ == "__main__":
    main(*sys.argv[1:])
