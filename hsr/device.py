# SPDX-License-Identifier: Apache-2.0
"""The choice of a device, and of the threads of a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import UserError


def resolve_device(name: str) -> torch.device:
    """Returns the device that `name` means: auto, cpu, cuda or cuda:<n>.

    Raises:
        UserError: This machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name} is none of auto, cpu, cuda and cuda:<n>.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"--device {name} does not exist: PyTorch finds {count} CUDA devices.")
    return device


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Has PyTorch compute its body on the CPU by `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
