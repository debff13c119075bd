# SPDX-License-Identifier: Apache-2.0
"""What Triton kernels of several operators and their launches share. It imports Triton, so only they import it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl

from . import _gpu

cdiv = triton.cdiv
# Half of what int32 counts, as tiles reach beyond the end of a tensor.
_MAX_INT32_ELEMENTS = 1 << 30


def on_device_of(tensor: torch.Tensor) -> AbstractContextManager:
    """Makes the tensor's device current, as a launch needs it; the device's current stream is the caller's."""
    return torch.cuda.device_of(tensor) if tensor.is_cuda else nullcontext()


def launch_options(
    tensor: torch.Tensor, threads: int, stages: int | None = None, max_registers: int | None = None
) -> dict[str, Any]:
    """Returns Triton's options of a launch on the device of `tensor`.

    Args:
        tensor: One that the kernel is given.
        threads: Threads of a program, whatever the number of warps that they are.
        stages: Of pipelined loads, where the kernel has loops with products.
        max_registers: Of a thread; only the assembler for NVIDIA's GPUs can be told.
    """
    gpu = _gpu.of(tensor)
    options = {"num_warps": threads // gpu.lanes}
    if stages is not None:
        options["num_stages"] = min(stages, gpu.max_stages)
    if max_registers is not None and gpu.family == _gpu.NVIDIA:
        options["maxnreg"] = max_registers
    return options


def fits_int32(elements: int) -> bool:
    """Whether offsets into so many elements fit in int32, those of tiles that reach beyond their end included."""
    return elements < _MAX_INT32_ELEMENTS


def power_of_2(n: int, minimum: int, maximum: int) -> int:
    """Returns the smallest power of 2 that isn't below n, limited to [minimum, maximum]."""
    return max(minimum, min(maximum, triton.next_power_of_2(max(n, 1))))


@triton.jit
def pick(table, i):
    """Returns table[i], for a tuple of pointers or of numbers, and an i that is known when the kernel runs."""
    value = table[0]
    for j in tl.static_range(1, len(table)):
        value = tl.where(i == j, table[j], value)
    return value
