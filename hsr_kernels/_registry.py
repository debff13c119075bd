# SPDX-License-Identifier: Apache-2.0
"""Defines the native kernels as PyTorch operators, so that torch.compile and profilers see them.

The operators have no autograd of their own: the Functions in each folder's autograd.py stand outside and call them.
An operator is a contract that every backend keeps: `hsr_kernels::<name>` runs `<name>` of the folder's cpu_impl.py on
CPU tensors and of its triton_impl.py on CUDA tensors, both loaded when first called.
"""

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import torch

from . import _backends, _native

DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
NCHW, NHWC = 0, 1

_library = torch.library.Library("hsr_kernels", "DEF")
triton_operators: dict[str, "_Kernel"] = {}  # hsr_kernels::<name> -> its Triton implementation, for hsr_kernels.aot


class _Kernel:
    """A function of one of an operator folder's implementations, imported at its first call."""

    def __init__(self, package: str, module: str, name: str) -> None:
        self.where = f"{package}.{module}", name
        self.function: Callable[..., Any] | None = None

    def exists(self) -> bool:
        """Whether the operator's folder has this implementation."""
        return importlib.util.find_spec(self.where[0]) is not None

    def __call__(self, *args: Any) -> Any:
        if self.function is None:
            module, name = self.where
            self.function = getattr(importlib.import_module(module), name)
        return self.function(*args)


def define(schema: str, package: str, fake: Callable[..., Any]) -> Callable[..., Any]:
    """Defines operator `hsr_kernels::<schema>`, implemented by the folder `package`; returns it.

    Args:
        schema: Name, arguments and results, as torch.library takes them.
        package: The operator folder's `__package__`.
        fake: Results of the right shape, dtype and strides from arguments without data.
    """
    name = schema.split("(", 1)[0]
    cpu, triton = _Kernel(package, "cpu_impl", name), _Kernel(package, "triton_impl", name)
    triton_operators[f"hsr_kernels::{name}"] = triton
    _library.define(schema)
    _library.impl(name, _interpreted(triton, cpu) if _native.triton_interprets() else cpu, "CPU")
    _library.impl(name, triton, "CUDA")
    torch.library.register_fake(f"hsr_kernels::{name}", fake, lib=_library)
    return getattr(torch.ops.hsr_kernels, name).default


def _interpreted(triton: _Kernel, cpu: _Kernel) -> Callable[..., Any]:
    """Under TRITON_INTERPRET=1 the Triton kernels run on CPU tensors too, where that backend is asked for."""
    return lambda *args: (triton if _backends.requested() == "triton" else cpu)(*args)


def on_triton(x: torch.Tensor) -> bool:
    """Whether operators on `x` run as their Triton implementations."""
    return x.is_cuda or (_native.triton_interprets() and _backends.requested() == "triton")


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


def dense(x: torch.Tensor) -> torch.Tensor:
    """`x` without gaps or overlaps, in its own order of dimensions; copied only where it has some."""
    model = torch.empty_like(x, device="meta")
    return laid_out_like(x, model)


def walk(x: torch.Tensor, dim: int) -> tuple[int, int, int]:
    """The dense tensor `x` as [outer, channels, inner] in memory order, channels being dimension `dim`."""
    if x.ndim == 0 or x.numel() == 0:
        return (1, 1, 1) if x.numel() else (0, x.shape[dim] if x.ndim else 1, 1)
    channels = x.shape[dim]
    inner = math.prod(x.shape[dim + 1 :]) if channels == 1 or x.is_contiguous() else x.stride(dim)
    return x.numel() // (channels * inner), channels, inner


def address(tensor: torch.Tensor | None) -> int:
    """The address of a tensor's first element, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()
