# SPDX-License-Identifier: Apache-2.0
"""Defines the native kernels as PyTorch operators, so that torch.compile and profilers see them.

The operators have no autograd of their own: the Functions in each folder's autograd.py stand outside and call them.
"""

from collections.abc import Callable
from typing import Any

import torch

DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
NCHW, NHWC = 0, 1

_library = torch.library.Library("hsr_kernels", "DEF")


def define(schema: str, *, cpu: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Defines operator `hsr_kernels::<schema>` with its CPU kernel and its shape function; returns it."""
    name = schema.split("(", 1)[0]
    _library.define(schema)
    _library.impl(name, cpu, "CPU")
    torch.library.register_fake(f"hsr_kernels::{name}", fake, lib=_library)
    return getattr(torch.ops.hsr_kernels, name).default


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that a dtype is accumulated in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether images [N, C, H, W] are to be treated as channels_last: their channels lie next to each other."""
    return x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous()


def image_format(x: torch.Tensor) -> torch.memory_format:
    """The memory format that outputs computed from `x` have."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def dense_image(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """`x` without gaps, copied only where it has some, and its layout code."""
    last = is_channels_last(x)
    x = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    return x, NHWC if last else NCHW


def laid_out_like(x: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """`x` with the strides of the dense tensor `model`, copied only where they differ."""
    if x.stride() == model.stride():
        return x
    return torch.empty_strided(model.shape, model.stride(), dtype=x.dtype, device=x.device).copy_(x)


def address(tensor: torch.Tensor | None) -> int:
    """The address of a tensor's first element, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()
