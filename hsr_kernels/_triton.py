# SPDX-License-Identifier: Apache-2.0
"""What the Triton implementations share; imported only by them, since it imports Triton."""

from contextlib import AbstractContextManager, nullcontext

import torch
import triton

cdiv = triton.cdiv
_INT32_LIMIT = 1 << 30


def on_device_of(tensor: torch.Tensor) -> AbstractContextManager:
    """Makes the tensor's device current, as a launch needs it; its current stream is the caller's."""
    return torch.cuda.device_of(tensor) if tensor.is_cuda else nullcontext()


def fits_int32(elements: int) -> bool:
    """Whether offsets into so many elements, those of tiles beyond their end too, fit in int32."""
    return elements < _INT32_LIMIT


def power_of_2(n: int, least: int, most: int) -> int:
    """The smallest power of 2 that isn't below n, within [least, most]."""
    return max(least, min(most, triton.next_power_of_2(max(n, 1))))
