# SPDX-License-Identifier: Apache-2.0
"""Memory: what autograd keeps for backward, and how far a process grows while it runs a case.

`python -m benchmarks.memory CASE BACKEND full|tiny` prints the second figure in bytes.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def saved_bytes(function: Callable[[], object], parameters: Sequence[torch.Tensor] = ()) -> int:
    """Bytes that autograd saves for backward while `function` runs.

    Every storage counts once, and whole, as a saved view keeps all of it alive; those of `parameters` don't.
    """
    own = {t.untyped_storage().data_ptr() for t in parameters}
    kept: dict[int, torch.UntypedStorage] = {}  # holds the storages, so that no address comes back for another

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    total = sum(storage.nbytes() for storage in kept.values())
    del result
    return total


def peak_extra_bytes(case: str, backend: str, *, tiny: bool = False) -> int:
    """How far resident memory rises above the inputs while forward and backward run, in a process of its own.

    Resident memory counts everything: PyTorch's allocator, scratch space of oneDNN and MKL, native code.
    """
    command = [sys.executable, "-m", "benchmarks.memory", case, backend, "tiny" if tiny else "full"]
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


def growth(run: Callable[[], object]) -> int:
    """Bytes by which this process's resident memory peaks above its start while `run` runs.

    Linux only, and good to about a megabyte: the kernel batches its counts.
    """
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def main(name: str, backend: str, size: str) -> None:
    """Prints the growth of one case on one backend."""
    import hsr_kernels

    from .cases import CASES
    from .run import differentiate, use_all_cores

    use_all_cores()
    case = next(case for case in CASES if case.name == name)
    with hsr_kernels.use_backend(backend):
        differentiate(case.workload(tiny=True))()  # libraries load and threads start before the measurement
        run = differentiate(case.workload(tiny=size == "tiny"))
        print(growth(run))


if __name__ == "__main__":
    main(*sys.argv[1:])
