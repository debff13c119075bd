# SPDX-License-Identifier: Apache-2.0
"""The precision of metrics: float32 throughout, whatever training computes in."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from hsr_kernels._precision import exact_float32

from ..models import Generator


@contextmanager
def exact_metrics(device: torch.device) -> Iterator[None]:
    """Computes float32 on `device` without TF32 and autocast within its body."""
    with exact_float32(), torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def exact_generator(G: Generator, device: torch.device) -> Iterator[Generator]:
    """Yields a generator whose every block computes in float32, within `exact_metrics`.

    It is G itself, its low-precision blocks switched over meanwhile, or a copy if its weights have 16 bits.
    """
    modules = list(G.modules()) if isinstance(G, nn.Module) else []
    if any(weight.dtype in (torch.float16, torch.bfloat16) for m in modules for weight in m.parameters(recurse=False)):
        G = copy.deepcopy(G).float()
        modules = list(G.modules())
    switched = [module for module in modules if getattr(module, "low_precision", False)]
    for module in switched:
        module.low_precision = False  # type: ignore[assignment]
    try:
        with exact_metrics(device):
            yield G
    finally:
        for module in switched:
            module.low_precision = True  # type: ignore[assignment]
