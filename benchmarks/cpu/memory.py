# SPDX-License-Identifier: Apache-2.0
"""Memory: what autograd keeps for backward, and how far a process grows while it runs a call."""

import ctypes
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

# Of glibc's mallopt, and the smallest block that it then takes from and gives back to the system.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_BLOCK_BYTES = 1 << 16


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


class _HeapInfo(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def can_give_freed_memory_back() -> bool:
    """Whether the C library is glibc 2.33 or newer."""
    return hasattr(ctypes.CDLL(None), "mallinfo2")


def give_freed_memory_back() -> None:
    """Lets this process's resident memory be what is alive, from now on: freed blocks return to the system at once.

    That makes allocating slower and loses what is free in the heap, so nothing is timed after it.
    """
    libc = ctypes.CDLL(None)
    for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
        libc.mallopt(option, _BLOCK_BYTES)
    libc.malloc_trim(0)
    _take_free_blocks(libc)


def _take_free_blocks(libc: ctypes.CDLL) -> None:
    """Takes the heap's free blocks out of use, untouched: a call that got one would leave it resident for the next."""
    libc.mallinfo2.restype = _HeapInfo
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    size = 1 << 30
    while size >= _BLOCK_BYTES:
        mapped = libc.mallinfo2().hblks
        block = libc.malloc(size)
        # No free block is this large: the system was asked for memory.
        if block is None or libc.mallinfo2().hblks > mapped:
            libc.free(block)
            size //= 2


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def growth_bytes(run: Callable[[], object]) -> int:
    """Bytes by which this process's resident memory peaks above its start while `run` runs.

    Resident memory counts everything: PyTorch's allocator, scratch space of oneDNN and MKL, native code; what these
    keep from call to call is there before. Linux only, and good to about a megabyte: the kernel batches its counts.
    """
    # Resets the high-water mark.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    result = run()
    peak = _status("VmHWM")
    del result
    return max(0, peak - before)
